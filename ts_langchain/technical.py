"""What machines write beside an answer, another one each time: ids of the request, times that it took, addresses.

It is no news. Some of it is certain: two answers that differ in nothing else say the same (`plain_answer`). Of the rest
(a `timestamp`, a UUID, a latency) nobody can be sure: it may be what was asked for (`gist`). All is looked for in the
first 64 KB of a text, or at its end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD = 65_536
END = 400
SHORT = 400

# of JSON and of Python's dicts: ids of a request, if they look like one (`REQ-1` may be a customer's)
_IDS = (
    "request_id", "requestId", "requestID", "RequestId", "RequestID", "request-id", "Request-Id", "Request-ID",
    "x_request_id", "amzn-requestid", "amzn-RequestId", "trace_id", "traceId", "trace-id", "Trace-Id", "traceparent",
    "span_id", "spanId", "correlation_id", "correlationId", "correlation-id", "Correlation-Id", "scrapeId", "cf-ray",
    "CF-RAY", "CF-Ray",
)  # fmt: skip
# how long it took, in numbers (`"took": "rook"` is a move in chess)
_TOOK = (
    "response_time", "responseTime", "response_time_ms", "responseTimeMs", "took", "took_ms", "tookMs", "elapsed",
    "elapsed_ms", "elapsedMs", "elapsed_s", "elapsed_seconds", "elapsed_time", "elapsedTime", "query_time",
    "query_time_ms", "queryTime", "search_time", "search_time_ms", "searchTime", "formattedSearchTime",
    "total_time_taken", "generationtime_ms", "processingTimeMs", "processingTimeMS", "serverTimeMS",
    "executionTimeMillis", "QTime", "execution_count",
)  # fmt: skip
# these may be what the answer is about
_MEASURES = (
    "latency", "latency_ms", "latencyMs", "duration_ms", "durationMs", "runtime_ms", "time_taken", "timeTaken",
    "processing_time", "processing_time_ms", "processingTime", "execution_time", "execution_time_ms", "executionTime",
    "executionTimeMs", "expires_in", "expiresIn",
)  # fmt: skip
_STAMPS = (
    "timestamp", "fetched_at", "fetchedAt", "retrieved_at", "retrievedAt", "queried_at", "queriedAt", "checked_at",
    "last_checked", "lastChecked", "generated_at", "generatedAt", "server_time", "serverTime", "current_time",
    "currentTime", "request_time",
)  # fmt: skip
_KEY = re.compile(r"""["']([\w-]+)["']\s*:""")
# a short answer of nothing else, as of a clock or a stopwatch, is about it
_CERTAIN, _ASSUMED = frozenset({*_IDS, *_TOOK}), frozenset({*_IDS, *_TOOK, *_MEASURES, *_STAMPS})
_CLOCK = frozenset({
    *_ASSUMED, "time", "timezone", "timeZone", "time_zone", "tz", "date", "datetime", "dateTime", "now", "iso", "unix",
    "epoch", "day", "day_of_week", "dayOfWeek", "weekday", "year", "month", "hour", "minute", "minutes", "second",
    "seconds", "utc", "utc_offset", "utc_datetime", "unixtime", "dst", "is_dst", "formatted", "success", "ok", "status",
    "result", "data", "city", "country", "location", "place", "region", "abbreviation",
})  # fmt: skip


def _any_of(words: Iterable[str]) -> str:
    """A pattern for one of these words. It tries one letter after the other, where `a|b|c` would try all words."""
    after: dict[str, list[str]] = {}
    for word in words:
        after.setdefault(word[:1], []).append(word[1:])
    ends = "" in after
    found = [re.escape(letter) + _any_of(rest) for letter, rest in sorted(after.items()) if letter]
    return f"(?:{'|'.join(found)}){'?' if ends else ''}" if found else ""


def _certain(quote: str) -> re.Pattern[str]:
    """Fields in these quotes that are technical for certain."""
    an_id = rf"{quote}(?=[^{quote}]*\d)[\w.:/+=-]{{16,200}}{quote}"
    number = rf"(?:[-+.\deE]+|null|None|{quote}[\d.]+ ?m?s?{quote})"
    return re.compile(
        rf"{quote}(?:(?:[Xx]-)?{_any_of(_IDS)}{quote}\s*:\s*{an_id}|{_any_of(_TOOK)}{quote}\s*:\s*{number})"
    )


def _assumed(quote: str) -> re.Pattern[str]:
    """Fields in these quotes that are technical, most likely."""
    value = rf"(?:{quote}[^{quote}]*{quote}|[-+.\deE]+|null|None)"
    return re.compile(rf"{quote}(?:[Xx]-)?{_any_of(_ASSUMED)}{quote}\s*:\s*{value}")


_CERTAIN_FIELDS = _certain('"'), _certain("'")
_ASSUMED_FIELDS = _assumed('"'), _assumed("'")

# what boto3 puts beside each answer of AWS, and what its signed addresses end with
_RESPONSE_METADATA = re.compile(r"[\"']ResponseMetadata[\"']\s*:\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
_SIGNED = re.compile(r"(?<=[?&])X-Amz-(?:Date|Signature|Credential|Security-Token)=[^&\s\"'<>]*")
# `<Order object at 0x7f31c2>`; a debugger's `stopped at 0x401136` is news
_ADDRESS = re.compile(r"(?<= at )0x[\da-fA-F]{6,16}(?=>|, file )")
# `File "/tmp/tmpx2k9q_1z/main.py"`, `/tmp/tmp.3Hf0aQ9zXk` (mktemp), `/tmp/box-3fa85f64`
_TEMPORARY = re.compile(
    r"(?<=[/\\])tmp(?:[a-z0-9_]{8}(?![a-z0-9_])|\.[A-Za-z0-9]{10}\b)|"
    r"(?<=/tmp/)[\w.-]{0,40}?(?=\d{0,30}[a-f])(?=[a-f]{0,30}\d)[\da-f]{8,64}\b"
)
_NPM_LOG = re.compile(r"(?<=/_logs/)[\w-]+-debug-\d+\.log")
# `Cell In[5], line 1`, `<ipython-input-5-1a2b3c>`
_CELL = re.compile(r"\b(?:Cell|Input) In ?\[\d+\]|^In \[\d+\](?=:)|<ipython-input-\d+-\w+>", re.MULTILINE)
# which request of a connection it answers
_RPC = re.compile(
    r'"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(?:\d+|"[^"]{0,64}")|"id"\s*:\s*(?:\d+|"[^"]{0,64}")\s*,\s*"jsonrpc"\s*:\s*"2\.0"'
)
# what a shell of an agent says of a command beside its output
_SHELL = re.compile(r"^(?:Wall time: [\d.]+ seconds?|Chunk ID: [\da-f]{6}|Process Group PGID: \d+)$", re.MULTILINE)
_BESIDE_EXIT_CODE = re.compile(r"[\"']duration(?:_?(?:s|ms|Ms|seconds))?[\"']\s*:\s*[\d.]+")
_NOISE = (
    (("Wall time: ", " PGID: "), _SHELL),
    (("xit_code", "xitCode"), _BESIDE_EXIT_CODE),
    (('"jsonrpc"',), _RPC),
    (("ResponseMetadata",), _RESPONSE_METADATA),
    (("X-Amz-",), _SIGNED),
    ((" at 0x",), _ADDRESS),
    (("tmp",), _TEMPORARY),
    (("/_logs/",), _NPM_LOG),
    (("In [", "In[", "<ipython-input-"), _CELL),
)
# headers as `curl -i` prints them; what lies behind them may have a `date:` and an `age:` of its own
_RESPONSE = re.compile(r"^(?:< )?HTTP/\d.*(?:\n(?:[<*] )?[\w-]+:.*)*", re.MULTILINE)
_HEADER = re.compile(
    r"^(?:< )?(?:date|age|expires|set-cookie|cf-ray|server-timing|report-to|nel|traceparent|via|"
    r"x-(?:[\w-]*(?:request|trace|correlation)-?id|amz-id-2|timer|runtime|response-time|served-by)|x-cache[\w-]*|"
    r"(?:x-)?ratelimit[\w-]*):.*$",
    re.IGNORECASE | re.MULTILINE,
)
# how long a test run or a query took, at the end of what it says
_RUN = re.compile(
    r"\b\d+ (?:passed|failed|passing|failing|failures?|tests?|errors?|examples?|assertions?|warnings?)\b|"
    r"^(?:ok|FAIL|--- FAIL:|real)\s|\bset \(\d|\(\d+ rows?\)|could not compile",
    re.MULTILINE,
)
# how long a build took, and when it was done, as Gradle, Maven, Cargo, npm, Vite, webpack, Jest and Vitest say
BUILT_END = 2_000
SUMMARY_END = 1_000
_BUILT_HINTS = (
    "BUILD ", "Total time: ", "built in ", "target(s) in ", "Snapshots: ", "compiled ", "package", "Finished at: ",
    "Start at ", "Duration ",
)  # fmt: skip
_BUILT = re.compile(
    r"(^BUILD (?:FAILED|SUCCESSFUL) in |^\[INFO\] Total time: +|\bbuilt in (?!\d{3}0s)|\btarget\(s\) in |"
    r"^Snapshots: [^\n]+\nTime: +|\bcompiled (?:successfully|with \d+ (?:error|warning)s?) in |\bpackages? in |"
    r"^ *[✓✔✕✗×√] [^\n]{1,200} \()(?:\d+m ?)?\d+(?:\.\d+)? ?(?:m?s|secs?|seconds?)\b|"
    r"^\[INFO\] Finished at: [\d:.TZ+-]+|^ *Start at +[\d:]+$|^ *Duration +[\d.]+m?s \(transform [^\n]*$",
    re.MULTILINE,
)
_SECONDS = re.compile(r"\d+\.\d+(?= ?(?:m?s|secs?|seconds?)\b)")
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
# `Rate limit exceeded, retry after 2843 seconds`: how long it still lasts
_AGAIN = re.compile(r"\b(?:retry|again|limit\w*|resets?|wait|throttled)\b", re.IGNORECASE)
_LASTS_STILL = re.compile(
    r"(?<=\b)(?:in|after|for|wait|within)[:=\s]{1,3}\d{1,7} ?(?:m?s|secs?|seconds?|m|mins?|minutes?)\b", re.IGNORECASE
)
# how a log begins its lines; elsewhere it is what the failure is about (`the slot … is taken`)
_LOGGED = re.compile(
    r"(?:^|(?<=: )|(?<=\[))\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d{3,9}(?:Z|[+-]\d\d:?\d\d)?", re.MULTILINE
)

# in small letters it may be any date of Flask's, unless other headers stand beside it
_HEADERS = re.compile(r"[\"']content-(?:type|length)[\"']\s*:")
_DATE = re.compile(r"[\"']Date[\"']\s*:\s*[\"']\w{3}, [^\"']{8,30} GMT[\"']")
_ANY_DATE = re.compile(_DATE.pattern, re.IGNORECASE)
# `2026-11-22T18:33:11.5Z`, `22 Nov 2026 18:33:11`: what stands behind the hour
_MOMENT = re.compile(r"(?<=\d\d[T ]\d\d):(\d\d):(\d\d)(?:[.,]\d+)?")
_ZONES = 900
_EARLY, _LATE = 5, 2
_UUID_END = re.compile(r"-[\da-fA-F]{4}-[1-8][\da-fA-F]{3}-[89abAB][\da-fA-F]{3}-[\da-fA-F]{12}\b")
_UUID = re.compile(rf"\b[\da-fA-F]{{8}}{_UUID_END.pattern}")


def _may_be_built(end: str) -> bool:
    """False for nearly all answers: looking closely takes long."""
    if any(map(end.__contains__, _BUILT_HINTS)):
        return True
    return not end.isascii() and any(map(end.__contains__, "✓✔✕✗×√"))


def plain_answer(text: str) -> str:
    """What a tool answered, without what is technical for certain."""
    rest, head = text[HEAD:], text[:HEAD]
    head = _without_fields(_CERTAIN_FIELDS, head, _CERTAIN)
    for hints, noise in _NOISE:
        if any(map(head.__contains__, hints)):
            head = noise.sub("", head)
    if "HTTP/" in head:
        head = _RESPONSE.sub(lambda response: _HEADER.sub("", response[0]), head)
    text = f"{head}{rest}" if rest else head
    if _may_be_built(text[-SUMMARY_END:]) and _BUILT.search(end := text[-BUILT_END:]) is not None:
        text = text[:-BUILT_END] + _BUILT.sub(r"\1", end)
    if "." in (end := text[-END:]) and _SECONDS.search(end) is not None and _RUN.search(end) is not None:
        text = f"{text[:-END]}{_SECONDS.sub('', end)}"
    return text


def plain_failure(text: str) -> str:
    """As `plain_answer`, of what says that a call failed: without ids, times and probabilities told in words, too."""
    head = _LOGGED.sub("", _REQUEST.sub("", text[:HEAD]))
    if _AGAIN.search(head) is not None:
        head = _LASTS_STILL.sub("", head)
    return plain_answer(f"{head}{text[HEAD:]}")


def gist(text: str, began: float, ended: float) -> str:
    """As `plain_answer`, without what may be technical: times it was made at, UUIDs, how long something took.

    Args:
        text: The answer.
        began: When it was asked for, seconds since the epoch.
        ended: When it was there.

    A time in the text counts as now if it is, in some time zone: these differ by quarters of an hour.
    """

    def unless_now(found: re.Match[str]) -> str:
        told = int(found[1]) * 60 + int(found[2])
        return "" if (told - began + _EARLY) % _ZONES <= ended - began + _EARLY + _LATE else found[0]

    rest, head = text[HEAD:], text[:HEAD]
    head = _without_fields(_ASSUMED_FIELDS, head, _CLOCK)
    if " GMT" in head:
        head = (_ANY_DATE if _HEADERS.search(head) else _DATE).sub("", head)
    if _UUID_END.search(head) is not None:
        head = _UUID.sub("", head)
    if ended - began < _ZONES / 2:  # of what takes long, nearly every time would be one within
        head = _MOMENT.sub(unless_now, head)
    text = f"{head}{rest}" if rest else head
    if "." in (end := text[-END:]):
        text = f"{text[:-END]}{_MEASURED.sub('', end)}"
    return text


def _without_fields(fields: tuple[re.Pattern[str], re.Pattern[str]], text: str, about: frozenset[str]) -> str:
    """Without these fields of JSON and of Python's dicts, unless a short answer is about them."""
    of_json, of_python = fields
    if of_json.search(text) is None and ("':" not in text or of_python.search(text) is None):
        return text
    if len(text) <= SHORT and (keys := _KEY.findall(text)) and about.issuperset(keys):
        return text
    return of_python.sub("", of_json.sub("", text))
