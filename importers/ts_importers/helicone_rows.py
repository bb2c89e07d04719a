"""Helicone requests as `Run`s: OpenAI's, Anthropic's and the gateway's bodies, streamed ones put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ts_importers.base import Skipped
from ts_importers.values import MAX_USD, number, timestamp
from ts_langchain.call import SourceCost
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROVIDERS = {"AZURE": "azure", "AWS": "amazon_bedrock", "BEDROCK": "amazon_bedrock", "GOOGLE": "google_genai"}
SESSION = "Helicone-Session-Id"
NODE = "Helicone-Session-Path"


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
    request, response = _dict(row.get("request_body")), _response(row.get("response_body"))
    ended = timestamp(row.get("response_created_at"))
    if ended is None:
        delay = number(row.get("delay_ms"), 86_400_000)
        ended = started + (delay or 0.0) / 1000
    status = row.get("response_status")
    failed = isinstance(status, int) and (status >= 400 or status < 0)
    properties = {**_dict(row.get("request_properties")), **_dict(row.get("properties"))}
    session = _text(properties.get(SESSION))
    provider = str(row.get("provider") or "").upper()
    names = ("response_model", "request_model", "model_override", "model")
    model = next((m for m in (*(row.get(n) for n in names), request.get("model")) if _text(m)), None)
    metadata: dict[str, Any] = {}
    if model is not None:
        metadata["ls_model_name"] = model
    if provider:
        metadata["ls_provider"] = _PROVIDERS.get(provider, provider.lower())
    if user := _text(row.get("request_user_id") or row.get("user_id")):
        metadata["user_id"] = user
    if node := _text(properties.get(NODE)):
        metadata["langgraph_node"] = node
    messages = request.get("messages", request.get("input", request.get("prompt")))
    if request.get("system"):
        messages = [{"role": "system", "content": request["system"]}, *(messages if isinstance(messages, list) else [])]
    embeds = "/embeddings" in str(row.get("request_path") or "")
    return Run(
        where,
        "embedding" if embeds else "llm",
        model or "request",
        started,
        max(started, ended),
        session or where,
        thread_id=session,
        inputs={"input": request.get("input")} if embeds else {"messages": messages},
        outputs=response if response and not failed else None,
        error=f"HTTP {status}" if failed else None,
        metadata=metadata,
        invocation_params={k: v for k, v in request.items() if k not in ("messages", "input", "prompt", "system")},
        usage=_usage(row, provider),
        cost=_cost(row),
    )


def _dict(value: object) -> dict[str, Any]:
    if isinstance(value, str) and value[:1] == "{":
        try:
            value = orjson.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _usage(row: Mapping[str, Any], provider: str) -> dict[str, Any] | None:
    def count(name: str) -> int:
        return int(number(row.get(name), 1_000_000_000) or 0)

    sent, got = count("prompt_tokens"), count("completion_tokens")
    read, written = count("prompt_cache_read_tokens"), count("prompt_cache_write_tokens")
    if provider == "ANTHROPIC" or read + written > sent:  # Anthropic counts cached input apart
        sent += read + written
    if not sent and not got:
        return None
    return {
        "input_tokens": sent,
        "output_tokens": got,
        "total_tokens": sent + got,
        "input_token_details": {"cache_read": read, "cache_creation": written},
        "output_token_details": {"reasoning": count("reasoning_tokens")},
    }


def _cost(row: Mapping[str, Any]) -> SourceCost | None:
    for name in ("cost", "cost_usd", "costUSD"):
        cost = number(row.get(name), MAX_USD)
        if cost:
            return SourceCost(total_usd=cost)
    return None


# --- streamed answers ------------------------------------------------------------------------------


def _response(body: object) -> dict[str, Any]:
    """The answer, put together from its pieces where it was streamed."""
    if isinstance(body, str) and "data:" in body[:2000]:
        return assembled(_events(body))
    found = _dict(body)
    pieces = found.get("streamed_data")
    if isinstance(pieces, str):
        pieces = _events(pieces)
    if isinstance(pieces, list):
        return assembled([p for p in pieces if isinstance(p, dict)])
    return found


def _events(text: str) -> list[dict[str, Any]]:
    events = []
    for line in text.splitlines():
        if line.startswith("data:"):
            event = _dict(line[5:].strip())
            if event:
                events.append(event)
    return events


def assembled(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer from OpenAI's chunks or Anthropic's events, in OpenAI's shape."""
    texts: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    reason = None
    for piece in pieces:
        choices = piece.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        delta = _dict(choice.get("delta"))
        if _text(delta.get("content")):
            texts.append(delta["content"])
        for part in delta.get("tool_calls") or ():
            if isinstance(part, dict):
                function = _dict(part.get("function"))
                call = calls.setdefault(_index(part), {"id": "", "name": "", "arguments": ""})
                call["id"] += str(part.get("id") or "")
                call["name"] += str(function.get("name") or "")
                call["arguments"] += str(function.get("arguments") or "")
        reason = choice.get("finish_reason") or reason
        kind = piece.get("type")
        if kind == "content_block_start" and _dict(piece.get("content_block")).get("type") == "tool_use":
            block = piece["content_block"]
            calls[_index(piece)] = {"id": str(block.get("id")), "name": str(block.get("name")), "arguments": ""}
        elif kind == "content_block_delta":
            change = _dict(piece.get("delta"))
            if _text(change.get("text")):
                texts.append(change["text"])
            if _index(piece) in calls:
                calls[_index(piece)]["arguments"] += str(change.get("partial_json") or "")
        elif kind == "message_delta":
            reason = _dict(piece.get("delta")).get("stop_reason") or reason
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if calls:
        message["tool_calls"] = [
            {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for _, c in sorted(calls.items())
        ]
    return {"choices": [{"message": message, "finish_reason": reason}]}


def _index(part: Mapping[str, Any]) -> int:
    index = part.get("index")
    return index if type(index) is int else 0
