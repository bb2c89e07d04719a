"""What machines write beside an answer, another one each time: ids of the request, times that it took, addresses.

It is no news: two answers that differ in nothing else say the same. It is looked for in the first 64 KB of a text, or
at its end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD = 65_536
END = 400

# of JSON and of Python's dicts, whatever stands before the name with a hyphen (`x-request-id`)
_NAMES = (
    "request_id", "requestId", "RequestId", "request-id", "Request-Id", "RequestID", "amzn-requestid", "amzn-RequestId",
    "trace_id", "traceId", "trace-id", "Trace-Id", "traceparent", "span_id", "correlation_id", "correlationId",
    "Correlation-Id", "scrapeId", "cf-ray", "CF-RAY", "CF-Ray", "execution_count",
    "response_time", "responseTime", "response_time_ms", "responseTimeMs", "took", "took_ms", "tookMs",
    "elapsed", "elapsed_ms", "elapsedMs", "elapsed_s", "elapsed_seconds", "elapsed_time", "elapsedTime",
    "latency_ms", "latencyMs", "duration_ms", "durationMs", "query_time", "query_time_ms", "queryTime",
    "search_time", "search_time_ms", "searchTime", "formattedSearchTime", "total_time_taken", "time_taken", "timeTaken",
    "processing_time", "processing_time_ms", "processingTime", "processingTimeMs", "processingTimeMS", "serverTimeMS",
    "execution_time", "execution_time_ms", "executionTime", "executionTimeMs", "executionTimeMillis",
    "generationtime_ms", "QTime", "runtime_ms",
)  # fmt: skip

# when it was asked, not what the answer is about; a short one that holds nothing else is a clock's
_STAMPS = (
    "timestamp", "fetched_at", "fetchedAt", "retrieved_at", "retrievedAt", "queried_at", "queriedAt", "checked_at",
    "generated_at", "generatedAt", "server_time", "serverTime", "current_time", "currentTime", "request_time",
)  # fmt: skip
_KEY = re.compile(r"""["'](\w+)["']\s*:""")
_CLOCK_CHARS = 400
_CLOCK = frozenset({
    *_STAMPS, "time", "timezone", "timeZone", "time_zone", "tz", "date", "datetime", "dateTime", "now", "iso", "unix",
    "epoch", "day", "day_of_week", "dayOfWeek", "weekday", "year", "month", "hour", "minute", "minutes", "second",
    "seconds", "utc", "utc_offset", "utc_datetime", "unixtime", "dst", "is_dst", "formatted", "success", "ok", "status",
    "result", "data",
})  # fmt: skip


def _any_of(words: Iterable[str]) -> str:
    """A pattern for one of these words. It tries one letter after the other, where `a|b|c` would try all words."""
    after: dict[str, list[str]] = {}
    for word in words:
        after.setdefault(word[:1], []).append(word[1:])
    ends = "" in after
    found = [re.escape(letter) + _any_of(rest) for letter, rest in sorted(after.items()) if letter]
    return f"(?:{'|'.join(found)}){'?' if ends else ''}" if found else ""


def _fields(quote: str) -> re.Pattern[str]:
    """JSON's fields, or those of Python's dicts, by the quote that they are in."""
    value = rf"(?:{quote}[^{quote}]*{quote}|[-+.\deE]+|null|None)"
    return re.compile(rf"{quote}(?:[Xx]-)?({_any_of((*_NAMES, *_STAMPS))}){quote}\s*:\s*{value}")


_OF_JSON, _OF_PYTHON = _fields('"'), _fields("'")

# what boto3 puts beside each answer of AWS
_RESPONSE_METADATA = re.compile(r"[\"']ResponseMetadata[\"']\s*:\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
# headers as `curl -i` prints them, or as a dict
_HEADER = re.compile(
    r"^(?:< )?(?:date|age|expires|set-cookie|cf-ray|server-timing|report-to|nel|traceparent|via|"
    r"x-[\w-]*(?:id|time|timer|runtime|served-by)|x-cache[\w-]*|(?:x-)?ratelimit[\w-]*):.*$",
    re.IGNORECASE | re.MULTILINE,
)
_RESPONSE = re.compile(r"^(?:< )?HTTP/\d", re.MULTILINE)
_DATE = re.compile(r"[\"'][Dd]ate[\"']\s*:\s*[\"']\w{3}, [^\"']{8,30} GMT[\"']")
# `<Order object at 0x7f31c2>`, `File "/tmp/tmpx2k9q_1z/main.py"`, `Cell In[5], line 1`, `<ipython-input-5-1a2b3c>`
_ADDRESS = re.compile(r"(?<= at )0x[\da-fA-F]{6,16}\b")
_TEMPORARY = re.compile(
    r"(?<=[/\\])tmp[a-z0-9_]{8}(?![a-z0-9_])|(?<=/tmp/)[\w.-]{0,40}?(?=\d{0,30}[a-f])(?=[a-f]{0,30}\d)[\da-f]{8,64}\b"
)
_NPM_LOG = re.compile(r"(?<=/_logs/)[\w-]+-debug-\d+\.log")
_CELL = re.compile(r"\bIn ?\[\d+\]|<ipython-input-\d+-\w+>")
# how a log begins its lines
_LOGGED = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d{3,9}(?:Z|[+-]\d\d:?\d\d)?")

_NOISE = (
    (("ResponseMetadata",), _RESPONSE_METADATA),
    ((" GMT",), _DATE),
    ((" at 0x",), _ADDRESS),
    (("tmp",), _TEMPORARY),
    (("In [", "In[", "<ipython-input-"), _CELL),
    (("/_logs/",), _NPM_LOG),
)

# `2 failed, 40 passed in 0.53s`, `Time: 1.204 s`, at the end of what was run
_LASTED = r"\d+\.\d+(?= ?(?:m?s|secs?|seconds?|min|minutes?)\b)"
_MEASURED = re.compile(_LASTED)

# `(Status Code: 403, Request ID: 9CF3EBB8)`, `Include the request ID req_011C in your message`, `Ray ID: 8e2f1`
# (bounded, since an id may hold the words again)
# `(probability: 0.71)`, `timed out after 30.02 seconds`; what else has a point is a version, a price, a place
_REQUEST = re.compile(
    r"\b(?:request|correlation|ray)[ _-]?id\b[:=\s]{0,20}[\w-]{0,100}\d[\w-]{0,100}|"
    rf"(?<=\bprobability)[:=\s]*[01]?\.\d+|(?<![\d.]){_LASTED}",
    re.IGNORECASE,
)


# `2026-11-22T18:33:11.5Z`, `22 Nov 2026 18:33:11`: what stands behind the hour
_MOMENT = re.compile(r"(?<=\d\d[T ]\d\d):(\d\d):(\d\d)(?:[.,]\d+)?")
_UUID_END = re.compile(r"-[\da-fA-F]{4}-[1-8][\da-fA-F]{3}-[89abAB][\da-fA-F]{3}-[\da-fA-F]{12}\b")
_UUID = re.compile(rf"\b[\da-fA-F]{{8}}{_UUID_END.pattern}")
_ZONES = 900
_EARLY, _LATE = 5, 2


def without_moments(text: str, began: float, ended: float) -> str | None:
    """A text without UUIDs and without the time it was made at, wherever these stand; None if there are none.

    Args:
        text: The text.
        began: When it was asked for, seconds since the epoch.
        ended: When it was there.

    A time counts as now if it is, in some time zone: these differ by quarters of an hour.
    """

    def unless_now(found: re.Match[str]) -> str:
        told = int(found[1]) * 60 + int(found[2])
        return "" if (told - began + _EARLY) % _ZONES <= ended - began + _EARLY + _LATE else found[0]

    head = text[:HEAD]
    plain = _UUID.sub("", head) if _UUID_END.search(head) is not None else head
    if ended - began < _ZONES / 2:  # of what takes long, nearly every time would be one within
        plain = _MOMENT.sub(unless_now, plain)
    return f"{plain}{text[HEAD:]}" if plain != head else None


def plain_answer(text: str) -> str:
    """What a tool answered, without what is technical in it."""
    rest, head = text[HEAD:], text[:HEAD]
    head = _without_fields(_OF_JSON, head)
    if "':" in head:
        head = _without_fields(_OF_PYTHON, head)
    for hints, noise in _NOISE:
        if any(map(head.__contains__, hints)):
            head = noise.sub("", head)
    if "HTTP/" in head and _RESPONSE.search(head):
        head = _HEADER.sub("", head)
    text = f"{head}{rest}" if rest else head
    if "." in (end := text[-END:]):
        text = f"{text[:-END]}{_MEASURED.sub('', end)}"
    return text


def _without_fields(fields: re.Pattern[str], text: str) -> str:
    if fields.search(text) is None:
        return text
    clock = len(text) <= _CLOCK_CHARS and _CLOCK.issuperset(_KEY.findall(text))
    return fields.sub(lambda field: field[0] if clock and field[1] in _STAMPS else "", text)


def plain_failure(text: str) -> str:
    """As `plain_answer`, of what says that a call failed: without ids, times and probabilities told in words, too."""
    head = _LOGGED.sub("", _REQUEST.sub("", text[:HEAD]))
    return plain_answer(f"{head}{text[HEAD:]}")
