"""Bodies of Bedrock's Converse API in OpenAI's shape: blocks say what they are by their only key, not by a type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINDS = frozenset({"text", "json", "toolUse", "toolResult", "reasoningContent", "cachePoint", "image", "document"})


def messages_of_blocks(role: object, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages of one: its blocks may answer tool calls, which in OpenAI's shape are messages of their own."""
    asked, results, rest = [], [], []
    for block in blocks:
        if isinstance(call := block.get("toolUse"), dict):
            asked.append(asked_for(call.get("toolUseId"), call.get("name"), call.get("input")))
        elif isinstance(result := block.get("toolResult"), dict):
            content = joined(result.get("content"))
            answer = {"role": "tool", "tool_call_id": result.get("toolUseId"), "content": content}
            results.append({**answer, "status": "error"} if result.get("status") == "error" else answer)
        elif "cachePoint" not in block:
            rest.append(block)
    if results and not rest and not asked:
        return results
    message: dict[str, Any] = {"role": role, "content": joined(rest)}
    return [*results, {**message, "tool_calls": asked} if asked else message]


def is_converse(blocks: object) -> TypeGuard[list[dict[str, Any]]]:
    """True for content in Converse's blocks."""
    return (
        isinstance(blocks, list)
        and bool(blocks)
        and all(isinstance(b, dict) and "type" not in b and not _KINDS.isdisjoint(b) for b in blocks)
    )


def calls_tools(blocks: object) -> TypeGuard[list[dict[str, Any]]]:
    """True for content in Converse's blocks that asks for tools or answers their calls."""
    return is_converse(blocks) and any("toolUse" in b or "toolResult" in b for b in blocks)


def params_of_converse(request: Mapping[str, Any]) -> dict[str, Any]:
    """Tools and `max_tokens`."""
    tools, limits = request.get("toolConfig"), request.get("inferenceConfig")
    params: dict[str, Any] = {}
    if isinstance(tools, dict) and isinstance(tools.get("tools"), list):
        params["tools"] = tools["tools"]
    if isinstance(limits, dict) and "maxTokens" in limits:
        params["max_tokens"] = limits["maxTokens"]
    return params


def answer_of_converse(body: Mapping[str, Any]) -> dict[str, Any]:
    """An answer in the shape of a chat completion."""
    said = body["output"]["message"]
    blocks = said.get("content")
    message = messages_of_blocks("assistant", blocks)[-1] if is_converse(blocks) else said
    rest = {k: v for k, v in body.items() if k not in ("output", "stopReason")}
    return {**rest, "choices": [{"message": message, "finish_reason": body.get("stopReason")}]}


def asked_for(call_id: object, name: object, args: object) -> dict[str, Any]:
    """A tool call in OpenAI's shape."""
    return {"id": call_id or "", "type": "function", "function": {"name": name, "arguments": args}}


def as_text(value: object) -> str:
    """What was said, or the JSON of what is no text."""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode() if value is not None else ""
    except TypeError:
        return str(value)


def joined(blocks: object) -> str:
    """The text of blocks, or the JSON of them where they are more than text."""
    texts = [b.get("text") if isinstance(b, dict) else None for b in blocks] if isinstance(blocks, list) else [None]
    return (
        "".join(t for t in texts if isinstance(t, str)) if all(isinstance(t, str) for t in texts) else as_text(blocks)
    )
