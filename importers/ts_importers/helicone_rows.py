"""Helicone requests as `Run`s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_importers.base import Skipped
from ts_importers.bodies import answer_of, mapping, messages_of, params_of, text
from ts_importers.values import MAX_USD, number, timestamp, usage_metadata
from ts_langchain.call import SourceCost
from ts_langchain.capture.answers import read_embedding_usage, read_usage
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROVIDERS = {"AZURE": "azure", "AWS": "amazon_bedrock", "BEDROCK": "amazon_bedrock", "GOOGLE": "google_genai"}
SESSION = "Helicone-Session-Id"
NODE = "Helicone-Session-Path"
# what stands where a body lies elsewhere
_ELSEWHERE = "helicone_message"
# what a row has once it is answered
_END = ("response_created_at", "response_status", "delay_ms", "completion_tokens")
_NO_REFERENCE = "00000000-0000-0000-0000-000000000000"


def run_from_request(row: Mapping[str, Any]) -> Run | Skipped:
    """Reads one row of Helicone's request query, its bodies filled in.

    Args:
        row: The row; `request_body` and `response_body` as they were sent.

    Returns:
        The run, or why it cannot be read.
    """
    run_id = row.get("request_id")
    where = run_id if isinstance(run_id, str) and run_id else "a row without request_id"
    if where is not run_id:
        return Skipped(where, "no request_id")
    started = timestamp(row.get("request_created_at"))
    if started is None:
        return Skipped(where, "no request_created_at")
    request, response = mapping(_body(row, "request_body")), answer_of(_body(row, "response_body"))
    ended = timestamp(row.get("response_created_at"))
    if ended is None and not response and all(row.get(name) is None for name in _END):
        return Skipped(where, "still running")
    if ended is None:
        delay = number(row.get("delay_ms"), 86_400_000)
        ended = started + (delay or 0.0) / 1000
    status = _status(row.get("response_status"))
    failed = status is not None and (status >= 400 or status < 0)
    properties = {**mapping(row.get("request_properties")), **mapping(row.get("properties"))}
    session = text(properties.get(SESSION))
    provider = str(row.get("provider") or "").upper()
    names = ("response_model", "request_model", "model_override", "model")
    model = next((m for m in (*(row.get(n) for n in names), request.get("model")) if text(m)), None)
    metadata: dict[str, Any] = {}
    if model is not None:
        metadata["ls_model_name"] = model
    if provider:
        metadata["ls_provider"] = _PROVIDERS.get(provider, provider.lower())
    if user := text(row.get("request_user_id") or row.get("user_id")):
        metadata["user_id"] = user
    if node := text(properties.get(NODE)):
        metadata["langgraph_node"] = node
    embeds = "/embeddings" in str(row.get("request_path") or "")
    told = mapping(response.get("usage"))
    own = read_embedding_usage(told) if embeds else read_usage(told)
    return Run(
        where,
        "embedding" if embeds else "llm",
        model or "request",
        started,
        max(started, ended),
        session or where,
        thread_id=session,
        inputs={"input": request.get("input")} if embeds else {"messages": messages_of(request)},
        outputs=response if response and not failed else None,
        error=f"HTTP {status}" if failed else None,
        metadata=metadata,
        invocation_params=params_of(request),
        usage=_usage(row, provider) if own is None else told,
        cost=_cost(row),
        cached=bool(text(row.get("cache_reference_id"))) and row["cache_reference_id"] != _NO_REFERENCE,
    )


def _body(row: Mapping[str, Any], name: str) -> object:
    """A body, None where Helicone only says that it lies elsewhere: it is not what was asked or answered."""
    body = row.get(name)
    return None if mapping(body).keys() == {_ELSEWHERE} else body


def _status(value: object) -> int | None:
    """An HTTP status; Helicone's own are below zero. Databases write numbers as text."""
    try:
        return int(value) if isinstance(value, int | str) else None
    except ValueError:
        return None


def _usage(row: Mapping[str, Any], provider: str) -> dict[str, Any] | None:
    """What Helicone counted, for want of the provider's own figures in the response.

    Since the autumn of 2025 it counts cached input and reasoning apart from the rest; the total tells.
    """

    def count(name: str) -> int:
        return int(number(row.get(name), 1_000_000_000) or 0)

    sent, got = count("prompt_tokens"), count("completion_tokens")
    read, written = count("prompt_cache_read_tokens"), count("prompt_cache_write_tokens")
    reasoning = count("reasoning_tokens")
    apart = bool(reasoning) and (reasoning > got or count("total_tokens") == sent + got + reasoning)
    if apart:
        got += reasoning
    if apart or provider == "ANTHROPIC" or read + written > sent:  # Anthropic's was counted apart before, too
        sent += read + written
    return usage_metadata(sent, got, read, written, reasoning)


def _cost(row: Mapping[str, Any]) -> SourceCost | None:
    for name in ("cost", "cost_usd", "costUSD"):
        cost = number(row.get(name), MAX_USD)
        if cost:
            return SourceCost(total_usd=cost)
    return None
