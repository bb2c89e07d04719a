"""Fingerprints: content goes in, 64-bit numbers come out.

Everything is bounded: of a string only `TEXT_LIMIT` characters, half of them at its end, and its length count, of
a container only the first `ITEM_LIMIT` items and its length, and nesting ends at `DEPTH_LIMIT`. So a 100 MB
argument costs no more than 64 KB, and a cyclic one ends. Of what a tool answers 1 MB counts: what is new may stand
anywhere in it.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple, cast

import orjson
from xxhash import xxh3_64_intdigest

from ts_langchain.technical import gist, plain_answer, plain_failure

TEXT_LIMIT = 65_536
ID_LENGTH = 300
ANSWER_LIMIT = 1_048_576
ITEM_LIMIT = 4_096
DEPTH_LIMIT = 16
NODE_LIMIT = 1_000_000
SAMPLE_LIMIT = 512
WORD_BITS = 420
MAX_BITS = 8_192

_JSON = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
_PLAIN = frozenset({int, float, bool, type(None)})

# Only words of this kind may differ between two calls that count as the same. Whatever carries a digit, a
# path, an address or stands in quotes names *which one* is meant.
# (Looked for at the beginnings of words only: text without spaces would cost its square.)
_LITERAL = re.compile(r"""\"[^\"]*\"|'[^']*'|(?<![^\s"'])[^\s\d@/_\\]*+[\d@/_\\]\S*""")
_WORD = re.compile(r"[^\W\d_]+")
# Words inside a sentence; those with a capital name something.
_INSIDE = re.compile(r"(?<=[\w,;] )[^\W\d_]+")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]{8}")
_QUERY = re.compile(
    r"\s*(?:select|insert|update|delete|with|create|alter|drop|merge|match)\b.*\b(?:from|into|set|table|where|return)\b",
    re.IGNORECASE,
)
# What a tool for queries or commands is told to do, at the beginning: it changes something, or waits first.
_WRITES = re.compile(
    r"(?:\s|--[^\n]{0,200}\n|/\*(?:[^*]|\*(?!/)){0,400}\*/|begin(?: transaction)?\s*;)*+"
    r"(?:(?:insert|merge|replace)\s+into\b|update\s+\S+\s+(?:as\s+)?(?:\w+\s+)?set\b|delete\s+from\b|"
    r"truncate\s+(?:table\b|[\w.\"]+\s*(?:;|\Z|cascade|restart))|refresh\s+materialized\s+view\b|"
    r"(?:create|drop|alter)\s+(?:\w+\s+){0,3}(?:table|view|index|schema)\b|call\s+(?!db\.|apoc\.meta)[\w.]+\(|"
    r"exec(?:ute)?\s+\w+(?:\.\w+|\s*;?\s*\Z)|copy\s+\S+\s+from\s+(?:'|stdin)|"
    r"vacuum\s*(?:;|full\b|analyze\b|freeze\b|verbose\b)|mutation\b[^{]*\{|"
    r"with\s+\w+\s+as\s*\(.{0,400}?\)\s*(?:delete\s+from|insert\s+into|update\s+\S+\s+set)\b|"
    r"(?:match|merge|unwind)\s*\((?:[^'\"]|'[^']*'|\"[^\"]*\"){0,400}?\s(?:(?:detach\s+)?delete\s+\w|set\s+\w+\.\w+\s*=))",
    re.IGNORECASE | re.DOTALL,
)
_METHODS = frozenset({"DELETE", "PATCH", "POST", "PUT"})
_SLEEPS = re.compile(r"(?:(?<![^\s;&|(])|time\.|asyncio\.)sleep[ (]\s*\d")
# A command that only looks, up to what its output is cut down by: `cd /repo && git diff | head -20`.
_COMMANDS = frozenset({"cmd", "command", "commands", "input"})
_LOOKS_ROUND = re.compile(
    r"\s*(?:cd [^\s;&|<>`$]+\s*&&\s*)?(?:(?:cat|df|du|grep|head|ls|ps|pwd|stat|tail|wc|which)(?![^\s|])|"
    r"rg (?!.*--pre)|tree(?![^\s|])(?!.*\s-\w*o)|find (?!.*-(?:delete|exec|fls|fprint|ok))|"
    r"sed -n ['\"]?(?:\d+|/[^/;&|<>`$\n]*/)(?:,(?:\d+|/[^/;&|<>`$\n]*/))?p(?=['\"\s])(?!.*\s-)|"
    r"git (?:--no-pager )?(?:blame|diff|log|show|status)(?![^\s|])(?!.*\s--output)|"
    r"kubectl (?:describe|get|logs) |docker (?:images|inspect|logs|ps)(?![^\s|])|"
    r"(?:gh \w+|aws [\w-]+|helm|terraform|systemctl|pip|npm|"
    r"gcloud(?: (?!(?:create|delete|deploy|remove|reset|restart|set|ssh|start|stop|update)\b)[\w-]+){1,4}) "
    r"(?:checks|describe(?:-[\w-]+)?|freeze|history|list(?:-[\w-]+)?|ls|output|show|status|validate|view)(?![^\s|]))"
    r"[^;&|<>`$\n]*(?:2>(?:&1|/dev/null)\s*)?"
    r"(?:\|\s*(?:(?:cut|grep|head|tail|tr|wc)(?![^\s|])|sort(?![^\s|])(?![^|]*\s-(?:\w*o|-o))|"
    r"uniq(?= *(?:-\w+ *)*(?:\||\Z)))[^;&|<>`$\n]*)*\s*\Z"
)
# Arguments of these names say which part of a list is asked for.
_PAGING = frozenset({
    "continuationToken", "continuation_token", "cursor", "endCursor", "end_cursor", "nextCursor", "nextPageToken",
    "nextToken", "next_cursor", "next_page_token", "next_token", "offset", "page", "pageIndex", "pageNumber",
    "pageToken", "page_index", "page_no", "page_number", "page_token", "skip", "startCursor", "startIndex",
    "start_cursor", "start_index",
})  # fmt: skip
# Arguments of these names say which one is meant, in however many words.
_NAMING = frozenset({
    "address", "author", "bcc", "cc", "city", "company", "contact", "country", "customer", "first_name", "full_name",
    "last_name", "location", "name", "person", "product", "recipient", "recipients", "title", "to", "user",
})  # fmt: skip


