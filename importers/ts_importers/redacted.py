"""Content that a log has replaced by a word: it stands for nothing, and is the same of calls that differ."""

from __future__ import annotations

from typing import Any

from ts_importers.bodies import mapping
from ts_langchain.capture.continued import is_redacted
from ts_langchain.capture.messages import plain_text


def without_redacted(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer in the shape of a chat completion, without a text that says nothing."""
    choices = answer.get("choices")
    choice = mapping(choices[0]) if isinstance(choices, list) and choices else {}
    message = choice.get("message")
    if not isinstance(message, dict) or not is_redacted(plain_text(message)):
        return answer
    return {**answer, "choices": [{**choice, "message": {**message, "content": None}}]}
