"""OpenInference's attributes: `openinference.span.kind`, `llm.*`, `tool.*`, `retrieval.*`, `embedding.*`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_importers.formats.attributes import Attributes, at, named, nested, objects, words
from ts_importers.formats.call import SpanCall, count, provider_of, usage
from ts_importers.values import MAX_USD, number, parsed, query_of
from ts_langchain.call import SourceCost

if TYPE_CHECKING:
    from ts_langchain.replay import RunType

_KINDS: dict[str, RunType] = {
    "LLM": "llm",
    "TOOL": "tool",
    "RETRIEVER": "retriever",
    "RERANKER": "retriever",
    "EMBEDDING": "embedding",
}


def speaks(tree: Attributes) -> bool:
    """True if a span has OpenInference's attributes."""
    return words(at(tree, "openinference", "span", "kind")) is not None


def kind_of(tree: Attributes) -> RunType | None:
    """What was called; None for chains, agents and the rest."""
    return _KINDS.get(str(at(tree, "openinference", "span", "kind")).upper())


def session_of(tree: Attributes) -> str | None:
    """The conversation that a span names."""
    metadata = _metadata(tree)
    names = ("session_id", "thread_id", "conversation_id")
    return named(at(tree, "session", "id"), *(metadata.get(n) for n in names))


def node_of(tree: Attributes) -> str | None:
    """The graph node or agent that a span names."""
    return named(
        _metadata(tree).get("langgraph_node"), at(tree, "graph", "node", "id"), words(at(tree, "agent", "name"))
    )


def from_langchain(tree: Attributes) -> bool:
    """True if LangChain told of it: its metadata is there."""
    return "ls_provider" in (metadata := _metadata(tree)) or "ls_model_name" in metadata


def made_by(tree: Attributes) -> tuple[str | None, str | None]:
    """The model that was called, and its provider."""
    llm = tree.get("llm")
    model = named(at(llm, "response", "model_name"), at(llm, "model_name"), at(llm, "request", "model_name"))
    return model, _provider(tree)


def call_of(kind: RunType, tree: Attributes) -> SpanCall:
    """Reads a call."""
    call = SpanCall(metadata=_metadata(tree))
    if user := named(at(tree, "user", "id")):
        call.metadata["user_id"] = user
    tags = at(tree, "tag", "tags")
    call.tags = tuple(t for t in tags if isinstance(t, str)) if isinstance(tags, list) else ()
    given, made = parsed(at(tree, "input", "value")), parsed(at(tree, "output", "value"))
    if kind == "llm":
        _model(call, tree, given, made)
    elif kind == "tool":
        call.name = words(at(tree, "tool", "name"))
        call.inputs = given if isinstance(given, dict) else {"input": given} if given is not None else {}
        call.outputs = {"output": _unwrapped(made)} if made is not None else None
        answered = _unwrapped(made)
        call.tool_call_id = named(
            at(tree, "tool_call", "id"),
            at(tree, "tool", "id"),
            at(answered, "tool_call_id"),
            at(answered, "kwargs", "tool_call_id"),
            at(answered, "data", "tool_call_id"),
        )
    elif kind == "retriever":
        _retriever(call, tree, given, made)
    else:
        call.model = words(at(tree, "embedding", "model_name")) or words(at(tree, "llm", "model_name"))
        call.provider = _provider(tree)
        texts = [at(e, "embedding", "text") for e in objects(at(tree, "embedding", "embeddings"))]
        call.inputs = {"texts": [t for t in texts if isinstance(t, str)] or given}
        call.usage = usage_of(tree)
    return call


def _metadata(tree: Attributes) -> dict[str, Any]:
    found = parsed(tree.get("metadata"))
    return dict(found) if isinstance(found, dict) else {}


def _provider(tree: Attributes) -> str | None:
    return provider_of(at(tree, "llm", "provider")) or provider_of(at(tree, "llm", "system"))


