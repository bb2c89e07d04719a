"""Bodies of requests and answers as they went over the wire: OpenAI (chat, responses), Anthropic, Gemini, Bedrock's
Converse; streamed or whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_importers.converse import answer_of_converse, calls_tools, messages_of_blocks, params_of_converse
from ts_importers.gemini import answer_of_gemini, is_gemini, messages_of_contents, params_of_gemini
from ts_importers.values import loads

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTENT = ("messages", "input", "prompt", "system", "instructions")


def mapping(value: object) -> dict[str, Any]:
    """An object, or the object that a JSON string holds; empty if it is neither."""
    if isinstance(value, str) and value[:1] == "{":
        try:
            value = loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def text(value: object) -> str | None:
    """A string that says something."""
    return value if isinstance(value, str) and value else None


def messages_of(request: Mapping[str, Any]) -> Any:
    """The messages of a request, a system prompt that stands apart first."""
    if "contents" in request:
        return messages_of_contents(request)
    messages = request.get("messages", request.get("input", request.get("prompt")))
    if isinstance(messages, list):
        messages = _messages_of_items(messages)
    system = request.get("system") or request.get("instructions")
    if not system:
        return messages
    rest = messages if isinstance(messages, list) else [messages] if isinstance(messages, str) else []
    return [{"role": "system", "content": system}, *rest]


def params_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """What a request says besides its messages: model, tools, temperature, `max_tokens`."""
    if "contents" in request:
        return params_of_gemini(request)
    params = {k: v for k, v in request.items() if k not in _CONTENT}
    if "toolConfig" in params or "inferenceConfig" in params:
        params |= params_of_converse(request)
    if "max_tokens" not in params and "max_output_tokens" in params:
        params["max_tokens"] = params["max_output_tokens"]
    return params


def answer_of(body: object) -> dict[str, Any]:
    """The answer, put together from its pieces where it was streamed; empty if there is none."""
    if isinstance(body, str) and "data:" in body[:2000]:
        return assembled(_events(body))
    found = mapping(body)
    pieces = body if isinstance(body, list) else found.get("streamed_data")
    if isinstance(pieces, str):
        pieces = _events(pieces)
    if isinstance(pieces, list):
        return assembled([p for p in pieces if isinstance(p, dict)])
    if is_gemini(found):
        return answer_of_gemini([found])
    if isinstance(mapping(found.get("output")).get("message"), dict):
        return answer_of_converse(found)
    return _answer_of_items(found) if isinstance(found.get("output"), list) else _counted(found)


def _counted(body: dict[str, Any]) -> dict[str, Any]:
    """An answer with its tokens where others have them: Cohere bills some of them, Ollama has them beside it."""
    billed = mapping(mapping(body.get("usage")).get("billed_units"))
    if billed:
        return {
            **body,
            "usage": {"input_tokens": billed.get("input_tokens"), "output_tokens": billed.get("output_tokens")},
        }
    if "eval_count" in body and "usage" not in body:
        counts = {"prompt_tokens": body.get("prompt_eval_count"), "completion_tokens": body["eval_count"]}
        return {**body, "usage": counts, "finish_reason": body.get("done_reason")}
    return body


# --- OpenAI's responses API ------------------------------------------------------------------------


def _messages_of_items(items: list[Any]) -> list[Any]:
    """Items of the responses API as chat messages; what is a message already stays as it is."""
    messages: list[Any] = []
    for item in items:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "function_call":
            call = _call(item)
            last = messages[-1] if messages else None
            if isinstance(last, dict) and last.get("role") == "assistant":
                messages[-1] = {**last, "tool_calls": [*(last.get("tool_calls") or ()), call]}
            else:
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif kind == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")})
        elif isinstance(item, dict) and calls_tools(blocks := item.get("content")):
            messages += messages_of_blocks(item.get("role"), blocks)
        elif kind != "reasoning":
            messages.append(item)
    return messages


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    return {"id": item.get("call_id") or item.get("id"), "type": "function", "function": function}


def _answer_of_items(body: dict[str, Any]) -> dict[str, Any]:
    """An answer of the responses API in the shape of a chat completion."""
    texts: list[str] = []
    calls = []
    for item in body["output"]:
        if not isinstance(item, dict):
            continue
        if item.get("type") == "function_call":
            calls.append(_call(item))
        elif isinstance(content := item.get("content"), list) and item.get("type") == "message":
            texts += [t for part in content if (t := text(mapping(part).get("text")))]
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if calls:
        message["tool_calls"] = calls
    cut = mapping(body.get("incomplete_details")).get("reason")
    reason = "length" if cut == "max_output_tokens" else cut or ("tool_calls" if calls else "stop")
    rest = {k: v for k, v in body.items() if k != "output"}
    return {**rest, "choices": [{"message": message, "finish_reason": reason}]}


# --- streamed answers ------------------------------------------------------------------------------


def _events(stream: str) -> list[dict[str, Any]]:
    events = []
    for line in stream.splitlines():
        if line.startswith("data:"):
            event = mapping(line[5:].strip())
            if event:
                events.append(event)
    return events


def assembled(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer from OpenAI's chunks or events or from Anthropic's events, in the shape of a chat completion."""
    if any(map(is_gemini, pieces)):
        return answer_of_gemini(pieces)
    texts: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    reason = model = tier = None
    usage: dict[str, Any] = {}
    for piece in pieces:
        kind = piece.get("type")
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            return answer_of(piece.get("response"))
        started = mapping(piece.get("message"))
        model = text(piece.get("model")) or text(started.get("model")) or model
        tier = text(piece.get("service_tier")) or tier
        counted = mapping(started.get("usage")) | mapping(mapping(piece.get("x_groq")).get("usage"))
        usage |= {k: v for k, v in (counted | mapping(piece.get("usage"))).items() if v}
        choices = piece.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        delta = mapping(choice.get("delta"))
        if text(delta.get("content")):
            texts.append(delta["content"])
        asked = delta.get("tool_calls")
        for part in asked if isinstance(asked, list) else ():
            if isinstance(part, dict):
                function = mapping(part.get("function"))
                call = calls.setdefault(_index(part), {"id": "", "name": "", "arguments": ""})
                call["id"] += text(part.get("id")) or ""
                call["name"] += text(function.get("name")) or ""
                call["arguments"] += str(function.get("arguments") or "")
        reason = choice.get("finish_reason") or reason
        if kind == "content_block_start" and mapping(piece.get("content_block")).get("type") == "tool_use":
            block = piece["content_block"]
            calls[_index(piece)] = {
                "id": text(block.get("id")) or "",
                "name": text(block.get("name")) or "",
                "arguments": "",
            }
        elif kind == "content_block_delta":
            change = mapping(piece.get("delta"))
            if text(change.get("text")):
                texts.append(change["text"])
            if _index(piece) in calls:
                calls[_index(piece)]["arguments"] += str(change.get("partial_json") or "")
        elif kind == "message_delta":
            reason = mapping(piece.get("delta")).get("stop_reason") or reason
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if calls:
        message["tool_calls"] = [
            {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for _, c in sorted(calls.items())
        ]
    answer: dict[str, Any] = {"choices": [{"message": message, "finish_reason": reason}]}
    if usage:
        answer["usage"] = usage
    if model:
        answer["model"] = model
    if tier:
        answer["service_tier"] = tier
    if any(piece.get("type") == "message_start" for piece in pieces):
        answer["type"] = "message"  # by which Anthropic's is told
    return answer


def _index(part: Mapping[str, Any]) -> int:
    index = part.get("index")
    return index if type(index) is int else 0
