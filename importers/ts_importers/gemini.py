"""Bodies of Gemini's API (`generateContent`, whole or streamed) in OpenAI's shape."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ts_importers.converse import as_text, asked_for
from ts_importers.values import number, usage_metadata
from ts_langchain.capture.answers import MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

_SYSTEM = ("systemInstruction", "system_instruction")
_SETTINGS = ("generationConfig", "generation_config")
_DECLARED = ("functionDeclarations", "function_declarations")
_REASONS = {"STOP": "stop", "MAX_TOKENS": "length"}
_TIERS = {"ON_DEMAND_FLEX": "flex", "ON_DEMAND_PRIORITY": "priority"}
"""Vertex says with the tokens how it processed the request."""
_PARAMS = {"maxOutputTokens": "max_tokens", "temperature": "temperature", "topP": "top_p"}


def messages_of_contents(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a request, the system instruction first."""
    said = next((request[n] for n in _SYSTEM if request.get(n)), None)
    contents = request["contents"]
    turns = contents if isinstance(contents, list) else [contents]
    system = _messages_of_parts("system", said) if said else []
    return [*system, *(m for turn in turns for m in _messages_of_parts("user", turn))]


def params_of_gemini(request: Mapping[str, Any]) -> dict[str, Any]:
    """What a request says besides: tools, temperature, `max_tokens`."""
    settings: Mapping[str, Any] = next((request[n] for n in _SETTINGS if isinstance(request.get(n), dict)), {})
    params: dict[str, Any] = {name: settings[n] for n, name in _PARAMS.items() if settings.get(n) is not None}
    given = request.get("tools")
    declared = [d for t in given if isinstance(t, dict) for d in _declared(t)] if isinstance(given, list) else []
    if declared:
        params["tools"] = [{"type": "function", "function": d} for d in declared]
    return params | {k: request[k] for k in ("model",) if k in request}


def is_gemini(body: object) -> bool:
    """True for an answer of Gemini's, or a piece of one."""
    if not isinstance(body, dict):
        return False
    candidates = body.get("candidates")
    first = candidates[0] if isinstance(candidates, list) and candidates else None
    return "usageMetadata" in body or (isinstance(first, dict) and not {"content", "finishReason"}.isdisjoint(first))


def answer_of_gemini(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer from its pieces, or from one whole, in the shape of a chat completion."""
    parts: list[Any] = []
    answer: dict[str, Any] = {}
    counted: Any = None
    reason = None
    for piece in pieces:
        candidates = piece.get("candidates")
        first = candidates[0] if isinstance(candidates, list) and candidates else {}
        if isinstance(first, dict):
            parts += _parts(first.get("content"))
            reason = first.get("finishReason") or reason
        counted = piece.get("usageMetadata") or counted
        answer |= {name: piece[n] for n, name in (("modelVersion", "model"), ("responseId", "id")) if piece.get(n)}
        if "error" in piece:
            answer["error"] = piece["error"]
    [*_, message] = _messages_of_parts("assistant", {"parts": parts}) or [{"role": "assistant", "content": ""}]
    answer["choices"] = [{"message": message, "finish_reason": _REASONS.get(str(reason), reason)}]
    if isinstance(counted, dict) and (usage := _usage(counted)):
        answer["usage"] = usage
        if (tier := _TIERS.get(str(counted.get("trafficType")))) is not None:
            answer["service_tier"] = tier
    return answer


def _usage(counted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Gemini counts what was thought, and what tools of its own brought, apart from the rest."""

    def count(name: str) -> int:
        return int(number(counted.get(name), MAX_TOKENS) or 0)

    def of(name: str, modality: str) -> int:
        parts = [d for d in details if isinstance(d, dict)] if isinstance(details := counted.get(name), list) else []
        return sum(int(number(d.get("tokenCount"), MAX_TOKENS) or 0) for d in parts if d.get("modality") == modality)

    thought = count("thoughtsTokenCount")
    return usage_metadata(
        count("promptTokenCount") + count("toolUsePromptTokenCount"),
        count("candidatesTokenCount") + thought,
        read=count("cachedContentTokenCount"),
        reasoning=thought,
        # what of it was cached is cached input, and counted there
        audio_in=max(0, of("promptTokensDetails", "AUDIO") - of("cacheTokensDetails", "AUDIO")),
        audio_out=of("candidatesTokensDetails", "AUDIO"),
        drawn=of("candidatesTokensDetails", "IMAGE"),
    )


def _declared(tool: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = next((tool[n] for n in _DECLARED if isinstance(tool.get(n), list)), [])
    return [d for d in found if isinstance(d, dict)]


def _parts(content: object) -> list[Any]:
    parts = content.get("parts") if isinstance(content, dict) else content
    if isinstance(parts, str):
        return [{"text": parts}]
    if isinstance(parts, dict):
        return [parts]
    return [p for p in parts if isinstance(p, dict)] if isinstance(parts, list) else []


def _messages_of_parts(role: str, content: object) -> list[dict[str, Any]]:
    """The messages of one: its parts may answer tool calls, which in OpenAI's shape are messages of their own.

    A call without an id is known by its name, and by its place among those of the same name.
    """
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    named = content.get("role") if isinstance(content, dict) else None
    role = {"model": "assistant"}.get(str(named), role)
    texts: list[str] = []
    others, asked, results = [], [], []
    before: Counter[tuple[str, str]] = Counter()
    for part in _parts(content):
        if isinstance(call := part.get("functionCall"), dict):
            asked.append(asked_for(_id(call, "call", before), call.get("name"), call.get("args")))
        elif isinstance(found := part.get("functionResponse"), dict):
            answered = _id(found, "response", before)
            results.append({"role": "tool", "tool_call_id": answered, "content": as_text(found.get("response"))})
        elif isinstance(text := part.get("text"), str):
            if not part.get("thought"):
                texts.append(text)
        else:
            others.append({k: v for k, v in part.items() if k != "thoughtSignature"})
    if results and not texts and not asked and not others:
        return results
    said: Any = [{"type": "text", "text": "".join(texts)}, *others] if others else "".join(texts)
    message: dict[str, Any] = {"role": role, "content": said}
    return [*results, {**message, "tool_calls": asked} if asked else message]


def _id(call: Mapping[str, Any], kind: str, before: Counter[tuple[str, str]]) -> str:
    if call.get("id"):
        return str(call["id"])
    name = str(call.get("name"))
    before[kind, name] += 1
    return name if before[kind, name] == 1 else f"{name}#{before[kind, name]}"
