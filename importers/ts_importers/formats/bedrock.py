"""Bedrock's logs of model invocations, as it writes them to buckets and to CloudWatch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_importers.bodies import mapping, text
from ts_importers.formats.base import Key, Row, Setting
from ts_importers.formats.exchanges import Exchanges
from ts_importers.values import number, timestamp
from ts_langchain.capture.answers import MAX_TOKENS

if TYPE_CHECKING:
    from ts_importers.base import Skipped
    from ts_langchain.replay import Run

_COUNTS = {
    "inputTokenCount": "inputTokens",
    "outputTokenCount": "outputTokens",
    "cacheReadInputTokenCount": "cacheReadInputTokens",
    "cacheWriteInputTokenCount": "cacheWriteInputTokens",
}


class BedrockLogs(Exchanges):
    """A model invocation a row: the bodies of Converse, or those of the model's own API."""

    name = "bedrock"
    title = "Bedrock's logs of model invocations"
    expects = "schemaType, modelId, input, output"

    def recognises(self, document: Row) -> str | None:
        return self.title if document.get("schemaType") == "ModelInvocationLog" and "modelId" in document else None

    def key(self, row: Row) -> Key:
        return Key(timestamp(row.get("timestamp")))

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        return super().runs(_exchange(row), setting)


def _exchange(row: Row) -> Row:
    """The log's row as a request and its response. Large bodies lie in a bucket: then there are counts alone."""
    given, made = mapping(row.get("input")), mapping(row.get("output"))
    answer = made.get("outputBodyJson")
    if not isinstance(answer, (dict, list)):
        answer = {"message": {"role": "assistant", "content": None}}
    if isinstance(answer, dict) and not mapping(answer.get("usage")):
        answer = {**answer, "usage": _usage(given, made)}
    failed = text(row.get("errorCode"))
    embeds = "embed" in str(row.get("modelId"))
    return {
        "id": text(row.get("requestId")),
        # of a profile or a model that was provisioned this is the address
        "request": {"messages": [], **mapping(given.get("inputBodyJson")), "model": _model(row.get("modelId"))},
        "response": None if failed else answer,
        "error": f"{failed}: {said}"
        if failed and (said := text(row.get("errorMessage")))
        else failed and f"{failed}()",
        "timestamp": row.get("timestamp"),
        "metadata": row.get("requestMetadata"),
        "provider": "amazon_bedrock",
        "path": "/embeddings" if embeds else None,
    }


def _model(value: object) -> str | None:
    """The model's id, of an address (`arn:…:inference-profile/us.anthropic.…`) its last part."""
    model = text(value)
    return model.rpartition("/")[2] if model is not None and model.startswith("arn:") else model


def _usage(*sides: dict[str, Any]) -> dict[str, int]:
    return {
        name: int(number(side.get(n), MAX_TOKENS) or 0) for side in sides for n, name in _COUNTS.items() if n in side
    }
