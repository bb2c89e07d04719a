"""MLflow's traces, as `Trace.to_dict()` gives them and tables of `search_traces()` keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ts_importers.base import Skipped
from ts_importers.bodies import answer_of, mapping, messages_of, params_of, text
from ts_importers.formats.base import Key, Row, Setting
from ts_importers.formats.call import count, provider_of, usage
from ts_importers.formats.otlp import hexadecimal
from ts_importers.values import number, parsed, query_of
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.replay import RunType

_CALLS = {"CHAT_MODEL": "llm", "LLM": "llm", "TOOL": "tool", "RETRIEVER": "retriever", "EMBEDDING": "embedding"}
_LATEST = 4e18  # nanoseconds


class MlflowTraces:
    """A trace a row, its spans inside it, attributes as JSON strings."""

    name = "mlflow"
    title = "MLflow traces"
    expects = "info and data, or trace"
    spans = True

    def recognises(self, document: Row) -> str | None:
        return self.title if any("mlflow.spanType" in mapping(s.get("attributes")) for s in _spans(document)) else None

    def rows(self, document: Row) -> list[Row]:
        info = mapping(_trace(document).get("info"))
        about = mapping(info.get("trace_metadata")) or mapping(info.get("request_metadata"))
        shared = {"session": text(about.get("mlflow.trace.session")), "user": text(about.get("mlflow.trace.user"))}
        return [{**span, **shared} for span in _spans(document)]

    def key(self, row: Row) -> Key:
        tree = _attributes(row)
        trace, parent = hexadecimal(row.get("trace_id")), hexadecimal(row.get("parent_span_id"))
        kind = _kind(tree) or ""
        return Key(
            _seconds(row.get("start_time_unix_nano")),
            _id(row),
            f"{trace}-{parent}" if parent else "",
            trace,
            kind,
            text(row.get("session")),
            text(mapping(tree.get("metadata")).get("langgraph_node")),
            str(row.get("name") or "") if kind == "tool" else "",
        )

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        run = _run(row, setting)
        return [run] if run is not None else []


def _trace(document: Row) -> dict[str, Any]:
    return document if "data" in document else mapping(document.get("trace"))


def _spans(document: Row) -> list[Row]:
    found = mapping(_trace(document).get("data")).get("spans")
    return [span for span in found if isinstance(span, dict)] if isinstance(found, list) else []


def _attributes(row: Row) -> dict[str, Any]:
    return {k: parsed(v) for k, v in mapping(row.get("attributes")).items()}


def _kind(tree: Mapping[str, Any]) -> RunType | None:
    return cast("RunType | None", _CALLS.get(str(tree.get("mlflow.spanType")).upper()))


def _id(row: Row) -> str:
    return f"{hexadecimal(row.get('trace_id'))}-{hexadecimal(row.get('span_id'))}"


def _seconds(value: object) -> float | None:
    found = number(value, _LATEST)
    return found / 1e9 if found else None


def _run(row: Row, setting: Setting) -> Run | Skipped | None:
    tree = _attributes(row)
    kind = _kind(tree)
    if kind is None:
        return None
    if not hexadecimal(row.get("trace_id")) or not hexadecimal(row.get("span_id")):
        return Skipped(setting.place, "no span id or no trace id")
    started, ended = _seconds(row.get("start_time_unix_nano")), _seconds(row.get("end_time_unix_nano"))
    if started is None:
        return Skipped(setting.place, "no start time")
    error = _error(row)
    if ended is None and error is None:
        return Skipped(setting.place, "not ended")
    given, made = tree.get("mlflow.spanInputs"), tree.get("mlflow.spanOutputs")
    metadata = dict(mapping(tree.get("metadata")))
    told = {
        "session_id": text(row.get("session")) or setting.session,
        "user_id": text(row.get("user")),
        "langgraph_node": text(metadata.get("langgraph_node")) or setting.node,
        "ls_model_name": text(tree.get("mlflow.llm.model")) or text(metadata.get("ls_model_name")) or setting.model,
        "ls_provider": provider_of(tree.get("mlflow.llm.provider")) or metadata.get("ls_provider") or setting.provider,
    }
    name = row.get("name")
    call_id = tree.get("tool_call_id") or mapping(made).get("tool_call_id")
    return Run(
        _id(row),
        kind,
        name if isinstance(name, str) and name else kind,
        started,
        max(started, started if ended is None else ended),
        hexadecimal(row.get("trace_id")),
        thread_id=told["session_id"],
        inputs=_inputs(kind, given),
        outputs=None if made is None or error is not None else _outputs(kind, made),
        error=error,
        metadata=metadata | {k: v for k, v in told.items() if v},
        invocation_params=_params(tree, given) if kind == "llm" else {},
        usage=_usage(mapping(tree.get("mlflow.chat.tokenUsage"))),
        tool_call_id=call_id if kind == "tool" and isinstance(call_id, str) else None,
    )


def _inputs(kind: str, given: Any) -> dict[str, Any]:
    if kind == "retriever":
        return query_of(given)
    if kind == "llm":
        return {"messages": messages_of(given) if isinstance(given, dict) else given}
    return given if isinstance(given, dict) else {} if given is None else {"input": given}


def _outputs(kind: str, made: Any) -> dict[str, Any]:
    if kind == "llm":
        return _with_calls(answer_of(made)) or {
            "message": {"role": "assistant", "content": made if isinstance(made, str) else ""}
        }
    if kind == "retriever":
        return {"documents": made if isinstance(made, list) else []}
    return {"output": made}


def _with_calls(answer: dict[str, Any]) -> dict[str, Any]:
    """LangChain's answer with the tool calls that MLflow leaves in its content, where it is of the responses API."""
    generations = answer.get("generations")
    batch = generations[0] if isinstance(generations, list) and generations else None
    generation = mapping(batch[0]) if isinstance(batch, list) and batch else {}
    message = mapping(generation.get("message"))
    blocks = message.get("content")
    if message.get("tool_calls") or not isinstance(blocks, list):
        return answer
    calls = [
        {"id": block.get("call_id"), "function": {k: block.get(k) for k in ("name", "arguments")}}
        for block in blocks
        if isinstance(block, dict) and block.get("type") == "function_call"
    ]
    return {**answer, "generations": [[{**generation, "message": {**message, "tool_calls": calls}}]]}


def _params(tree: Mapping[str, Any], given: Any) -> dict[str, Any]:
    """Parameters: LangChain's, or the request's; the tools that MLflow has read out of either."""
    params = {**params_of(mapping(given)), **mapping(tree.get("invocation_params"))}
    tools = tree.get("mlflow.chat.tools")
    return params | {"tools": tools} if isinstance(tools, list) and tools and "tools" not in params else params


def _usage(counted: Mapping[str, Any]) -> dict[str, Any] | None:
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return usage(*(count(counted.get(name)) for name in names))


def _error(row: Row) -> str | None:
    """What went wrong, as `Type: message`; None if nothing did."""
    status = mapping(row.get("status"))
    if not str(status.get("code")).upper().endswith("ERROR"):
        return None
    kind, message = "Error", str(status.get("message") or "")
    events = row.get("events")
    for event in events if isinstance(events, list) else ():
        about = mapping(mapping(event).get("attributes"))
        if told := text(about.get("exception.type")):
            kind, message = told.rpartition(".")[2], str(about.get("exception.message") or "")
    return f"{kind}: {message[:2000]}" if message.strip() else f"{kind}()"