def mix(*parts: int) -> int:
    """One number from several. Only ints go in, hence it is the same in every process."""
    return hash(parts)


def text_hash(text: str, limit: int = TEXT_LIMIT) -> int:
    """64-bit hash of a text; of a long one, of both its ends and its length."""
    if len(text) > limit:
        text = cut(text, limit)
    try:
        return xxh3_64_intdigest(text.encode())
    except UnicodeEncodeError:  # lone surrogates
        return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def short_id(given: str, most: int = ID_LENGTH) -> str:
    """An id of a bounded length: of a longer one its beginning and a hash, by which it stays apart from others."""
    return given if len(given) <= most else f"{given[: most - 17]}~{text_hash(given, len(given)):016x}"


def cut(text: str, limit: int = TEXT_LIMIT) -> str:
    """Both ends of a long text, and its length."""
    half = limit // 2
    return f"{text[:half]}\0{len(text)}\0{text[-half:]}"


def answer_hash(text: str) -> int:
    """`text_hash` of what a tool answered, without what is technical for certain: ids of the request, times it took."""
    text = plain_answer(_cut_answer(text))
    return text_hash(text, len(text))


def failure_hash(text: str) -> int:
    """As `answer_hash`, of what says that a call failed."""
    text = plain_failure(_cut_answer(text))
    return text_hash(text, len(text))


def gist_hash(text: str, began: float, ended: float) -> int:
    """As `answer_hash`, without what may be technical; 0 if that takes nothing away. See `technical.gist`."""
    text = _cut_answer(text)
    plain = gist(text, began, ended)
    return 0 if plain == text else answer_hash(plain)


def _cut_answer(text: str) -> str:
    return cut(text, ANSWER_LIMIT) if len(text) > ANSWER_LIMIT else text


@lru_cache(maxsize=4096)
def name_hash(name: str) -> int:
    """`text_hash` of a short, often repeated name (tool, model)."""
    return text_hash(name)


