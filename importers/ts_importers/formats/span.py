"""One span, whatever wrote it down, and the call it records."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from ts_importers.base import Skipped, failed_chain
from ts_importers.formats import genai, langfuse_spans, langsmith_spans, openinference, vercel
from ts_importers.formats.attributes import Attributes, at, nested, words
from ts_importers.formats.base import Key, Setting
from ts_importers.formats.call import count
from ts_importers.told_twice import STREAM, Telling
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from ts_importers.formats.call import SpanCall
    from ts_langchain.replay import RunType

_CONTROL_FLOW = frozenset({"GraphInterrupt", "NodeInterrupt", "GraphBubbleUp", "ParentCommand"})
# a status that says which exception it was: `RateLimitError: slow down`
_TYPED = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt): ")


@dataclass(frozen=True, slots=True)
class Span:
    """A span.

    Attributes:
        trace_id: Trace, 32 hexadecimal digits.
        span_id: Span, 16 hexadecimal digits.
        parent_id: Enclosing span, empty for a root.
        name: Name.
        started: Seconds since the epoch, None where it is not recorded.
        ended: Seconds since the epoch, None where it is not recorded.
        failed: Its status is an error.
        status: What the status says.
        attributes: Attributes, as a tree.
        events: Events: name and attributes (flat, as they were recorded).
        scope: The instrumentation that wrote it, empty where exports do not say.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    started: float | None
    ended: float | None
    failed: bool
    status: str
    attributes: Attributes = field(default_factory=dict)
    events: tuple[tuple[str, Attributes], ...] = ()
    scope: str = ""

    @property
    def id(self) -> str:
        """Unique over all traces."""
        return f"{self.trace_id}-{self.span_id}"


class _Spoken(Protocol):
    """What every convention of attributes tells."""

    def kind_of(self, tree: Attributes, /) -> RunType | None: ...
    def usage_of(self, tree: Attributes, /) -> dict[str, Any] | None: ...
    def from_langchain(self, tree: Attributes, /) -> bool: ...
    def made_by(self, tree: Attributes, /) -> tuple[str | None, str | None]: ...


def key_of(span: Span, content: int | None = None) -> Key:
    """What has to be known of a span before others are read.

    Args:
        span: The span.
        content: Whether it tells what was said, and what was answered, where that has been left out of it.
    """
    span = _with_its_length(span)
    tree = span.attributes
    kind, session, node = _kind(span), _session(tree), _node(tree)
    parent = f"{span.trace_id}-{span.parent_id}" if span.parent_id else ""
    name = genai.tool_name(tree, span.name) if kind == "tool" else ""
    key = Key(span.started, span.id, parent, span.trace_id, kind or "", session, node, name)
    return replace(key, telling=_telling(span, content)) if kind == "llm" else key


def _telling(span: Span, content: int | None) -> Telling | None:
    """What tells whether another span records the same model call."""
    tree = span.attributes
    if not span.span_id or not span.trace_id or span.started is None or span.ended is None:
        return None
    spoken = _spoken(tree)
    model, provider = spoken.made_by(tree)
    framework = spoken.from_langchain(tree)
    used = spoken.usage_of(tree)
    response = words(at(tree, "gen_ai", "response", "id"))
    return Telling(
        span.ended,
        (span.scope or _teller(span, framework)) + (STREAM if genai.streamed_for(tree) is not None else ""),
        framework,
        provider or "",
        model or "",
        response or "",
        _error(span) is not None,
        _content(tree) if content is None else content,
        count(used.get("input_tokens")) if used is not None else 0,
        count(used.get("output_tokens")) if used is not None else 0,
        orjson.dumps(used).decode() if used is not None else "",
    )


def _teller(span: Span, framework: bool) -> str:
    """The instrumentation of a span that does not name it: by what it calls the operation."""
    if framework:
        return "langchain"
    if "logfire" in span.attributes:
        return "logfire"
    return "openinference" if openinference.speaks(span.attributes) else span.name.partition(" ")[0]


def _content(tree: Attributes) -> int:
    said = (
        ("gen_ai", "input", "messages"),
        ("gen_ai", "prompt"),
        ("llm", "input_messages"),
        ("input", "value"),
        ("ai", "prompt"),
    )
    answered = (
        ("gen_ai", "output", "messages"),
        ("gen_ai", "completion"),
        ("llm", "output_messages"),
        ("output", "value"),
        ("ai", "response", "text"),
    )
    return sum(any(at(tree, *place) is not None for place in places) for places in (said, answered))


