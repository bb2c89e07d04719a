"""Content that a log has replaced by a word: it stands for nothing, and is the same of calls that differ."""

from __future__ import annotations

import re
from typing import Any

from ts_importers.bodies import mapping
from ts_langchain.capture.messages import plain_text, read_message
from ts_langchain.fingerprint import text_hash

_REDACTED = re.compile(r"\W*(?:redacted|masked|filtered)(?:[ _-]by[ _-]\w+)?\W*|[*█•]+", re.IGNORECASE)
_LONGEST = 60
_EMPTY = text_hash("")


def is_redacted(text: str) -> bool:
    """True for `[REDACTED]`, `redacted-by-litellm`, `***`."""
    return len(text) <= _LONGEST and _REDACTED.fullmatch(text) is not None


def says_nothing(messages: object) -> bool:
    """True for a prompt of which the user's first message (or, without one, the first) is redacted or empty."""
    said = messages if isinstance(messages, list) else [messages]
    read = [read_message(message) for message in said[:8]]
    opening = next((n for n, message in enumerate(read) if message.role == "human"), 0)
    if not read:
        return True
    text = plain_text(said[opening])
    return read[opening].content == _EMPTY or (not read[opening].images and is_redacted(text))


def without_redacted(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer in the shape of a chat completion, without a text that says nothing."""
    choices = answer.get("choices")
    choice = mapping(choices[0]) if isinstance(choices, list) and choices else {}
    message = choice.get("message")
    if not isinstance(message, dict) or not is_redacted(plain_text(message)):
        return answer
    return {**answer, "choices": [{**choice, "message": {**message, "content": None}}]}
