"""LangSmith's own spans (`LANGSMITH_OTEL_ENABLED`): a run as a span, with its inputs and outputs as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_importers.formats.attributes import Attributes, at, named, objects
from ts_importers.formats.call import SpanCall, call_from_run, count, provider_of, usage
from ts_importers.langsmith_rows import run_from_row
from ts_importers.values import parsed
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from ts_langchain.replay import RunType

_CALLS: dict[str, RunType] = {"llm": "llm", "tool": "tool", "retriever": "retriever", "embedding": "embedding"}
_SESSIONS = ("session_id", "thread_id", "conversation_id")
_PARAMS = ("temperature", "top_p", "max_tokens", "presence_penalty", "frequency_penalty")


def speaks(tree: Attributes) -> bool:
    """True if a span says what LangSmith takes it for."""
    return isinstance(at(tree, "langsmith", "span", "kind"), str)


def writes_rows(tree: Attributes) -> bool:
    """True if LangSmith's SDK wrote the span; others mark theirs for LangSmith, with messages of their own."""
    ai = tree.get("gen_ai")
    said = at(ai, "prompt"), at(ai, "completion")
    return at(ai, "input", "messages") is None and not any(isinstance(s, list) for s in said)


def kind_of(tree: Attributes) -> RunType | None:
    """What was called; None for chains, prompts and parsers."""
    return _CALLS.get(str(at(tree, "langsmith", "span", "kind")).lower())


def from_langchain(_tree: Attributes) -> bool:
    """True: LangSmith's spans are LangChain's own telling."""
    return True


def session_of(tree: Attributes) -> str | None:
    """The conversation that the metadata names; `langsmith.trace.session_id` is the project."""
    metadata = at(tree, "langsmith", "metadata")
    return named(*(at(metadata, n) for n in _SESSIONS))


def node_of(tree: Attributes) -> str | None:
    """The graph node that the metadata names."""
    return named(at(tree, "langsmith", "metadata", "langgraph_node"))


def usage_of(tree: Attributes) -> dict[str, Any] | None:
    """Tokens, in LangChain's shape: the metadata's, which know of caches; else the bare counts."""
    told = parsed(at(tree, "langsmith", "metadata", "usage_metadata"))
    if isinstance(told, dict) and (count(told.get("input_tokens")) or count(told.get("output_tokens"))):
        return told
    counts = at(tree, "gen_ai", "usage")
    return usage(count(at(counts, "input_tokens")), count(at(counts, "output_tokens")))


def made_by(tree: Attributes) -> tuple[str | None, str | None]:
    """The model that was called, and its provider; without metadata the SDK guesses it from the model's name."""
    ai = tree.get("gen_ai")
    told = at(tree, "langsmith", "metadata")
    models = at(told, "ls_model_name"), at(ai, "response", "model"), at(ai, "request", "model")
    return named(*models), provider_of(at(told, "ls_provider")) or provider_of(at(ai, "system"))


def call_of(kind: RunType, tree: Attributes, span_name: str) -> SpanCall:
    """Reads a call, as the row that LangSmith would have made of it."""
    ai = tree.get("gen_ai")
    metadata = at(tree, "langsmith", "metadata")
    metadata = {k: parsed(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}
    params = {n: v for n in _PARAMS if (v := at(ai, "request", n)) is not None}
    if tools := objects(at(ai, "tool", "definitions")):
        params["tools"] = tools
    tags = at(tree, "langsmith", "span", "tags")
    row = {
        "id": span_name or kind,
        "name": span_name,
        "run_type": kind,
        "start_time": 1,
        "end_time": 1,
        "inputs": parsed(at(ai, "prompt")),
        "outputs": parsed(at(ai, "completion")),
        "tags": tags.split(", ") if isinstance(tags, str) and tags else tags,
        "extra": {
            "metadata": metadata,
            "invocation_params": params,
            "tool_call_id": named(at(ai, "tool", "call", "id")),
        },
    }
    run = run_from_row(row)
    call = call_from_run(run) if isinstance(run, Run) else SpanCall()
    call.model, call.provider = made_by(tree)
    if kind in ("llm", "embedding"):
        call.usage = usage_of(tree)
    return call
