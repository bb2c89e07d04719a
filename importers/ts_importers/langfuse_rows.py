"""Langfuse observations, of the v2 endpoint and of the older one, as `Run`s."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from ts_importers.base import Skipped, failed_chain
from ts_importers.bodies import answer_of, messages_of
from ts_importers.values import MAX_USD, number, parsed, query_of, timestamp, usage_metadata
from ts_langchain.call import SourceCost
from ts_langchain.capture.answers import MAX_TOKENS
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.replay import RunType

_CALLS = {"GENERATION": "llm", "EMBEDDING": "embedding", "TOOL": "tool", "RETRIEVER": "retriever"}
# parts of the input and the output that Langfuse counts apart, under the names that its SDKs and its server use
_CACHE_READ = (
    "input_cache_read", "input_cached_tokens", "cache_read_input_tokens", "input_cached",
    "input_flex_cache_read", "input_priority_cache_read",
)  # fmt: skip
_CACHE_WRITE = (
    "input_cache_creation", "cache_creation_input_tokens", "input_cache_write", "input_cache_creation_5m",
    "input_cache_creation_1h", "input_flex_cache_creation", "input_priority_cache_creation",
)  # fmt: skip
_MINUTES = (
    "cache_creation_ephemeral_5m_input_tokens", "input_ephemeral_5m_input_tokens", "ephemeral_5m_input_tokens",
)  # fmt: skip
_HOUR = (
    "input_cache_creation_1h",
    "cache_creation_ephemeral_1h_input_tokens",
    "input_ephemeral_1h_input_tokens",
    "ephemeral_1h_input_tokens",
)
_REASONING = (
    "output_reasoning", "output_reasoning_tokens", "output_flex_reasoning", "output_priority_reasoning",
    "thoughts_token_count",
)  # fmt: skip
# Vertex AI's, by what they stand for: `input_modality_TEXT`, and what its cache held of them
_CACHED_MODALITY = "cached_modality_"
_AUDIO = ("audio", "audio_tokens", "modality_AUDIO")
# until the autumn of 2025 what spans count apart kept its name, and was left within the whole
_READ_WITHIN = (
    "prompt_details.cache_read", "cache_read.input_tokens", "cache_read_tokens", "details.cache_read_tokens",
    "details.cache_read_input_tokens", "cached_content_token_count",
)  # fmt: skip
_WRITTEN_WITHIN = (
    "prompt_details.cache_write", "cache_creation.input_tokens", "cache_write_tokens", "details.cache_write_tokens",
    "details.cache_creation_input_tokens",
)  # fmt: skip
_REASONING_WITHIN = ("completion_details.reasoning", "reasoning.output_tokens", "reasoning_tokens")
_ITEMS = ("message", "function_call", "reasoning")
_HANDOFF = "Command(graph="  # so LangGraph leaves a graph for the one around it, and older handlers say it failed
_NAMED = re.compile(r"(?:\w+\.)*[A-Z]\w*(?:Error|Exception)\b")
# our own veto, of which there is no name
_VETO = re.compile(r" The next model call of session '.*' was not sent\. What to do: | Nothing was sent\.(?: |\Z)")
_INTERRUPT = "(Interrupt(value="  # what the LangChain handler says of a tool that waits for a human; no failure to it
OBSERVATIONS = "observations_v2"
"""The folder of an export to an object store that holds observations, with what is known of their traces."""
OLDER_OBSERVATIONS, TRACES = "observations", "traces"
"""Folders of older ones: the same, and what is known of their traces apart."""
BESIDE_OBSERVATIONS = (OLDER_OBSERVATIONS, TRACES, "scores", "manifests")
# such exports name fields as the database does
_EXPORTED = {
    "trace_id": "traceId", "start_time": "startTime", "end_time": "endTime",
    "parent_observation_id": "parentObservationId", "status_message": "statusMessage", "session_id": "sessionId",
    "user_id": "userId", "provided_model_name": "providedModelName", "model_parameters": "modelParameters",
    "usage_details": "usageDetails", "cost_details": "costDetails", "total_cost": "totalCost",
    "tool_definitions": "toolDefinitions", "prompt_name": "promptName", "prompt_version": "promptVersion",
}  # fmt: skip
# what is kept beside the observation's own metadata
_KEPT = {"promptName": "prompt_name", "promptVersion": "prompt_version", "environment": "environment"}


def from_export(row: Mapping[str, Any]) -> dict[str, Any]:
    """An observation of a blob storage export, by the names that the API uses."""
    return {_EXPORTED.get(name, name): value for name, value in row.items()}


def run_from_observation(row: Mapping[str, Any], trace: Mapping[str, Any] | None = None) -> Run | Skipped | None:
    """Reads one observation.

    Args:
        row: The observation; inputs and outputs may be raw JSON strings.
        trace: The older endpoints keep session, user and tags there.

    Returns:
        The run; None for observations that are no calls (spans, events, chains, agents, ...), but for those that
        failed; or why it cannot be read.
    """
    kind = row.get("type")
    run_id = row.get("id")
    where = run_id if isinstance(run_id, str) and run_id else "a row without id"
    if not isinstance(kind, str):
        return Skipped(where, "no type")
    run_type = _CALLS.get(kind.upper())
    if run_type is None:
        return _failed_chain(row) if str(row.get("level")).upper() == "ERROR" else None
    if where is not run_id:
        return Skipped(where, "no id")
    started = timestamp(row.get("startTime"))
    if started is None:
        return Skipped(where, "no startTime")
    failed = str(row.get("level")).upper() == "ERROR"
    given, made = parsed(row.get("input")), parsed(row.get("output"))
    ended = timestamp(row.get("endTime"))
    if made == "" and (failed or ended is None):
        made = None  # its newer tables write what is not there as an empty text
    if ended is None:
        if not failed and made is None:
            return Skipped(where, "still running")
        ended = started
    trace = trace or {}
    metadata = _plain(row.get("metadata"))
    user = row.get("userId") or trace.get("userId")
    if isinstance(user, str) and user:
        metadata = {"user_id": user, **metadata}
    metadata = {name: row[key] for key, name in _KEPT.items() if row.get(key) not in (None, "")} | metadata
    model = row.get("model") or row.get("providedModelName")
    if isinstance(model, str) and model:
        metadata = {**metadata, "ls_model_name": model}
    session = row.get("sessionId") or trace.get("sessionId")
    tags = row.get("tags") or trace.get("tags")
    params = _plain(row.get("modelParameters"))
    inputs, tools = _inputs(run_type, given)
    if run_type == "llm" and not tools:
        tools = [{"name": n, **_plain(d)} for n, d in _plain(row.get("toolDefinitions")).items()]
    if tools:
        params = {**params, "tools": tools}
    status = row.get("statusMessage")
    # what is cancelled or left raises without a message
    unsaid = "CancelledError()" if status == "" and run_type == "llm" else "Error"
    status = status if isinstance(status, str) and status else None
    error = (status or unsaid) if failed else None
    if made is None and status is not None and status.startswith(_INTERRUPT):
        error = "GraphInterrupt()"
    return Run(
        run_id,
        cast("RunType", run_type),
        name if isinstance(name := row.get("name"), str) and name else run_type,
        started,
        max(started, ended),
        trace_id if isinstance(trace_id := row.get("traceId"), str) and trace_id else run_id,
        parent if isinstance(parent := row.get("parentObservationId"), str) and parent else None,
        session if isinstance(session, str) and session else None,
        inputs,
        _outputs(run_type, made, row) if made is not None or (error is None and run_type == "llm") else None,
        error,
        tuple(t for t in tags if isinstance(t, str)) if isinstance(tags, list) else (),
        metadata,
        params,
        _usage(row),
        _cost(row),
        _tool_call_id(made) if run_type == "tool" else None,
    )


def _failed_chain(row: Mapping[str, Any]) -> Run | None:
    """A chain that failed, of which that is all that matters."""
    status = row.get("statusMessage")
    # what is cancelled raises without a message
    error = "CancelledError()" if status == "" else status if isinstance(status, str) else "Error"
    if error.startswith(_HANDOFF):
        error = "ParentCommand()"
    elif _VETO.search(error):
        error = "WasteBlocked()"
    elif error.startswith(_INTERRUPT):
        error = "GraphInterrupt()"
    elif not error.startswith("CancelledError()") and not _NAMED.match(error):
        error = "Error"  # the first word of a message is nobody's name
    started, ended = timestamp(row.get("startTime")), timestamp(row.get("endTime"))
    return failed_chain(row.get("id"), row.get("name"), started, ended, row.get("traceId"), error)


def _plain(value: object) -> dict[str, Any]:
    value = parsed(value)
    return {k: parsed(v) for k, v in value.items() if isinstance(k, str)} if isinstance(value, dict) else {}


def _inputs(run_type: str, given: object) -> tuple[dict[str, Any], list[Any]]:
    """Inputs in the shape that replay reads, and tool definitions.

    Langfuse's LangChain handler appends tool definitions to the messages, as messages of role `tool` that answer no
    call.
    """
    if run_type == "retriever":
        return query_of(given), []
    if run_type != "llm":
        return given if isinstance(given, dict) else {"input": given} if given is not None else {}, []
    tools: list[Any] = []
    if isinstance(given, dict):
        found = given.get("tools")
        tools = found if isinstance(found, list) else []
        given = given.get("messages", given.get("input", given))
    if not isinstance(given, list):
        return {"messages": [given] if isinstance(given, (str, dict)) else []}, tools
    messages = []
    flat = given[0] if given and isinstance(given[0], list) else given
    for message in flat:
        if isinstance(message, dict) and message.get("role") == "tool" and not message.get("tool_call_id"):
            definition = parsed(message.get("content"))
            if isinstance(definition, dict) and ("function" in definition or "name" in definition):
                tools = [*tools, definition]
                continue
        messages.append(message)
    return {"messages": messages_of({"messages": messages})}, tools


def _outputs(run_type: str, made: object, row: Mapping[str, Any]) -> dict[str, Any]:
    if run_type == "llm":
        return {**_answer(made), **_tier(row)}
    if run_type == "retriever":
        found = made.get("documents") if isinstance(made, dict) else made
        return {"documents": found if isinstance(found, list) else []}
    return {"output": made}


def _answer(made: object) -> dict[str, Any]:
    if isinstance(made, dict):
        return made if {"choices", "generations", "message", "messages"} & made.keys() else {"message": made}
    if isinstance(made, list) and made and isinstance(made[-1], dict):
        if any(isinstance(item, dict) and item.get("type") in _ITEMS for item in made):
            return answer_of({"output": made})  # of the responses API
        return {"message": made[-1]}
    return {"message": {"role": "assistant", "content": made if isinstance(made, str) else ""}}


def _tool_call_id(made: object) -> str | None:
    if not isinstance(made, dict):
        return None
    found = made.get("tool_call_id") or _plain(made.get("kwargs")).get("tool_call_id")
    return found if isinstance(found, str) else None


def _count(value: object) -> int:
    """A count of tokens; exports from its database write whole numbers as strings."""
    if type(value) is int:
        return value if 0 < value <= MAX_TOKENS else 0
    return int(number(value, MAX_TOKENS) or 0) if value else 0


def _usage(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """`usageDetails`, where `input` and `output` leave out the parts that are counted apart; or the older `usage`."""
    details = _plain(row.get("usageDetails"))
    if not any(_count(v) for v in details.values()):
        older = _plain(row.get("usage"))
        if str(older.get("unit") or "TOKENS").upper() != "TOKENS":
            return None  # characters are no tokens
        details = {"input": older.get("input"), "output": older.get("output"), "total": older.get("total")}
    sent, got, total = (_count(details.get(k)) for k in ("input", "output", "total"))
    sent = sent or _count(details.get("prompt_tokens")) or _count(details.get("input_tokens"))
    got = got or _count(details.get("completion_tokens")) or _count(details.get("output_tokens"))
    parts_in = sum(_count(v) for k, v in details.items() if _is_part(k, "input"))
    parts_out = sum(_count(v) for k, v in details.items() if _is_part(k, "output"))
    if total != sent + got:  # else the parts are within the whole already
        sent, got = sent + parts_in, got + parts_out
    hour = max(_count(details.get(k)) for k in _HOUR)
    read = sum(_count(v) for k, v in details.items() if k in _CACHE_READ or k.startswith(_CACHED_MODALITY))
    written = sum(_count(details.get(k)) for k in _CACHE_WRITE) or hour + max(_count(details.get(k)) for k in _MINUTES)
    if not read and not written:
        read, written = (max(_count(details.get(k)) for k in names) for names in (_READ_WITHIN, _WRITTEN_WITHIN))
        if read + written > sent:
            sent += read + written
    return usage_metadata(
        sent,
        got,
        read,
        written,
        sum(_count(details.get(k)) for k in _REASONING) or max(_count(details.get(k)) for k in _REASONING_WITHIN),
        sum(_count(details.get(f"input_{k}")) for k in _AUDIO) + _count(details.get(f"{_CACHED_MODALITY}AUDIO")),
        sum(_count(details.get(f"output_{k}")) for k in _AUDIO),
        hour,
    )


def _tier(row: Mapping[str, Any]) -> dict[str, object]:
    """OpenAI's service tier: a parameter, or (LangChain's handler) in the names of what is counted."""
    details = _plain(row.get("usageDetails"))
    counted = next((t for t in ("flex", "priority") if f"input_{t}" in details), None)
    tier = counted or _plain(row.get("modelParameters")).get("service_tier")
    return {"service_tier": tier} if tier else {}


def _is_part(key: str, side: str) -> bool:
    # langchain-openai leaves what is written to the cache within the tokens of the tier
    if key in (f"{side}_tokens", "input_flex_cache_creation") or key.startswith(f"{side}_priority"):
        return False
    if side == "output":
        return key.startswith("output_") or key in _REASONING
    return key.startswith(("input_", _CACHED_MODALITY)) or key in _CACHE_READ + _CACHE_WRITE


def _cost(row: Mapping[str, Any]) -> SourceCost | None:
    details = _plain(row.get("costDetails"))
    parts = {k: n for k, v in details.items() if (n := number(v, MAX_USD)) is not None}
    sent = [n for k, n in parts.items() if k == "input" or _is_part(k, "input")]
    got = [n for k, n in parts.items() if k == "output" or _is_part(k, "output")]
    total = parts.get("total")
    for older in ("totalCost", "calculatedTotalCost"):
        if total is None:
            total = number(row.get(older), MAX_USD)
    if not sent and not got:
        return SourceCost(total_usd=total) if total else None
    return SourceCost(sum(sent), sum(got), total)
