"""Spans of Langfuse's SDK (`langfuse.observation.*`), as a collector gets them: an observation as a span."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_importers.formats.attributes import Attributes, at, named
from ts_importers.formats.call import SpanCall, call_from_run, provider_of
from ts_importers.langfuse_rows import run_from_observation
from ts_importers.values import parsed
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from ts_langchain.replay import RunType

_CALLS: dict[str, RunType] = {"generation": "llm", "embedding": "embedding", "tool": "tool", "retriever": "retriever"}
_SESSIONS = ("session_id", "thread_id", "conversation_id")


def speaks(tree: Attributes) -> bool:
    """True if Langfuse's SDK wrote the span."""
    return isinstance(at(tree, "langfuse", "observation", "type"), str)


def kind_of(tree: Attributes) -> RunType | None:
    """What was called; None for spans, events, chains and agents."""
    return _CALLS.get(str(at(tree, "langfuse", "observation", "type")).lower())


def session_of(tree: Attributes) -> str | None:
    """The conversation that the metadata names; Langfuse's own is `session.id`."""
    places = _metadata(tree, "observation"), _metadata(tree, "trace")
    return named(*(place.get(n) for place in places for n in _SESSIONS))


def node_of(tree: Attributes) -> str | None:
    """The graph node that the metadata names."""
    return named(_metadata(tree, "observation").get("langgraph_node"))


def from_langchain(tree: Attributes) -> bool:
    """True if LangChain told of it: its metadata is there."""
    return bool({"ls_provider", "ls_model_name"} & _metadata(tree, "observation").keys())


def made_by(tree: Attributes) -> tuple[str | None, str | None]:
    """The model that was called, and its provider."""
    metadata = _metadata(tree, "observation")
    model = named(at(tree, "langfuse", "observation", "model", "name"), metadata.get("ls_model_name"))
    return model, provider_of(metadata.get("ls_provider"))


def usage_of(tree: Attributes) -> dict[str, Any] | None:
    """Tokens, in LangChain's shape; None if none were counted."""
    about = at(tree, "langfuse", "observation")
    run = run_from_observation({**_row(about, "", {}), "input": None, "output": None})
    return dict(run.usage) if isinstance(run, Run) and run.usage is not None else None


def call_of(tree: Attributes, span_name: str, status: str | None) -> SpanCall:
    """Reads a call, as the observation that Langfuse would have made of it.

    Args:
        tree: The span's attributes.
        span_name: The span's name.
        status: What the span's status says if it is an error.
    """
    row = _row(at(tree, "langfuse", "observation"), span_name, _metadata(tree, "observation"))
    if status is not None:
        row = {**row, "level": "ERROR", "statusMessage": row["statusMessage"] or status}
    user = at(tree, "user", "id") or at(tree, "langfuse", "user", "id")
    trace = {"userId": user, "tags": parsed(at(tree, "langfuse", "trace", "tags"))}
    run = run_from_observation(row, trace)
    call = call_from_run(run) if isinstance(run, Run) else SpanCall()
    call.model, call.provider = made_by(tree)
    return call


def _row(about: object, span_name: str, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": span_name or "span",
        "name": span_name,
        "type": at(about, "type"),
        "startTime": 1,
        "endTime": 1,
        "input": at(about, "input"),
        "output": at(about, "output"),
        "model": at(about, "model", "name"),
        "modelParameters": at(about, "model", "parameters"),
        "usageDetails": at(about, "usage_details"),
        "costDetails": at(about, "cost_details"),
        "metadata": metadata,
        "level": at(about, "level"),
        "statusMessage": at(about, "status_message"),
        "promptName": at(about, "prompt", "name"),
        "promptVersion": at(about, "prompt", "version"),
    }


def _metadata(tree: Attributes, of: str) -> dict[str, Any]:
    found = parsed(at(tree, "langfuse", of, "metadata"))
    return {k: parsed(v) for k, v in found.items()} if isinstance(found, dict) else {}
