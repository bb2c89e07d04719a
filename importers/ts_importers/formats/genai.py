"""OpenTelemetry's GenAI conventions, their older event-based forms, and OpenLLMetry's numbered attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_importers.converse import as_text, asked_for, is_converse, joined, messages_of_blocks
from ts_importers.formats.attributes import Attributes, at, named, objects
from ts_importers.formats.call import SpanCall, count, provider_of, usage
from ts_importers.told_twice import LONGEST_CALL
from ts_importers.values import MAX_USD, number, parsed
from ts_langchain.call import SourceCost

if TYPE_CHECKING:
    from ts_langchain.replay import RunType

_OPERATIONS: dict[str, RunType] = {
    "chat": "llm",
    "completion": "llm",
    "text_completion": "llm",
    "generate_content": "llm",
    "message": "llm",
    "embeddings": "embedding",
    "embedding": "embedding",
    "execute_tool": "tool",
    "retrieval": "retriever",
    "rerank": "retriever",
}
_SESSIONS = ("session_id", "thread_id", "conversation_id")
_PARAMS = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")


def kind_of(tree: Attributes) -> RunType | None:
    """What was called; None for agents, workflows, and spans that have nothing to do with models."""
    if at(tree, "logfire", "span_type") == "pending_span":
        return None  # announces a span that comes when it has ended
    operation = at(tree, "gen_ai", "operation", "name") or at(tree, "llm", "request", "type")
    kind = _OPERATIONS.get(str(operation).lower())
    if kind is not None:
        return kind
    if str(at(tree, "traceloop", "span", "kind")).lower() == "tool":
        return "tool"
    if operation is None and at(tree, "gen_ai", "request", "model") is not None and usage_of(tree) is not None:
        return "llm"  # older instrumentations name no operation
    return None


def session_of(tree: Attributes) -> str | None:
    """The conversation that a span names."""
    properties = at(tree, "traceloop", "association", "properties")
    return named(
        at(tree, "gen_ai", "conversation", "id"),
        at(tree, "session", "id"),
        *(at(properties, n) for n in _SESSIONS),
        *(at(tree, "langgraph", n) for n in _SESSIONS),
        at(tree, "thread_id"),
    )


def node_of(tree: Attributes) -> str | None:
    """The agent or graph node that a span names."""
    return named(
        at(tree, "traceloop", "association", "properties", "langgraph_node"),
        at(tree, "langgraph_node"),
        at(tree, "langgraph", "node"),
        at(tree, "gen_ai", "agent", "name"),
    )


def tool_name(tree: Attributes, span_name: str) -> str:
    """The name of a tool; older spans have it in their own name only."""
    places = ("gen_ai", "tool", "name"), ("tool", "name"), ("traceloop", "entity", "name"), ("ai", "toolCall", "name")
    found = named(*(at(tree, *place) for place in places))
    return found or span_name.removeprefix("execute_tool ").removesuffix(".tool")


def from_langchain(tree: Attributes) -> bool:
    """True if LangChain told of it: OpenLLMetry hands its metadata on."""
    told = at(tree, "traceloop", "association", "properties")
    return isinstance(told, dict) and ("ls_provider" in told or "ls_model_name" in told)


def made_by(tree: Attributes) -> tuple[str | None, str | None]:
    """The model that was called, and its provider."""
    ai = tree.get("gen_ai")
    told = at(tree, "traceloop", "association", "properties")  # LangChain's metadata, as OpenLLMetry hands it on
    providers = at(ai, "provider", "name"), at(ai, "system"), at(told, "ls_provider")
    models = at(ai, "response", "model"), at(ai, "request", "model"), at(told, "ls_model_name")
    return (
        named(*(None if m == "unknown" else m for m in models)),  # OpenLLMetry's word for what it does not know
        next((p for value in providers if (p := provider_of(value))), None),
    )


def streamed_for(tree: Attributes) -> float | None:
    """Of Logfire's record of a stream, which follows the request's own span and has no length: how long it took."""
    found = at(tree, "duration") if at(tree, "logfire", "span_type") == "log" else None
    return number(found, LONGEST_CALL)


def call_of(kind: RunType, tree: Attributes, span_name: str, events: list[tuple[str, Attributes]]) -> SpanCall:
    """Reads a call.

    Args:
        kind: What was called.
        tree: The span's attributes.
        span_name: The span's name.
        events: The span's events that begin with `gen_ai.`: messages, in older conventions.
    """
    for name, attributes in events:
        if name == "gen_ai.client.inference.operation.details":
            tree = {**tree, "gen_ai": {**_dict(tree.get("gen_ai")), **_dict(attributes.get("gen_ai"))}}
    call = SpanCall()
    if user := named(at(tree, "user", "id"), at(tree, "enduser", "id"), at(tree, "gen_ai", "user")):
        call.metadata["user_id"] = user
    ai = tree.get("gen_ai")
    call.model, call.provider = made_by(tree)
    if kind == "tool":
        _tool(call, tree, span_name, events)
    elif kind == "retriever":
        call.name = named(at(ai, "data_source", "id"))
        query = at(ai, "retrieval", "query", "text")
        call.inputs = {"query": query if isinstance(query, str) else ""}
        found = at(ai, "retrieval", "documents")
        call.outputs = {"documents": [_document(d) for d in objects(found)]} if found is not None else None
    elif kind == "embedding":
        texts = [as_text(at(m, "content")) for m in objects(at(ai, "prompt"))]
        call.inputs = {"texts": texts or parsed(at(ai, "input", "texts")) or []}
        call.usage = usage_of(tree)
    else:
        _model(call, tree, events)
    return call


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


# --- models ----------------------------------------------------------------------------------------


def _model(call: SpanCall, tree: Attributes, events: list[tuple[str, Attributes]]) -> None:
    ai = tree.get("gen_ai")
    request = at(ai, "request")
    call.params = {n: v for n in _PARAMS if (v := at(request, n)) is not None}
    for limit in (at(request, "max_tokens"), at(request, "max_completion_tokens")):
        if limit is not None:
            call.params["max_tokens"] = limit
            break
    tools = objects(at(ai, "tool", "definitions")) or objects(at(tree, "llm", "request", "functions"))
    if tools:
        call.params["tools"] = [{**t, "parameters": parsed(t["parameters"])} if "parameters" in t else t for t in tools]
    messages, answers = _messages(ai), _answers(ai)
    said, answered = _from_events(events)
    call.inputs = {"messages": messages or said}
    reasons = at(ai, "response", "finish_reasons")
    reason = (
        reasons[0] if isinstance(reasons, list) and reasons else named(reasons, at(ai, "response", "finish_reason"))
    )
    answer = next(iter(answers or answered), None)
    if answer is not None:
        reason = answer.pop("finish_reason", None) or reason
        call.outputs = {"message": answer, "finish_reason": "tool_calls" if reason == "tool_call" else reason}
    elif usage_of(tree) is not None:  # nothing was recorded of what it said
        call.outputs = {"message": {"role": "assistant", "content": ""}, "finish_reason": reason}
    tier = named(at(tree, "openai", "response", "service_tier"), at(ai, "openai", "response", "service_tier"))
    if tier and call.outputs:
        call.outputs["service_tier"] = tier
    call.usage = usage_of(tree)
    cost = next((c for n in ("cost", "total_cost") if (c := number(at(ai, "usage", n), MAX_USD)) is not None), None)
    if cost is None:
        cost = number(at(tree, "operation", "cost"), MAX_USD)
    if cost:
        call.cost = SourceCost(total_usd=cost)


def usage_of(tree: Attributes) -> dict[str, Any] | None:
    """Tokens, in LangChain's shape; None if none were counted."""
    counts = at(tree, "gen_ai", "usage")
    raw = parsed(at(counts, "raw"))  # Logfire: the provider's own
    return usage(
        count(at(counts, "input_tokens"), at(counts, "prompt_tokens")),
        count(at(counts, "output_tokens"), at(counts, "completion_tokens")),
        count(
            at(counts, "cache_read", "input_tokens"),
            at(counts, "cache_read_input_tokens"),
            at(counts, "details", "cache_read_tokens"),
            at(raw, "cache_read_input_tokens"),
            *(at(raw, f"{side}_tokens_details", "cached_tokens") for side in ("input", "prompt")),
        ),
        count(
            at(counts, "cache_creation", "input_tokens"),
            at(counts, "cache_write", "input_tokens"),
            at(counts, "cache_creation_input_tokens"),
            at(counts, "details", "cache_write_tokens"),
            at(raw, "cache_creation_input_tokens"),
        ),
        count(
            at(counts, "reasoning", "output_tokens"),
            at(counts, "reasoning_tokens"),
            at(counts, "details", "reasoning_tokens"),
            *(at(raw, f"{side}_tokens_details", "reasoning_tokens") for side in ("output", "completion")),
        ),
        count(at(counts, "audio", "input_tokens")),
        count(at(counts, "audio", "output_tokens")),
        count(at(counts, "total_tokens"), at(tree, "llm", "usage", "total_tokens")),
    )


