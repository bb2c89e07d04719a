"""Logs of requests and their answers: OpenAI's chat completions and responses, Anthropic's messages, Gemini's and
Bedrock's, batch output.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from ts_importers.base import Skipped
from ts_importers.bodies import answer_of, mapping, messages_of, params_of, text
from ts_importers.formats.base import Key, Row, Setting, first
from ts_importers.gemini import is_gemini
from ts_importers.redacted import without_redacted
from ts_importers.values import MAX_USD, number, timestamp
from ts_langchain.call import SourceCost
from ts_langchain.capture.continued import says_nothing
from ts_langchain.replay import Run

_REQUEST = ("request", "request_body", "req")
_RESPONSE = ("response", "response_body", "res", "resp")
_START = ("timestamp", "start_time", "started_at", "created_at", "request_created_at", "time", "created", "ts")
_END = ("end_time", "ended_at", "response_created_at", "completed_at")
_SESSION = ("session_id", "thread_id", "conversation_id")
_SECONDS = ("duration", "duration_s", "latency_s", "elapsed")
_MILLISECONDS = ("duration_ms", "latency_ms", "delay_ms", "latency")
_ASKED = frozenset({"model", "messages", "input", "prompt", "contents"})
_ANSWERED = frozenset({"choices", "usage", "output", "data"})
_ANSWERS = ("chat.completion", "response")
_ADDRESS = ("url", "path", "uri", "endpoint")
_IN_ADDRESS = re.compile(r"/models?/([^/:?]+)(?::|/(converse|invoke))")
"""Gemini and Bedrock name the model there, and nowhere in the request."""
_HOSTS = {
    "api.groq.com": "groq",
    "openrouter.ai": "openrouter",
    "api.mistral.ai": "mistralai",
    "api.deepseek.com": "deepseek",
    "api.cerebras.ai": "cerebras",
    "api.together.xyz": "together",
    "api.fireworks.ai": "fireworks",
    "api.x.ai": "xai",
}
"""Others who speak OpenAI's language, and have models of the same names at prices of their own."""
_FIRST = 1_400_000_000
"""Before any such API: servers of one's own fill in some number."""
_INSTANT = 0.001
_DAY = 86_400.0


class Exchanges:
    """A request and its answer a row: a model call, or an embedding."""

    name = "exchanges"
    title = "OpenAI, Anthropic, Gemini or Bedrock requests and responses"
    expects = "request, response; of batches custom_id, result"
    spans = False

    def recognises(self, document: Row) -> str | None:
        if "spans" in document:  # a trace, which may say what was requested and responded, too
            return None
        document = _told(document)
        said, answered = first(document, *_REQUEST), first(document, *_RESPONSE)
        if said is None:
            found = isinstance(answered, dict) and ("custom_id" in document or _looks_answered(_body(answered)))
            found = found or ("custom_id" in document and isinstance(document.get("error"), dict))
        else:
            answer = answer_of(_inner(answered))
            failed = "messages" not in document and _error(document, answered, answer) is not None
            found = not _ASKED.isdisjoint(_body(said)) and (_looks_answered(answer) or failed)
        return self.title if found else None

    def rows(self, document: Row) -> tuple[Row]:
        return (document,)

    def key(self, row: Row) -> Key:
        return Key(_started(_told(row)))

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        row = _told(row)
        asked, answered = first(row, *_REQUEST), first(row, *_RESPONSE)
        request, answer = _body(asked), answer_of(_inner(answered))
        failed = _error(row, answered, answer)
        if "custom_id" in row and answer:  # a batch, at a batch's price
            answer = {**answer, "service_tier": "batch"}
        if "questions" in request and "answers" in answer:
            answer = {**answer, "output": {"answers": answer["answers"]}}
        if not request and not answer and failed is None:
            return [Skipped(setting.place, "neither a request nor a response that can be read")]
        if not answer and failed is None:
            return [Skipped(setting.place, "a request without its response")]
        started = _started(row)
        started = setting.clock if started is None else started
        ended = _ended(row, started)
        run_id = _id(row, answer) or setting.place
        messages = messages_of(request)
        embeds = "embedding" in str(first(row, "url", "path") or answer.get("object") or "") or (
            isinstance(answer.get("data"), list) and "input" in request
        )
        user = text(request.get("user")) or text(mapping(request.get("metadata")).get("user_id"))
        session = _session(row, request) or (row.get("custom_id") if "custom_id" in row else None)
        session = session if isinstance(session, str) and session else None
        addressed, host = _addressed(row, asked)
        model = text(request.get("model")) or addressed or text(answer.get("model")) or setting.model
        metadata: dict[str, Any] = {
            "ls_model_name": model,
            "ls_provider": text(row.get("provider"))
            or setting.provider
            or host
            or _provider(model or "", request, answer),
        }
        if session is not None:
            metadata["session_id"] = session
        if user is not None:
            metadata["user_id"] = user
        if says_nothing(messages if isinstance(messages, list) else [messages]):  # the unknown is no repeat
            messages, answer = [], without_redacted(answer)
        return [
            Run(
                run_id,
                "embedding" if embeds else "llm",
                metadata["ls_model_name"] or "request",
                started,
                # nobody knows; but it had ended when the next request of the conversation began
                started + _INSTANT if ended is None else ended,
                session or text(row.get("trace_id")) or run_id,
                inputs={"input": request.get("input") if messages else None} if embeds else {"messages": messages},
                outputs=answer if answer and failed is None else None,
                error=failed,
                metadata=metadata,
                invocation_params=params_of(request),
                # images and the like come without a message, beside which it would be found
                usage=answer.get("usage"),
                cost=_cost(row),
                cached=str(row.get("cache_hit")).lower() == "true",
            )
        ]