def canonical(value: object) -> bytes:
    """Bounded JSON with sorted keys; whatever is no JSON stands as its type name or `str`."""
    value = bounded(value)
    try:
        return orjson.dumps(value, default=_foreign, option=_JSON)
    except (TypeError, ValueError, RecursionError):  # lone surrogates, integers beyond 64 bits, odd keys
        return json.dumps(_stringly(value), sort_keys=True, default=_foreign).encode()


def value_digest(value: object) -> tuple[int, int]:
    """64-bit hash of any value, by its canonical JSON (strings by `text_hash`), and its length in characters."""
    if type(value) is str:
        return text_hash(value), len(value)
    if type(value) is dict and len(value) <= ITEM_LIMIT:
        for item in value.values():
            kind = type(item)
            if kind is str:
                if len(item) > TEXT_LIMIT:
                    break
            elif kind not in _PLAIN:
                break
        else:  # a flat dict of plain values, as most arguments are
            try:
                text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
            except (TypeError, ValueError):
                pass
            else:
                return xxh3_64_intdigest(text), len(text)
    text = canonical(value)
    return xxh3_64_intdigest(text), len(text)


def value_hash(value: object) -> int:
    """64-bit hash of any value, by its canonical JSON; strings by `text_hash`."""
    return value_digest(value)[0]


def _plain_text(value: str) -> str:
    """What a class made from `str` stores, as the `text` of a message is one."""
    return value if type(value) is str else str.__str__(value)


def bounded(value: object) -> object:
    """The value itself where it is small, a cut copy of it otherwise: in breadth, in depth, and in all.

    Of classes made from `str`, `dict`, `list` and `tuple` what is stored counts: their own methods may run a query, or
    use up what they give.
    """
    return _bounded(value, 0, [NODE_LIMIT])


