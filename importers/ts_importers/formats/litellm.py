"""LiteLLM's logs: the standard logging payload that its proxy and its SDK hand to loggers and write to buckets, and
what the proxy keeps of it in its database, as `/spend/logs` gives it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from ts_importers.bodies import mapping, text
from ts_importers.formats.base import Key, Row, Setting
from ts_importers.formats.exchanges import Exchanges
from ts_importers.values import timestamp

if TYPE_CHECKING:
    from ts_importers.base import Skipped
    from ts_langchain.replay import Run

_PROVIDERS = {"vertex_ai": "google_vertexai", "gemini": "google_genai", "bedrock": "amazon_bedrock", "azure": "azure"}
_EMBEDDING = ("embedding", "aembedding")
_OF_TOOLS = ("call_mcp_tool", "list_mcp_tools")
"""What the proxy does for tools is no model call; what tools answered is in the prompts behind."""
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


class LiteLlmLogs(Exchanges):
    """A model call or an embedding a row: `messages`, `response`, `model_parameters`, `response_cost`."""

    name = "litellm"
    title = "LiteLLM's logs"
    expects = "litellm_call_id, messages, response; of its database call_type, startTime, spend"

    def recognises(self, document: Row) -> str | None:
        told = {"startTime", "messages", "response"} <= document.keys()
        told = bool(told and document.keys() & {"litellm_call_id", "call_type"})
        return self.title if told or _is_spend(document) else None

    def key(self, row: Row) -> Key:
        return Key(timestamp(row.get("startTime")))

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        if row.get("call_type") in _OF_TOOLS:
            return []
        return super().runs(_exchange(_payload(row) if _is_spend(row) else row), setting)


def _is_spend(row: Row) -> bool:
    return {"call_type", "startTime", "spend"} <= row.keys()


def _payload(row: Row) -> Row:
    """A row of the database as the payload that it was made of; prompts and answers are there only if asked for."""
    metadata = mapping(row.get("metadata"))
    response = mapping(row.get("response")) or {"message": {"role": "assistant", "content": None}}
    if not mapping(response.get("usage")):
        counted = mapping(metadata.get("usage_object")) or {name: row.get(name) for name in _COUNTS}
        response = {**response, "usage": counted}
    request = mapping(row.get("proxy_server_request"))
    said = request.get("messages", request.get("input")) or row.get("messages")
    error = mapping(metadata.get("error_information"))
    return {
        **row,
        "id": row.get("request_id"),
        "trace_id": row.get("session_id"),  # one of its own, where the user has named none
        "session_id": None,
        "messages": said if isinstance(said, (list, str)) else [],
        "model_parameters": {name: value for name, value in request.items() if name != "input"},
        "metadata": metadata,
        "response": response,
        "response_cost": row.get("spend"),
        "status": text(row.get("status")) or metadata.get("status"),  # older ones keep it there alone
        "error_information": error,
        "error_str": error.get("error_message"),
    }


def _named_trace(row: Row) -> str | None:
    """The trace's id where the user has chosen it (`litellm_session_id`); else it is another one for each request."""
    trace = text(row.get("trace_id"))
    try:
        UUID(trace)
    except ValueError:
        return trace
    except TypeError:
        return None
    return None


def _exchange(row: Row) -> Row:
    """The payload as a request and its response."""
    metadata = mapping(row.get("metadata"))
    given = mapping(metadata.get("requester_metadata"))
    embeds = row.get("call_type") in _EMBEDDING
    said = row.get("messages")
    request: dict[str, Any] = {**mapping(row.get("model_parameters")), "model": row.get("model")}
    if embeds:
        request["input"] = [mapping(m).get("content", m) for m in said] if isinstance(said, list) else said
    else:
        request["messages"] = said
    user = text(row.get("end_user")) or text(metadata.get("user_api_key_end_user_id"))
    if user is not None:
        request["user"] = user
    error = mapping(row.get("error_information"))
    failed = row.get("status") == "failure"
    provider = text(row.get("custom_llm_provider"))
    return {
        # an answer from the cache has the id of the first one
        "id": text(row.get("litellm_call_id")) or row.get("id"),
        "request": request,
        "response": None if failed else row.get("response"),
        "error": {"type": error.get("error_class"), "message": row.get("error_str")} if failed else None,
        "start_time": row.get("startTime"),
        "end_time": row.get("endTime"),
        "session_id": text(row.get("session_id")) or text(given.get("session_id")) or _named_trace(row),
        "trace_id": text(row.get("trace_id")),
        "provider": _PROVIDERS.get(provider, provider) if provider is not None else None,
        "path": "/embeddings" if embeds else None,
        "response_cost": row.get("response_cost"),
        "cache_hit": row.get("cache_hit"),
    }