def _messages(ai: object) -> list[dict[str, Any]]:
    """The prompt: messages of parts, or OpenLLMetry's numbered ones."""
    messages: list[dict[str, Any]] = []
    system = parsed(at(ai, "system_instructions"))
    if system:
        parts = system if isinstance(system, list) else [system]
        joined = "".join(p if isinstance(p, str) else str(at(p, "content") or "") for p in parts)
        messages.append({"role": "system", "content": joined})
    for item in objects(at(ai, "input", "messages")) or objects(at(ai, "prompt")):
        messages += _of_parts(item)
    return _joined_calls(messages)


def _joined_calls(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers to tool calls under the ids of those: OpenLLMetry has the ids of items there, of OpenAI's responses."""
    asked: list[Any] = []
    for message in messages:
        if message.get("role") != "tool":
            asked = [str(call["id"]) for call in message.get("tool_calls", ())]
        elif asked:
            item = asked.pop(0)
            if item.startswith("fc_") and str(message.get("tool_call_id")).startswith("call_"):
                message["tool_call_id"] = item
    return messages


def _answers(ai: object) -> list[dict[str, Any]]:
    answers = []
    for item in objects(at(ai, "output", "messages")) or objects(at(ai, "completion")):
        reason = item.get("finish_reason")
        answers += [{**m, "finish_reason": reason} for m in _of_parts({"role": "assistant", **item})]
    return answers


def _of_parts(item: dict[str, Any]) -> list[dict[str, Any]]:
    """A message in OpenAI's shape; its answers to tool calls become messages of their own."""
    role = item.get("role") or "user"
    parts = parsed(item.get("parts"))
    if not isinstance(parts, list):
        return [_numbered(role, item)]
    blocks: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for part in parts:
        if not isinstance(part, dict):
            blocks.append({"type": "text", "text": str(part)})
            continue
        kind = part.get("type")
        if kind == "text":
            blocks.append({"type": "text", "text": str(part.get("content") or "")})
        elif kind == "tool_call":
            calls.append(asked_for(part.get("id"), part.get("name"), part.get("arguments")))
        elif kind == "tool_call_response":
            answer = part.get("response", part.get("result"))
            results.append({"role": "tool", "tool_call_id": part.get("id"), "content": as_text(answer)})
        elif kind == "reasoning":
            blocks.append({"type": "reasoning", "reasoning": part.get("content")})
        elif part.get("modality") == "image":
            data = part.get("uri") or part.get("content") or part.get("file_id")
            # the conventions do not record the level of detail; nobody is to be told it was high on a guess
            detail = part.get("detail") or "low"
            blocks.append({"type": "image", "mime_type": part.get("mime_type"), "url": data, "detail": detail})
        else:
            blocks.append(part)
    if results and not blocks and not calls:
        return results
    plain = all(b.get("type") == "text" for b in blocks)
    message: dict[str, Any] = {"role": role, "content": "".join(b["text"] for b in blocks) if plain else blocks}
    if calls:
        message["tool_calls"] = calls
    return [*results, message]


def _messages_of(role: object, item: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of one in OpenAI's shape, or in that of Bedrock's Converse, where blocks answer tool calls."""
    blocks = parsed(item.get("content"))
    return messages_of_blocks(role, blocks) if is_converse(blocks) else [_numbered(role, item)]


def _numbered(role: object, item: dict[str, Any]) -> dict[str, Any]:
    """A message of OpenLLMetry, or in OpenAI's own shape."""
    content = parsed(item.get("content"))
    if not isinstance(content, list):
        content = item.get("content")  # JSON that is no list of blocks is what was said
    message: dict[str, Any] = {"role": role, "content": "" if content is None else content}
    calls = []
    for call in objects(item.get("tool_calls")):
        function = call.get("function")
        source = function if isinstance(function, dict) else call
        calls.append(asked_for(call.get("id"), source.get("name"), source.get("arguments")))
    if calls:
        message["tool_calls"] = calls
    if answered := named(item.get("tool_call_id")):
        message["tool_call_id"] = answered
    return message


def _from_events(events: list[tuple[str, Attributes]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Prompt and answers of older conventions: an event per message, or two events with everything."""
    said: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for name, attributes in events:
        kind = name.removeprefix("gen_ai.")
        if kind == "content.prompt":
            found = parsed(at(attributes, "gen_ai", "prompt"))
            said += [{"role": "user", "content": found}] if isinstance(found, str) else map_numbered(found)
        elif kind == "content.completion":
            found = parsed(at(attributes, "gen_ai", "completion"))
            answers += [{"role": "assistant", "content": found}] if isinstance(found, str) else map_numbered(found)
        elif kind == "choice":
            message = parsed(attributes.get("message"))
            said_so = attributes if message is None else {"content": message}
            item = message if isinstance(message, dict) else said_so
            reason = attributes.get("finish_reason")
            answers += [{**m, "finish_reason": reason} for m in _messages_of("assistant", item)]
        elif kind.endswith(".message"):
            role = kind.removesuffix(".message")
            for message in _messages_of(attributes.get("role") or role, attributes):
                if role == "tool" and "tool_call_id" not in message and (answered := named(attributes.get("id"))):
                    message["tool_call_id"] = answered
                said.append(message)
    return said, answers


def map_numbered(found: object) -> list[dict[str, Any]]:
    """Messages of a list in OpenAI's shape."""
    return [_numbered(m.get("role") or "user", m) for m in objects(found)]


# --- tools and documents ---------------------------------------------------------------------------


def _tool(call: SpanCall, tree: Attributes, span_name: str, events: list[tuple[str, Attributes]]) -> None:
    tool = at(tree, "gen_ai", "tool")
    call.name = tool_name(tree, span_name)
    entity = at(tree, "traceloop", "entity")
    told = dict(events)  # Strands: what it was given and what it made are messages
    givens = (
        at(tool, "call", "arguments"),
        at(entity, "input"),
        tree.get("tool_arguments"),  # an older form of Pydantic AI
        at(told.get("gen_ai.tool.message"), "content"),
    )
    mades = (
        at(tool, "call", "result"),
        at(entity, "output"),
        tree.get("tool_response"),
        at(told.get("gen_ai.choice"), "message"),
    )
    given = next((parsed(g) for g in givens if g is not None), None)
    asked = None
    if isinstance(given, dict) and "input_str" in given:  # OpenLLMetry: all that LangChain's hook was called with
        asked = at(given, "kwargs", "tool_call_id")
        given = next((parsed(given[k]) for k in ("inputs", "input_str") if given.get(k)), None)
    call.inputs = given if isinstance(given, dict) else {"input": given} if given is not None else {}
    made = next((parsed(m) for m in mades if m is not None), None)
    if is_converse(made):
        made = joined(made)
    if isinstance(made, dict) and "output" in made and not made.keys() - {"output", "kwargs"}:
        made = parsed(made["output"])
    call.outputs = {"output": made} if made is not None else None
    call.tool_call_id = named(
        at(tool, "call", "id"), asked, at(made, "tool_call_id"), at(made, "kwargs", "tool_call_id")
    )


def _document(found: dict[str, Any]) -> dict[str, Any]:
    """A document; the conventions record ids and scores, some instrumentations the text."""
    text = named(found.get("content"), found.get("page_content"), found.get("text"), found.get("id"))
    return {"page_content": text or "", "metadata": {}}