def run_from_span(span: Span, setting: Setting) -> Run | Skipped | None:
    """Reads one span.

    Returns:
        The run; None for spans that are no calls, but for those that failed, which may be chains around one; or why it
        cannot be read.
    """
    span = _with_its_length(span)
    tree = span.attributes
    kind = _kind(span)
    if kind is None:
        return _failed_chain(span)
    if not span.span_id or not span.trace_id:
        return Skipped(setting.place, "no span id or no trace id")
    if span.started is None:
        return Skipped(setting.place, "no start time")
    error = _error(span)
    if span.ended is None and error is None:
        return Skipped(setting.place, "not ended")
    call = _call(kind, span)
    error = call.error or error
    session = _session(tree) or setting.session
    node = _node(tree) or setting.node
    metadata: dict[str, Any] = {**call.metadata}
    if session:
        metadata["session_id"] = session
    if node and "langgraph_node" not in metadata:
        metadata["langgraph_node"] = node
    if model := call.model or setting.model:
        metadata["ls_model_name"] = model
    if provider := call.provider or setting.provider:
        metadata["ls_provider"] = provider
    return Run(
        span.id,
        kind,
        call.name or span.name or kind,
        span.started,
        max(span.started, span.ended if span.ended is not None else span.started),
        span.trace_id,
        f"{span.trace_id}-{span.parent_id}" if span.parent_id else None,
        session,
        call.inputs,
        call.outputs if error is None or call.outputs else None,
        error,
        call.tags,
        metadata,
        call.params,
        setting.usage or call.usage,
        call.cost,
        call.tool_call_id,
    )


def _failed_chain(span: Span) -> Run | None:
    """A chain that failed, of which that is all that matters."""
    if not (span.failed and span.span_id and span.trace_id):
        return None
    return failed_chain(span.id, span.name, span.started, span.ended, span.trace_id, _error(span) or "Error")


def _kind(span: Span) -> RunType | None:
    """What was called; None for all that is no call."""
    spoken = _spoken(span.attributes)
    kind = spoken.kind_of(span.attributes)
    # LlamaIndex's function that puts a request together is a model call to OpenInference
    if kind == "llm" and span.name.endswith("prepare_chat_with_tools") and spoken.usage_of(span.attributes) is None:
        return None
    return kind


def _with_its_length(span: Span) -> Span:
    took = genai.streamed_for(span.attributes)
    return span if took is None or span.started is None else replace(span, started=span.started - took)


def _spoken(tree: Attributes) -> _Spoken:
    """Whose attributes these are."""
    if openinference.speaks(tree):
        return openinference
    if langsmith_spans.speaks(tree):
        return langsmith_spans
    if langfuse_spans.speaks(tree):
        return langfuse_spans
    return vercel if vercel.speaks(tree) else genai


def _session(tree: Attributes) -> str | None:
    found = openinference.session_of(tree) or langsmith_spans.session_of(tree) or genai.session_of(tree)
    return found or langfuse_spans.session_of(tree) or vercel.session_of(tree)


def _node(tree: Attributes) -> str | None:
    found = openinference.node_of(tree) or langsmith_spans.node_of(tree) or genai.node_of(tree)
    return found or langfuse_spans.node_of(tree)


def _call(kind: RunType, span: Span) -> SpanCall:
    tree = span.attributes
    if openinference.speaks(tree):
        return openinference.call_of(kind, tree)
    if langsmith_spans.speaks(tree) and langsmith_spans.writes_rows(tree):
        return langsmith_spans.call_of(kind, tree, span.name)
    if _spoken(tree) is langfuse_spans:
        return langfuse_spans.call_of(tree, span.name, span.status if span.failed else None)
    if _spoken(tree) is vercel:
        return vercel.call_of(kind, tree)
    return genai.call_of(kind, tree, span.name, _messages(span))


def _error(span: Span) -> str | None:
    """What went wrong, as `Type: message` or, without a message, `Type()`; None if nothing did."""
    kind = words(at(span.attributes, "error", "type"))
    if not span.failed and kind is None:
        # an interrupt is no failure to OpenInference; but the call has not been made
        raised = [str(a.get("exception.type")).rpartition(".")[2] for name, a in span.events if name == "exception"]
        return f"{raised[-1]}()" if raised and raised[-1] in _CONTROL_FLOW else None
    message = span.status
    for name, attributes in reversed(span.events):
        if name == "exception":
            kind = words(attributes.get("exception.type")) or kind
            message = str(attributes.get("exception.message") or "")
            if kind == "Exception" and langsmith_spans.speaks(span.attributes):
                return message or "Error"  # LangChain's own text, which names the type
            break
    else:
        if _TYPED.match(message):
            return message[:2000]
    kind = (kind or "Error").rpartition(".")[2] or "Error"
    return f"{kind}: {message[:2000]}" if message.strip() else f"{kind}()"


def _messages(span: Span) -> list[tuple[str, Attributes]]:
    """Events that carry messages; details of the operation have become attributes."""
    return [(name, nested(attributes)) for name, attributes in span.events if name.startswith("gen_ai.")]
