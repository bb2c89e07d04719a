"""LangSmith rows, of the v1 and the v2 API and of exports, as `Run`s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ts_importers.base import Skipped, failed_chain
from ts_importers.bodies import answer_of, mapping, messages_of, params_of
from ts_importers.values import MAX_USD, number, parsed, query_of, timestamp
from ts_langchain.call import SourceCost
from ts_langchain.capture.answers import MAX_TOKENS
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.replay import RunType

_CALLS = {"llm": "llm", "tool": "tool", "retriever": "retriever", "embedding": "embedding"}
_NOTHING: dict[str, Any] = {}
_GROUPED = {
    "token_usage": ("prompt_tokens", "completion_tokens"),
    "costs": ("prompt_cost", "completion_cost", "total_cost"),
}


def from_cli(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that LangSmith's command line exported (`langsmith trace export`), as the API gives it."""
    metadata = _dict(row.get("custom_metadata"))
    return {**row, "id": row.get("run_id"), "extra": {"metadata": metadata}} | {
        name: value
        for group, names in _GROUPED.items()
        for name in names
        if (value := _dict(row.get(group)).get(name)) is not None
    }


def run_from_row(row: Mapping[str, Any]) -> Run | Skipped | None:
    """Reads one row.

    The row's `session_id` is LangSmith's *project*; the conversation is `thread_id`, or what the run's metadata
    says. Nested fields may be JSON strings, as tables keep them. An optional field of a wrong type is left out; the
    row is skipped only without id, start or end.

    Returns:
        The run; None for rows that are no calls (chains, prompts, parsers), but for chains that failed; or why it
        cannot be read.
    """
    kind = row.get("run_type")
    run_type = _CALLS.get(kind) if type(kind) is str else None
    if run_type is None and type(kind) is str:
        run_type = _CALLS.get(kind.lower())
        if run_type is None:
            return _failed_chain(row) if kind.lower() == "chain" and row.get("error") else None
    run_id = row.get("id")
    where = run_id if type(run_id) is str else "a row without id"
    if run_type is None:
        return Skipped(where, "no run_type")
    if type(run_id) is not str or not run_id:
        return Skipped(where, "no id")
    started = timestamp(row.get("start_time"))
    if started is None:
        told = row.get("start_time")
        return Skipped(where, "no start_time" if told is None else "start_time is no time that can be read")
    error = row.get("error")
    if type(error) is not str:
        error = str(error)[:2000] if error else None
    outputs = _dict(row.get("outputs"))
    ended = timestamp(row.get("end_time"))
    if ended is None:
        if error is None and not outputs:
            return Skipped(where, "still running")
        ended = started
    if error is None and str(row.get("status")).lower() == "error":
        error = "Error"
    extra = _dict(row.get("extra"))
    metadata = _dict(extra.get("metadata")) or _dict(row.get("metadata"))
    params = _dict(extra.get("invocation_params"))
    trace = row.get("trace_id")
    thread = row.get("thread_id")
    tags = parsed(row.get("tags"))
    usage = cost = None
    if run_type in ("llm", "embedding"):
        usage = _usage(row, metadata, outputs)
        cost = _cost(row)
        if "ls_model_name" not in metadata and not params:
            model = extra.get("model") or row.get("ls_model_name")
            if type(model) is str:
                metadata = {**metadata, "ls_model_name": model}
    inputs = _dict(row.get("inputs"))
    if run_type == "llm" and "model" in inputs:  # LangSmith's wrappers of the clients: the request as it was sent
        params = {**params_of(inputs), **params}
        inputs = {"messages": messages_of(inputs)}
        outputs = answer_of(outputs)
    elif run_type == "retriever":
        inputs, outputs = _retrieved(inputs, outputs)
    tool_call_id = extra.get("tool_call_id") if run_type == "tool" else None
    if run_type == "tool" and tool_call_id is None:
        tool_call_id = _answered_id(outputs)
    return Run(
        run_id,
        cast("RunType", run_type),
        name if type(name := row.get("name")) is str and name else str(run_type),
        started,
        max(started, ended),
        trace if type(trace) is str and trace else run_id,
        _parent(row),
        thread if type(thread) is str and thread else None,
        inputs,
        outputs or None,
        error,
        tuple(t for t in tags if type(t) is str) if type(tags) is list else (),
        metadata,
        params,
        usage,
        cost,
        tool_call_id if type(tool_call_id) is str else None,
        completions=batch if type(batch := extra.get("batch_size")) is int and "prompts" in inputs else 1,
    )


def _failed_chain(row: Mapping[str, Any]) -> Run | None:
    """A chain that failed, of which that is all that matters."""
    error = row["error"]
    return failed_chain(
        row.get("id"),
        row.get("name"),
        timestamp(row.get("start_time")),
        timestamp(row.get("end_time")),
        row.get("trace_id"),
        error if type(error) is str else str(error)[:2000],
    )


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else mapping(value) if type(value) is str else _NOTHING


def _retrieved(inputs: dict[str, Any], outputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a retriever was asked and found; a `@traceable` one has parameters and a result of its own."""
    inputs = query_of(inputs)
    if "documents" not in outputs and type(found := outputs.get("output")) is list:
        outputs = {"documents": found}
    return inputs, outputs


def _parent(row: Mapping[str, Any]) -> str | None:
    parent = row.get("parent_run_id")
    if type(parent) is str and parent:
        return parent
    parents = row.get("parent_run_ids")
    if type(parents) is list and parents and type(parents[-1]) is str:
        return parents[-1]
    return None


def _answered_id(outputs: dict[str, Any]) -> object:
    """The tool_call_id that the recorded `ToolMessage` answers."""
    output = _dict(outputs.get("output"))
    return output.get("tool_call_id") or _dict(output.get("kwargs")).get("tool_call_id")


def _usage(row: Mapping[str, Any], metadata: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any] | None:
    """The row's token counts in the shape of LangChain's usage metadata, None if it has none.

    LangSmith's wrappers of the clients put theirs into the outputs, where a server has not counted yet.
    """
    for own in (metadata.get("usage_metadata"), outputs.get("usage_metadata")):
        if isinstance(own, dict) and own:
            return own
    sent, got = number(row.get("prompt_tokens"), MAX_TOKENS), number(row.get("completion_tokens"), MAX_TOKENS)
    if not sent and not got:
        return None
    usage: dict[str, Any] = {
        "input_tokens": int(sent or 0),
        "output_tokens": int(got or 0),
        "total_tokens": int((sent or 0) + (got or 0)),
    }
    if ins := _details(row.get("prompt_token_details")):
        usage["input_token_details"] = ins
    if outs := _details(row.get("completion_token_details")):
        usage["output_token_details"] = outs
    return usage


def _details(value: object) -> dict[str, Any]:
    """Tokens by category: flat in v1, under `raw` in v2; tables may keep them as text."""
    if value is None:
        return _NOTHING
    details = _dict(value)
    raw = details.get("raw")
    counts = raw if isinstance(raw, dict) else details
    return {name: int(n) for name, v in counts.items() if (n := number(v, MAX_TOKENS)) is not None}


def _cost(row: Mapping[str, Any]) -> SourceCost | None:
    sent, got, total = (
        number(row.get("prompt_cost"), MAX_USD),
        number(row.get("completion_cost"), MAX_USD),
        number(row.get("total_cost"), MAX_USD),
    )
    if sent is None and got is None and total is None:
        return None
    return SourceCost(sent, got, total)