def _bounded(value: object, depth: int, left: list[int]) -> object:
    """As `bounded`, so deep inside of the whole, of which so many items may still be read."""
    if isinstance(value, str):
        text = _plain_text(value)
        return text if len(text) <= TEXT_LIMIT else cut(text)
    if isinstance(value, (bytes, bytearray)):
        return f"{bytes(value[:TEXT_LIMIT])!r}\0{len(value)}"
    if isinstance(value, dict):
        left[0] -= 1 + min(dict.__len__(value), ITEM_LIMIT)
        if depth >= DEPTH_LIMIT or left[0] < 0:
            return f"<dict of {dict.__len__(value)}>"
        if type(value) is not dict:
            value = dict(dict.items(value))
        if len(value) > ITEM_LIMIT:
            value = dict(zip(range(ITEM_LIMIT), value.items(), strict=False)) | {"": len(value)}
        if all(type(v) in _PLAIN or (type(v) is str and len(v) <= TEXT_LIMIT) for v in value.values()):
            return value
        return {k: _bounded(v, depth + 1, left) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        if type(value) is not list:
            value = list(list.__iter__(value) if isinstance(value, list) else tuple.__iter__(value))
        left[0] -= 1 + min(len(value), ITEM_LIMIT)
        if depth >= DEPTH_LIMIT or left[0] < 0:
            return f"<list of {len(value)}>"
        if len(value) > ITEM_LIMIT:
            return [*(_bounded(v, depth + 1, left) for v in value[:ITEM_LIMIT]), len(value)]
        return [_bounded(v, depth + 1, left) for v in value]
    return value


def _foreign(value: object) -> str:
    """Stands in for an object that is no JSON: by content where that is safe and stable."""
    if isinstance(value, (set, frozenset)):
        return ",".join(sorted(str(v)[:SAMPLE_LIMIT] for v in value))
    dump = getattr(value, "model_dump_json", None)
    if callable(dump):
        with suppress(TypeError, ValueError):  # a field that is no JSON, or not what it was declared to be
            return str(dump(warnings=False))[:TEXT_LIMIT]
    text = str(value)
    # `<Thing object at 0x7f…>` would make equal arguments look different
    return type(value).__name__ if " at 0x" in text else text[:TEXT_LIMIT]


def _stringly(value: object) -> object:
    if isinstance(value, dict):
        return {str(k): _stringly(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_stringly(v) for v in value]
    if type(value) is int and value.bit_length() > MAX_BITS:
        return hex(value)  # Python writes no more than 4 300 digits
    return value


class FreeText:
    """Comparable residue of text that may be reworded.

    Made from at most `SAMPLE_LIMIT` characters (half as many in scripts of several bytes each), and only once
    somebody compares or stores it: most calls are never compared. Stored (pickled), it holds numbers and no text.

    Attributes:
        words: A set of `WORD_BITS`, two for each word: with one, too many fall on that of another word.
        literals: Fingerprint of what the text names exactly (numbers, paths, addresses, quotes).
        names: As `words`, of the words with a capital inside sentences; none where most words have one.
    """

    __slots__ = ("_literals", "_names", "_sample", "_words")

    def __init__(self, sample: str, rest: int = 0) -> None:
        sample = sample[:SAMPLE_LIMIT]
        if not sample.isascii() and sys.getsizeof(sample) > 2 * SAMPLE_LIMIT:
            sample = sample[: SAMPLE_LIMIT // 2]
        self._sample: str | None = sample
        self._words = 0
        self._literals = rest  # fingerprint of what lies behind the sample, and counts as named exactly
        self._names = 0

    def similarity(self, other: FreeText) -> float:
        """Jaccard similarity of the word sets, 0.0 to 1.0; 0.0 where they name something else."""
        if self._sample is not None:
            self._condense()
        if other._sample is not None:
            other._condense()
        if self._literals != other._literals or self._names & ~other._words or other._names & ~self._words:
            return 0.0
        union = (self._words | other._words).bit_count()
        return (self._words & other._words).bit_count() / union if union else 1.0

    def says_no_other(self, other: FreeText) -> bool:
        """True unless each of the two has words that the other has not."""
        if self._sample is not None:
            self._condense()
        if other._sample is not None:
            other._condense()
        return not (self._words & ~other._words and other._words & ~self._words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FreeText) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash(self.__reduce__()[1])

    def _condense(self) -> None:
        sample = self._sample or ""
        literals = _LITERAL.findall(sample)
        if literals:
            sample = _LITERAL.sub(" ", sample)
        inside = _INSIDE.findall(sample)
        named = [word.lower() for word in inside if word[0].isupper()]
        self._words = _word_set(_WORD.findall(sample.lower()))
        self._names = _word_set(named) if len(named) <= len(inside) / 2 else 0
        self._literals ^= text_hash(" ".join(literals).lower())
        self._sample = None

    def __reduce__(self) -> tuple[object, tuple[int, int, int]]:
        if self._sample is not None:
            self._condense()
        return _free_text, (self._words, self._literals, self._names)


def _word_set(words: list[str]) -> int:
    """A set of words, two bits for each."""
    found = 0
    for word in words:
        if word.isascii():
            digest = xxh3_64_intdigest(word.encode())
            found |= 1 << digest % WORD_BITS | 1 << (digest >> 32) % WORD_BITS
        else:  # scripts without spaces: pairs of characters stand for words
            for i in range(max(1, len(word) - 1)):
                digest = text_hash(word[i : i + 2])
                found |= 1 << digest % WORD_BITS | 1 << (digest >> 32) % WORD_BITS
    return found


def _free_text(words: int, literals: int, names: int) -> FreeText:
    text = FreeText("")
    text._words, text._literals, text._names, text._sample = words, literals, names, None  # noqa: SLF001
    return text


class Arguments(NamedTuple):
    """What was asked of a tool or retriever.

    Attributes:
        fingerprint: Equal for equal arguments, whatever the order of their keys.
        fixed: Fingerprint of everything but the free-text fields: ids, paths, dates, numbers, flags,
            recipients. A call that differs here is a different call.
        free_text: Residue of the free-text fields, None where there is none.
        told: "write" in a statement that changes something (`UPDATE … SET`, `mutation {`, method `POST`), "sleep"
            in a command that waits (`sleep 10 && kubectl get pods`), "look" in one that only looks (`git diff`),
            "view" in that of an editor of several commands, "page" where it asks for a part of a list (`offset`,
            `cursor`), else "".
        asked: `fingerprint` without words that say why (`explanation`, or `description` beside a command); of what asks
            for a part of a list, without which part. 0 where there is neither.
    """

    fingerprint: int
    fixed: int
    free_text: FreeText | None = None
    told: str = ""
    asked: int = 0

    def similarity(self, other: Arguments) -> float:
        """1.0 for the same arguments, 0.0 for another call, in between for a reworded one."""
        if self.fingerprint == other.fingerprint:
            return 1.0
        if self.fixed != other.fixed or self.free_text is None or other.free_text is None:
            return 0.0
        return self.free_text.similarity(other.free_text)

    def says_no_other(self, other: Arguments) -> bool:
        """True unless the free texts of both have words of their own."""
        return self.free_text is None or other.free_text is None or self.free_text.says_no_other(other.free_text)


def _whole_list(value: dict[object, object]) -> int:
    """Fingerprint of arguments without which part of a list they ask for, 0 if they ask for none."""
    part = [key for key in value if key in _PAGING and not _names_a_page(key, value[key])]
    return value_digest({key: item for key, item in value.items() if key not in part})[0] if part else 0


def _names_a_page(key: object, item: object) -> bool:
    """True for the page of a site or a wiki (`page="Berlin"`), which is no part of a list."""
    return key == "page" and type(item) is str and not item.strip().isdecimal()


def _asked(value: dict[object, object]) -> int:
    """Fingerprint of arguments without those that say why, 0 if none of them does."""
    if "explanation" not in value and "description" not in value:
        return 0
    why = [key for key in value if key == "explanation" or (key == "description" and "command" in value)]
    if not why or len(why) == len(value):
        return 0
    return value_digest({key: item for key, item in value.items() if key not in why})[0]


def _only_looks(command: str) -> bool:
    """True for a short command that changes nothing."""
    return len(command) <= SAMPLE_LIMIT and _LOOKS_ROUND.match(command) is not None


def is_free_text(value: str) -> bool:
    """True for a string of three words and more on one line: a question, a search query, a thought.

    Text in scripts that put no spaces between words counts from eight characters on.
    """
    start = value[:SAMPLE_LIMIT]
    if "\n" in start or not start or start[0] in "{[</":
        return False
    if start.count(" ") >= 2:
        return _QUERY.match(start) is None
    return not start.isascii() and _UNSPACED.search(start) is not None


def arguments(value: object) -> Arguments:
    """Reads the arguments of a tool or the query of a retriever.

    Args:
        value: A dict of arguments, a JSON string of one, or a plain string, which counts as one argument `input`, as
            LangChain's tracer has it.
    """
    if isinstance(value, str):
        value = _plain_text(value)
        if value[:1] == "{" and len(value) <= TEXT_LIMIT:
            try:
                value = cast("object", orjson.loads(value))
            except ValueError:
                value = {"input": value}
        else:
            value = {"input": value}
    fingerprint = value_digest(value)[0]
    if type(value) is not dict or len(value) > ITEM_LIMIT:
        return Arguments(fingerprint, fingerprint)
    if any(isinstance(item, str) and type(item) is not str for item in value.values()):
        value = {key: _plain_text(item) if isinstance(item, str) else item for key, item in value.items()}
    fixed: dict[object, object] = {}
    asked = _asked(value)
    texts: list[str] = []
    told = ""
    for key, item in value.items():
        if type(item) is str:
            if _WRITES.match(item, 0, SAMPLE_LIMIT) is not None or (
                key == "method" and item.upper() in _METHODS and "query" not in value
            ):
                told = "write"
            elif "sleep" in item and _SLEEPS.search(item, 0, SAMPLE_LIMIT) is not None:
                told = told or "sleep"
            elif key in _COMMANDS and (item == "view" or _only_looks(item)):
                told = told or ("view" if item == "view" else "look")
        if type(item) is str and is_free_text(item) and key not in _NAMING:
            texts.append(item)
            fixed[key] = None  # the field counts, its wording does not
        else:
            fixed[key] = item
    if not (asked or told or _PAGING.isdisjoint(value)) and (asked := _whole_list(value)):
        told = "page"
    if not texts:
        return Arguments(fingerprint, fingerprint, None, told, asked)
    sample = texts[0] if len(texts) == 1 else "\n".join([text[:SAMPLE_LIMIT] for text in texts])
    rest = [text_hash(text[SAMPLE_LIMIT:]) for text in texts if len(text) > SAMPLE_LIMIT]
    return Arguments(fingerprint, value_digest(fixed)[0], FreeText(sample, mix(*rest) if rest else 0), told, asked)
