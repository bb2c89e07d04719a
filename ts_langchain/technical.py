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
_KEY = re.compile(r"""["']([\w-]+)["']\s*:""")
_CLOCK_CHARS = 400
_CLOCK = frozenset({
    *_STAMPS, "time", "timezone", "timeZone", "time_zone", "tz", "date", "datetime", "dateTime", "now", "iso", "unix",
    "epoch", "day", "day_of_week", "dayOfWeek", "weekday", "year", "month", "hour", "minute", "minutes", "second",
    "seconds", "utc", "utc_offset", "utc_datetime", "unixtime", "dst", "is_dst", "formatted", "success", "ok", "status",
    "result", "data", "city", "country", "location", "place", "region", "abbreviation",
})  # fmt: skip
# a short answer of nothing else, as of a stopwatch, is about it
_ALL = frozenset({*_NAMES, *_STAMPS})


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
# what lies behind the headers may have a `date:` and an `age:` of its own
_RESPONSE = re.compile(r"^(?:< )?HTTP/\d.*(?:\n(?:[<*] )?[\w-]+:.*)*", re.MULTILINE)
# in small letters it may be any date of Flask's, unless other headers stand beside it
_HEADERS = re.compile(r"[\"']content-(?:type|length)[\"']\s*:")
_DATE = re.compile(r"[\"']Date[\"']\s*:\s*[\"']\w{3}, [^\"']{8,30} GMT[\"']")
_ANY_DATE = re.compile(_DATE.pattern, re.IGNORECASE)
# `<Order object at 0x7f31c2>`, `File "/tmp/tmpx2k9q_1z/main.py"`, `Cell In[5], line 1`, `<ipython-input-5-1a2b3c>`
# a debugger's `stopped at 0x401136` is news
_ADDRESS = re.compile(r"(?<= at )0x[\da-fA-F]{6,16}(?=>|, file )")
_TEMPORARY = re.compile(r"(?<=[/\\])tmp[a-z0-9_]{8}(?![a-z0-9_])")
_CELL = re.compile(r"\b(?:Cell|Input) In ?\[\d+\]|^In \[\d+\](?=:)|<ipython-input-\d+-\w+>", re.MULTILINE)
# how a log begins its lines; elsewhere it is what the failure is about (`the slot … is taken`)
_LOGGED = re.compile(
    r"(?:^|(?<=: )|(?<=\[))\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d{3,9}(?:Z|[+-]\d\d:?\d\d)?", re.MULTILINE
)

_NOISE = (
    (("ResponseMetadata",), _RESPONSE_METADATA),
    ((" at 0x",), _ADDRESS),
    (("tmp",), _TEMPORARY),
    (("In [", "In[", "<ipython-input-"), _CELL),
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


def plain_answer(text: str) -> str:
    """What a tool answered, without what is technical in it."""
    rest, head = text[HEAD:], text[:HEAD]
    head = _without_fields(_OF_JSON, head)
    if "':" in head:
        head = _without_fields(_OF_PYTHON, head)
    for hints, noise in _NOISE:
        if any(map(head.__contains__, hints)):
            head = noise.sub("", head)
    if " GMT" in head:
        head = (_ANY_DATE if _HEADERS.search(head) else _DATE).sub("", head)
    if "HTTP/" in head:
        head = _RESPONSE.sub(lambda response: _HEADER.sub("", response[0]), head)
    text = f"{head}{rest}" if rest else head
    if "." in (end := text[-END:]):
        text = f"{text[:-END]}{_MEASURED.sub('', end)}"
    return text


def _without_fields(fields: re.Pattern[str], text: str) -> str:
    if fields.search(text) is None:
        return text
    keys = _KEY.findall(text) if len(text) <= _CLOCK_CHARS else None
    if keys and _ALL.issuperset(keys):
        return text
    clock = keys is not None and _CLOCK.issuperset(keys)
    return fields.sub(lambda field: field[0] if clock and field[1] in _STAMPS else "", text)


def plain_failure(text: str) -> str:
    """As `plain_answer`, of what says that a call failed: without ids, times and probabilities told in words, too."""
    head = _LOGGED.sub("", _REQUEST.sub("", text[:HEAD]))
    return plain_answer(f"{head}{text[HEAD:]}")
