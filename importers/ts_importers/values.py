"""Values as services write them: read with care, never believed beyond what can be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import orjson

from ts_langchain.capture.answers import MAX_USD as MAX_USD
from ts_langchain.fingerprint import canonical

# beyond these a number is a mistake of whoever wrote it, not a fact about a call
LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
EPOCH = 1970
UNITS = (1, 1_000, 1_000_000, 1_000_000_000)
MOST_SECONDS = 1e11


def timestamp(value: object) -> float | None:
    """Seconds since the epoch from an ISO string (naive is UTC), or from a number, which may be a string.

    Numbers are seconds, milli-, micro- or nanoseconds: whichever makes a time after 1973.
    """
    if type(value) is str:
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return _since_epoch(value)
        if at.year < EPOCH:  # digits may read as a date
            return _since_epoch(value)
    elif isinstance(value, datetime):
        at = value
    else:
        return _since_epoch(value)
    seconds = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    return seconds if 0 < seconds < LATEST else None


def _since_epoch(value: object) -> float | None:
    found = number(value, LATEST * 1e9)
    return next((found / unit for unit in UNITS if found <= MOST_SECONDS * unit), None) if found else None


def number(value: object, most: float) -> float | None:
    """A number from 0 to `most`; some services write numbers as strings. None if it is none, or beyond."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return None
    return read if 0 <= read <= most else None


def loads(text: bytes | str) -> Any:
    """What JSON says, and what nearly is: `NaN` is null, and see `whole`.

    Raises:
        ValueError: It is none.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        try:
            return whole(json.loads(text, parse_constant=lambda _: None))
        except RecursionError:
            msg = "JSON that is nested too deeply"
            raise ValueError(msg) from None


def whole(value: object) -> Any:
    """A value of JSON in which halves of surrogate pairs, left where a text was cut, have become question marks.

    Neither orjson nor a database takes them.
    """
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def parsed(value: object) -> Any:
    """What a JSON string says; the value itself if it is none."""
    if isinstance(value, str) and value[:1] in ("{", "[", '"'):
        try:
            return loads(value)
        except ValueError:
            return value
    return value


def query_of(given: object) -> dict[str, Any]:
    """What a retriever was asked, as replay reads it: by any other name than `query`, or with more beside it."""
    if isinstance(given, dict):
        if isinstance(given.get("query"), str):
            return given
        given = next(iter(given.values())) if len(given) == 1 else given
    if given is None or given == "" or given == {}:
        return {}
    return {"query": given if isinstance(given, str) else canonical(given).decode(errors="replace")}


def usage_metadata(
    sent: int,
    got: int,
    read: int = 0,
    written: int = 0,
    reasoning: int = 0,
    audio_in: int = 0,
    audio_out: int = 0,
    hour: int = 0,
    drawn: int = 0,
) -> dict[str, Any] | None:
    """Token counts in the shape of LangChain's usage metadata, None if nothing was counted.

    Args:
        sent: All input, cached included.
        got: All output.
        read: Input read from the provider's cache.
        written: Input written into it.
        reasoning: Output that was reasoning.
        audio_in: Audio in the input.
        audio_out: Audio in the output.
        hour: Input written into the cache for an hour, a part of `written`.
        drawn: Images in the output.
    """
    if not sent and not got:
        return None
    details = {"cache_read": read, "cache_creation": written, "audio": audio_in}
    if hour:
        details["ephemeral_1h_input_tokens"] = hour
    made = {"reasoning": reasoning, "audio": audio_out}
    if drawn:
        made["image"] = drawn
    return {
        "input_tokens": sent,
        "output_tokens": got,
        "total_tokens": sent + got,
        "input_token_details": details,
        "output_token_details": made,
    }