def _model(call: SpanCall, tree: Attributes, given: Any, made: Any) -> None:
    llm = tree.get("llm")
    call.model, call.provider = made_by(tree)
    params = parsed(at(llm, "invocation_parameters"))
    call.params = dict(params) if isinstance(params, dict) else {}
    tools = [parsed(at(t, "tool", "json_schema")) for t in objects(at(llm, "tools"))]
    if found := [t for t in tools if isinstance(t, dict)]:
        call.params["tools"] = found
    messages = [_message(m) for m in objects(at(llm, "input_messages"))]
    prompts = [at(p, "prompt", "text") for p in objects(at(llm, "prompts"))]
    if messages:
        call.inputs = {"messages": messages}
    elif prompts:
        call.inputs = {"prompts": [p for p in prompts if isinstance(p, str)]}
    else:
        call.inputs = given if isinstance(given, dict) else {"messages": given if given is not None else []}
    answers = [_message(m) for m in objects(at(llm, "output_messages"))]
    texts = [at(c, "completion", "text") for c in objects(at(llm, "choices"))]
    reason = words(at(llm, "finish_reason"))
    if _is_result(made):
        call.outputs = made  # LangChain's own result, with all that the attributes leave out
    elif answers:
        call.outputs = {"message": answers[0] if call.params.get("n") else _whole(answers), "finish_reason": reason}
    elif texts:
        call.outputs = {"message": {"role": "assistant", "content": texts[0]}, "finish_reason": reason}
    elif isinstance(made, dict):
        call.outputs = made
    elif made is not None:
        call.outputs = {"message": {"role": "assistant", "content": made}, "finish_reason": reason}
    call.usage = usage_of(tree)
    sent, got, total = (number(at(llm, "cost", n), MAX_USD) for n in ("prompt", "completion", "total"))
    if sent is not None or got is not None or total is not None:
        call.cost = SourceCost(sent, got, total)


def _whole(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer of what OpenAI's responses API gives as several: reasoning, text and each call of a tool."""
    calls = [asked for answer in answers for asked in answer.get("tool_calls", ())]
    said = next(
        (a["content"] for a in answers if isinstance(a["content"], str) and a["content"]), answers[0]["content"]
    )
    whole = {**answers[0], "content": said}
    return {**whole, "tool_calls": calls} if calls else whole


def _is_result(made: Any) -> bool:
    """True for a LangChain result with a generation in it."""
    found = made.get("generations") if isinstance(made, dict) else None
    for _ in range(2):
        found = found[0] if isinstance(found, list) and found else None
    return isinstance(found, dict)


def usage_of(tree: Attributes) -> dict[str, Any] | None:
    """Tokens, in LangChain's shape; None if none were counted."""
    counts = at(tree, "llm", "token_count")
    return usage(
        count(at(counts, "prompt")),
        count(at(counts, "completion")),
        count(at(counts, "prompt_details", "cache_read"), at(counts, "prompt_details", "cache_input")),
        count(at(counts, "prompt_details", "cache_write")),
        count(at(counts, "completion_details", "reasoning")),
        count(at(counts, "prompt_details", "audio")),
        count(at(counts, "completion_details", "audio")),
        count(at(counts, "total")),
    )


def _message(item: dict[str, Any]) -> dict[str, Any]:
    """A message in OpenAI's shape."""
    item = nested(item)
    fields = item.get("message")
    fields = fields if isinstance(fields, dict) else item
    content = fields.get("content")
    if content is None:
        content = [_block(c) for c in objects(fields.get("contents"))] or ""
    message: dict[str, Any] = {"role": fields.get("role") or "user", "content": content}
    calls = []
    for asked in objects(fields.get("tool_calls")):
        inner = nested(asked).get("tool_call")
        call = inner if isinstance(inner, dict) else asked
        function = call.get("function")
        if isinstance(function, dict):
            # empty arguments are not recorded
            calls.append({"id": call.get("id") or "", "type": "function", "function": {"arguments": "{}", **function}})
    if calls:
        message["tool_calls"] = calls
    if answered := named(fields.get("tool_call_id")):
        message["tool_call_id"] = answered
    return message


def _block(item: dict[str, Any]) -> dict[str, Any]:
    item = nested(item)
    fields = item.get("message_content")
    fields = fields if isinstance(fields, dict) else item
    kind = fields.get("type")
    url = at(fields, "image", "image", "url")
    if url is not None:
        # the conventions do not record the level of detail; nobody is to be told it was high on a guess
        detail = at(fields, "image", "image", "detail") or "low"
        return {"type": "image_url", "image_url": {"url": url, "detail": detail}}
    if kind in (None, "text"):
        return {"type": "text", "text": str(fields.get("text") or "")}
    return fields


def _unwrapped(made: Any) -> Any:
    """A tool's output without the object that tracers put around it."""
    if isinstance(made, dict) and set(made) == {"output"}:
        return parsed(made["output"])
    return made


def _retriever(call: SpanCall, tree: Attributes, given: Any, made: Any) -> None:
    query = at(tree, "reranker", "query")
    if query is None:
        query = given
    call.inputs = query_of(query)
    call.name = words(at(tree, "reranker", "model_name"))
    found = at(tree, "retrieval", "documents") or at(tree, "reranker", "output_documents")
    documents = []
    for item in objects(found):
        fields = nested(item).get("document")
        fields = fields if isinstance(fields, dict) else item
        metadata = parsed(fields.get("metadata"))
        content = fields.get("content")
        documents.append(
            {
                "page_content": content if isinstance(content, str) else str(fields.get("id") or content or ""),
                "metadata": metadata if isinstance(metadata, dict) else {},
            }
        )
    call.outputs = {"documents": documents} if found is not None or made is not None else None