def _told(row: Row) -> Row:
    """A row as request and response, as OpenAI's batches have them: of the batches of others, and of answers alone."""
    result = row.get("result")
    if "custom_id" in row and isinstance(result, dict):  # Anthropic's
        failed = mapping(mapping(result.get("error")).get("error")) or {"type": text(result.get("type"))}
        message = result.get("message")
        return {**row, "response": message, "error": None if mapping(message) else failed}
    if "modelOutput" in row or ("modelInput" in row and "error" in row):  # Bedrock's
        failed = mapping(row.get("error"))
        return {
            "custom_id": row.get("recordId"),
            "request": row.get("modelInput"),
            "response": row.get("modelOutput"),
            "error": {"type": failed.get("errorCode"), "message": failed.get("errorMessage")} if failed else None,
            "provider": "amazon_bedrock",
        }
    if "processed_time" in row and "request" in row:  # Vertex AI's
        return {**row, "custom_id": None, "timestamp": row["processed_time"], "error": text(row.get("status"))}
    if "key" in row and "request" not in row and is_gemini(mapping(row.get("response"))):  # Gemini's
        return {**row, "custom_id": row["key"]}
    if row.get("object") in _ANSWERS and "request" not in row:
        return {"response": row, "metadata": row.get("metadata")}
    if isinstance(row.get("messages"), list) and first(row, *_REQUEST) is None:  # the request itself, its answer in it
        return {**row, "request": {name: value for name, value in row.items() if name not in _RESPONSE}}
    return row


def _id(row: Row, answer: Row) -> str | None:
    """The call. One HTTP request may make several, and two batches have the same names for theirs."""
    named = (text(first(row, "id", "request_id", "custom_id")), text(answer.get("id")))
    return "/".join(dict.fromkeys(name for name in named if name)) or None


def _inner(said: object) -> object:
    """What was sent, without what the log wraps around it."""
    found = mapping(said)
    return found["body"] if "body" in found and "choices" not in found and "content" not in found else said


def _body(said: object) -> dict[str, Any]:
    return mapping(_inner(said))


def _looks_answered(body: dict[str, Any]) -> bool:
    return not _ANSWERED.isdisjoint(body) or body.get("type") == "message"


def _started(row: Row) -> float | None:
    for name in _START:
        found = timestamp(row.get(name))
        if found is not None:
            return found
    body = _body(first(row, *_RESPONSE))
    told = (timestamp(body.get(n)) for n in ("created", "created_at", "createTime"))
    return next((at for at in told if at is not None and at > _FIRST), None)


def _ended(row: Row, started: float) -> float | None:
    """When the answer had come; None if the log does not say."""
    for name in _END:
        found = timestamp(row.get(name))
        if found is not None:
            return max(started, found)
    for names, scale in ((_SECONDS, 1.0), (_MILLISECONDS, 1000.0)):
        for name in names:
            took = number(row.get(name), _DAY * scale)
            if took is not None:
                return started + took / scale
    return None


def _error(row: Row, answered: object, answer: dict[str, Any]) -> str | None:
    """What went wrong: `HTTP 429`, or the type and the message of an error; None if nothing did."""
    status = mapping(answered).get("status_code", row.get("status_code", row.get("status")))
    if isinstance(status, int) and (status >= 400 or status < 0):
        return f"HTTP {status}"
    for found in (answer.get("error"), row.get("error")):
        if isinstance(found, dict):
            kind = text(found.get("type")) or text(found.get("code")) or "Error"
            return f"{kind}: {str(found.get('message') or '')[:2000]}"
        if text(found):
            return str(found)[:2000]
    return None


def _session(row: Row, request: dict[str, Any]) -> str | None:
    """The conversation that the log, the request's metadata or the responses API names."""
    conversation = request.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    places = (row, mapping(row.get("metadata")), mapping(request.get("metadata")))
    found = next((v for p in places if (v := first(p, *_SESSION)) is not None), conversation)
    return str(found)[:200] if isinstance(found, (str, int)) else None


def _addressed(row: Row, asked: object) -> tuple[str | None, str | None]:
    """The model and the provider that the address of a request names."""
    for place in (row, mapping(asked)):
        address = str(first(place, *_ADDRESS) or "")
        host = next((name for h, name in _HOSTS.items() if f"//{h}/" in address), None)
        if (found := _IN_ADDRESS.search(address)) is not None:
            return unquote(found[1]), "amazon_bedrock" if found[2] is not None else host
        if host is not None:
            return None, host
    return None, None


def _provider(model: str, request: dict[str, Any], answer: dict[str, Any]) -> str | None:
    """Told by the shape of the answer, where there is one; other providers speak OpenAI's language too."""
    if answer.get("type") == "message" or "stop_reason" in answer or "anthropic_version" in request:
        return "anthropic"
    if "contents" in request:
        return "google_genai"
    return "openai" if model.startswith(("gpt-", "o1", "o3", "o4", "text-embedding-", "chatgpt-", "ft:")) else None


def _cost(row: Row) -> SourceCost | None:
    if str(row.get("currency") or "USD").upper() != "USD":
        return None
    for name in ("cost", "cost_usd", "total_cost", "response_cost"):
        cost = number(row.get(name), MAX_USD)
        if cost:
            return SourceCost(total_usd=cost)
    return None
