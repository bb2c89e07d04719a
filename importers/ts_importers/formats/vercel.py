"""Spans of Vercel's AI SDK (`ai.*`): a call of a model lies inside the function that made it, and is what is billed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_importers.converse import as_text, asked_for
from ts_importers.formats.attributes import Attributes, at, named, objects
from ts_importers.formats.call import SpanCall, count, provider_of, usage
from ts_importers.values import parsed
from ts_langchain.capture.answers import read_usage

if TYPE_CHECKING:
    from ts_langchain.replay import RunType

_OPERATIONS: dict[str, RunType] = {
    "ai.generateText.doGenerate": "llm",
    "ai.streamText.doStream": "llm",
    "ai.generateObject.doGenerate": "llm",
    "ai.streamObject.doStream": "llm",
    "ai.embed.doEmbed": "embedding",
    "ai.embedMany.doEmbed": "embedding",
    "ai.toolCall": "tool",
}
_SESSIONS = ("sessionId", "session_id", "threadId", "thread_id", "conversationId", "conversation_id", "chatId")
_USERS = ("userId", "user_id")
_PROVIDERS = {"amazon-bedrock": "amazon_bedrock", "azure-openai": "azure_openai"}
_REASONS = {"tool-calls": "tool_calls", "max-tokens": "length"}


def speaks(tree: Attributes) -> bool:
    """True if the SDK wrote the span."""
    return isinstance(at(tree, "ai", "operationId"), str)


def kind_of(tree: Attributes) -> RunType | None:
    """What was called; None for the functions around the calls."""
    return _OPERATIONS.get(str(at(tree, "ai", "operationId")))


def session_of(tree: Attributes) -> str | None:
    """The conversation that the app's metadata names."""
    metadata = at(tree, "ai", "telemetry", "metadata")
    return named(*(at(metadata, n) for n in _SESSIONS))


def from_langchain(_tree: Attributes) -> bool:
    """False: it is a framework of its own, and a client."""
    return False


def made_by(tree: Attributes) -> tuple[str | None, str | None]:
    """The model that was called, and its provider; the SDK adds which of its APIs (`openai.responses`)."""
    model = named(at(tree, "ai", "response", "model"), at(tree, "ai", "model", "id"))
    provider = (named(at(tree, "ai", "model", "provider")) or "").partition(".")[0]
    return model, provider_of(_PROVIDERS.get(provider, provider))


def usage_of(tree: Attributes) -> dict[str, Any] | None:
    """Tokens, in LangChain's shape; None if none were counted."""
    counts = at(tree, "ai", "usage")
    sent = count(at(counts, "inputTokens"), at(counts, "promptTokens"), at(counts, "tokens"))
    got = count(at(counts, "outputTokens"), at(counts, "completionTokens"))
    told = parsed(at(tree, "ai", "response", "providerMetadata"))
    bedrock, openai = at(told, "bedrock", "usage"), at(told, "openai")
    own = read_usage(at(told, "anthropic", "usage"))  # older versions count as the provider does, without the caches
    read = count(
        at(counts, "inputTokenDetails", "cacheReadTokens"),
        at(counts, "cachedInputTokens"),
        at(bedrock, "cacheReadInputTokens"),
        at(openai, "cachedPromptTokens"),
        own.cache_read_tokens if own is not None else None,
    )
    written = count(
        at(counts, "inputTokenDetails", "cacheWriteTokens"),
        at(bedrock, "cacheWriteInputTokens"),
        own.cache_write_tokens if own is not None else None,
    )
    thought = count(
        at(counts, "outputTokenDetails", "reasoningTokens"),
        at(counts, "reasoningTokens"),
        at(openai, "reasoningTokens"),
    )
    sent = max(sent, own.input_tokens) if own is not None else sent
    return usage(sent, got, read, written, thought, total=count(at(counts, "totalTokens")))


def call_of(kind: RunType, tree: Attributes) -> SpanCall:
    """Reads a call."""
    ai = tree["ai"]
    model, provider = made_by(tree)
    user = named(*(at(ai, "telemetry", "metadata", n) for n in _USERS))
    call = SpanCall(model, model, provider, metadata={"user_id": user} if user else {})
    if kind == "tool":
        _tool(call, at(ai, "toolCall"))
        return call
    call.usage = usage_of(tree)
    if kind == "embedding":
        values = at(ai, "values") or [at(ai, "value")]
        call.inputs = {"texts": [as_text(parsed(v)) for v in values] if isinstance(values, list) else []}
        return call
    _model(call, ai)
    return call


def _tool(call: SpanCall, told: object) -> None:
    call.name = named(at(told, "name"))
    given = parsed(at(told, "args"))
    call.inputs = given if isinstance(given, dict) else {} if given is None else {"input": given}
    made = parsed(at(told, "result"))
    call.outputs = {"output": made} if made is not None else None
    call.tool_call_id = named(at(told, "id"))


def _model(call: SpanCall, ai: dict[str, Any]) -> None:
    settings, answer = at(ai, "settings"), at(ai, "response")
    for name, value in (
        ("temperature", at(settings, "temperature")),
        ("max_tokens", at(settings, "maxOutputTokens") or at(settings, "maxTokens")),
    ):
        if value is not None:
            call.params[name] = value
    given = parsed(at(ai, "prompt", "tools"))
    if tools := [t for v in given if isinstance(t := parsed(v), dict)] if isinstance(given, list) else []:
        call.params["tools"] = [{"type": "function", "function": t} for t in tools]
    call.inputs = {"messages": [m for said in objects(at(ai, "prompt", "messages")) for m in _messages(said)]}
    said = at(answer, "text") or at(answer, "object")
    message: dict[str, Any] = {"role": "assistant", "content": said if isinstance(said, str) else ""}
    if calls := objects(at(answer, "toolCalls")):
        message["tool_calls"] = [_asked(c) for c in calls]
    reason = at(answer, "finishReason")
    if said or calls or reason or call.usage:
        call.outputs = {"message": message, "finish_reason": _REASONS.get(str(reason), reason)}


def _messages(said: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of one: its parts may answer tool calls, which in OpenAI's shape are messages of their own."""
    role, content = said.get("role"), said.get("content")
    if not isinstance(content, list):
        return [{"role": role, "content": content}]
    rest, calls, results = [], [], []
    for part in (p for p in content if isinstance(p, dict)):
        if part.get("type") == "tool-call":
            calls.append(_asked(part))
        elif part.get("type") == "tool-result":
            found = part.get("output", part.get("result"))
            found = found["value"] if isinstance(found, dict) and "value" in found else found
            results.append({"role": "tool", "tool_call_id": part.get("toolCallId"), "content": as_text(found)})
        else:
            rest.append(part)
    if results and not rest and not calls:
        return results
    message: dict[str, Any] = {"role": role, "content": rest}
    return [*results, {**message, "tool_calls": calls} if calls else message]


def _asked(call: dict[str, Any]) -> dict[str, Any]:
    return asked_for(call.get("toolCallId"), call.get("toolName"), call.get("input", call.get("args")))
