"""A file as a sequence of documents: JSON one a line, one list or printed over many lines; a table; gzipped or not."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ts_importers import tables, values
from ts_langchain.capture.messages import ROLES, unwrap
from ts_langchain.errors import UnreadableSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_WHOLE_BYTES = 256_000_000
_NO_JSON, _CUT_OFF, _NOT_READ = b"no JSON\n", b"no JSON", b"no JSON from here on\n"
_BROKEN, _LOST = object(), object()
_LONGEST_WORD = len("-Infinity")
_BETWEEN = re.compile(r"[\s,]*")


class Document(NamedTuple):
    """One document.

    Attributes:
        line: Number of its first line, or of the element of the list, from 1.
        raw: Its bytes.
        offset: Where it begins in the file.
        why: Why there is none: the gzipped file is cut off here.
    """

    line: int
    raw: bytes
    offset: int
    why: str = ""


class Documents:
    """Reads one file.

    Args:
        path: The file.
        name: What it is called among several, if not as itself.

    Attributes:
        gzipped: It is gzipped.
        listed: It is one JSON list; known for certain once it has been read.
        printed: Its documents are objects of many lines each, as pretty-printers write them.
        table: Its documents are the rows of a table.
        nested: A document holds several rows.
        wrapped: Of pages of an API: under which name each holds its rows.

    Raises:
        UnreadableSource: It is not there; once it is read, also for a list that is too large or broken, and for a
            gzipped file that is damaged, or holds nothing.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = path.name if name is None else name
        try:
            self.size = path.stat().st_size
            if not path.is_file():
                msg = f"{path} is no file; save what it gives in one, files are read more than once"
                raise UnreadableSource(msg)
            with path.open("rb") as file:
                self.gzipped = file.read(2) == b"\x1f\x8b"
        except OSError as error:
            hint = "; what is piped in is read from a file: save it first" if str(path) == "-" else ""
            msg = f"{path} cannot be read: {error.strerror}{hint}"
            raise UnreadableSource(msg) from error
        with self.open() as file:
            start = _unmarked(file.read1(4096)).lstrip()
        self.listed = start.startswith(b"[")
        self.table = tables.is_table(path.name) and not start.startswith((b"[", b"{"))
        self.printed = start.split(b"\n", 1)[0].strip() == b"{"
        self.nested = False
        self.wrapped: str | None = None
        self._elements: list[Any] | None = None

    @property
    def seekable(self) -> bool:
        """True if a row can be read from its document's offset alone."""
        return not (self.gzipped or self.listed or self.printed or self.table or self.nested or self.wrapped)

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """The bytes, unpacked.

        Raises:
            UnreadableSource: The file cannot be read to its end.
        """
        try:
            with self.path.open("rb") as raw:
                if self.gzipped:
                    with gzip.GzipFile(fileobj=raw) as unpacked:
                        yield io.BufferedReader(_Unpacked(unpacked), 1 << 20)
                else:
                    yield raw
        except EOFError as error:
            raise _CutOff(self._broken_off(error)) from error
        except (OSError, zlib.error) as error:  # of what is damaged, what came before may be wrong, too
            raise UnreadableSource(self._broken_off(error)) from error

    def _broken_off(self, error: Exception) -> str:
        return f"{self.path} cannot be read to its end: {error}"

    def read(self, line: int = 0, offset: int = 0) -> Iterator[Document]:
        """Documents after so many lines (or elements), which end at `offset`."""
        if self.wrapped is not None:
            for number, (raw, why) in enumerate(self._unwrapped(self.wrapped), 1):
                if number > line:
                    yield Document(number, raw, 0, why)
            return
        yield from self._read(line, offset)

    def _unwrapped(self, name: str) -> Iterator[tuple[bytes, str]]:
        """The rows of all pages."""
        for document in self._read():
            page = loads(document.raw)
            rows = page.get(name) if isinstance(page, dict) else None
            if isinstance(rows, list):
                yield from ((_dumps(row), "") for row in rows)
            elif document.raw.strip() or document.why:
                yield document.raw, document.why

    def _read(self, line: int = 0, offset: int = 0) -> Iterator[Document]:
        if self.listed and self._elements is None:
            self._elements = self._load_list()
            self.listed = self._elements is not None
        if (elements := self._elements) is not None:
            for number in range(line, len(elements)):
                yield Document(number + 1, _dumps(elements[number]), 0)
            return
        number = 0
        try:
            with self.open() as file:
                if self.printed:
                    for document in _objects(self._lines(file)):
                        number = document.line + document.raw.count(b"\n")
                        yield document
                    return
                if self.table:
                    for row in tables.rows(self._lines(file)):
                        number = row.line
                        yield Document(number, b"" if row.cells is None else _dumps(row.cells), 0, row.why)
                    return
                if not self.gzipped:
                    file.seek(offset)
                for number, raw in enumerate(self._lines(file), 1 if self.gzipped else line + 1):
                    if number > line:
                        yield Document(number, raw, offset)
                        offset += len(raw)
        except _CutOff as error:
            if not number:
                raise
            if number >= line:
                yield Document(number + 1, b"", offset, str(error))

    def _lines(self, file: io.BufferedReader) -> Iterator[bytes]:
        """Lines of a file.

        Raises:
            _CutOff: One is longer than `MAX_WHOLE_BYTES`.
        """
        while line := file.readline(MAX_WHOLE_BYTES + 1):
            if len(line) > MAX_WHOLE_BYTES:
                msg = f"{self.path} has a line of over {MAX_WHOLE_BYTES:,} bytes: it and what follows was not read"
                raise _CutOff(msg)
            yield line

    def release(self) -> None:
        """Gives the memory of a list back; it is read again when it is asked for."""
        self._elements = None

    def _load_list(self) -> list[Any] | None:
        with self.open() as file:
            data, cut_off = _as_far_as_it_goes(file)
            data = _unmarked(data)
        if len(data) > MAX_WHOLE_BYTES:
            size = f"over {MAX_WHOLE_BYTES:,} bytes"
            msg = f"{self.path} is one JSON list of {size}; turn it into JSON lines first (jq -c '.[]')"
            raise UnreadableSource(msg)
        try:
            rows = orjson.loads(data)
        except ValueError as error:
            # lines may be lists themselves; then the first one is whole
            first_line = data.lstrip().split(b"\n", 1)[0]
            if _is_json(first_line):
                return None
            try:
                rows = values.loads(data)
            except ValueError:
                rows = _begun(data)
                if not rows:
                    msg = f"{self.path} begins like a JSON list but is none: {error}"
                    raise UnreadableSource(msg) from error
        if not isinstance(rows, list):
            return None
        whole = rows[:-1] if rows and (rows[-1] is _BROKEN or rows[-1] is _LOST) else rows
        if cut_off and whole is rows:
            rows = [*rows, _BROKEN]
        return [whole, *rows[len(whole) :]] if _is_conversation(whole) else rows


class _CutOff(UnreadableSource):
    """A gzipped file has no end, or a line none that memory could hold."""


class _Unpacked(io.RawIOBase):
    """What a gzipped file holds, up to where it breaks off."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._file.read1(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def _as_far_as_it_goes(file: io.BufferedReader) -> tuple[bytes, bool]:
    """All bytes, of a gzipped file without an end those that there are; and whether it has none.

    Of what is larger than `MAX_WHOLE_BYTES`, so much that it shows: a small file may unpack to more than memory holds.

    Raises:
        EOFError: There are no bytes.
    """
    parts: list[bytes] = []
    size = 0
    try:
        while size <= MAX_WHOLE_BYTES and (part := file.read1(1 << 20)):
            parts.append(part)
            size += len(part)
    except EOFError:
        if not parts:
            raise
        return b"".join(parts), True
    return b"".join(parts), False


def _objects(lines: Iterator[bytes]) -> Iterator[Document]:
    """Objects printed over many lines: each ends with a brace at the left margin."""
    begin = offset = 0
    size = 0
    kept: list[bytes] = []
    number = first = 0
    for line in lines:
        number += 1
        offset += len(line)
        if not kept:
            begin, first = offset - len(line), number
            if not line.strip():
                continue
        kept.append(line)
        size += len(line)
        if line.rstrip() in (b"}", b"},") or size > MAX_WHOLE_BYTES:
            yield Document(first, b"".join(kept).rstrip().rstrip(b","), begin)
            kept, size = [], 0
    if kept:
        yield Document(first, b"".join(kept), begin)


def _begun(data: bytes) -> list[Any]:
    """The elements of a list up to where it breaks off, or ends after a comma, and of lists behind it.

    `_BROKEN` stands for half an element at the end, `_LOST` for all that follows what is no JSON.
    """
    text = data.decode(errors="surrogateescape").rstrip()
    lists: list[list[Any]] = []
    end: list[Any] = []
    at = _after(text, 0)
    while at < len(text) and not end:
        if text[at] != "[":
            end = [_LOST]
            break
        elements, at, end = _list_at(text, at + 1)
        lists.append(elements)
        at = _after(text, at)
    if len(lists) > 1 and all(map(_is_conversation, lists)):
        return [*lists, *end]
    found = list(chain.from_iterable(lists))
    return [*found, *end] if found else []


def _list_at(text: str, at: int) -> tuple[list[Any], int, list[Any]]:
    """The elements from here on, where the list ends, and what stands for the rest if it is broken."""
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    elements: list[Any] = []
    while (at := _after(text, at)) < len(text):
        if text[at] == "]":
            return elements, at + 1, []
        try:
            element, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") or error.pos >= len(text) - _LONGEST_WORD
            return elements, at, [_BROKEN if cut else _LOST]
        except (ValueError, RecursionError):
            return elements, at, [_LOST]
        elements.append(element)
    return elements, at, []


def _after(text: str, at: int) -> int:
    """Where the next element begins."""
    between = _BETWEEN.match(text, at)
    return between.end() if between is not None else at


def _dumps(element: object) -> bytes:
    """An element as a line of its own, which is no JSON either if the element is none."""
    if element is _BROKEN or element is _LOST:
        return _CUT_OFF if element is _BROKEN else _NOT_READ
    try:
        return orjson.dumps(element)
    except TypeError:  # half a letter, or nested deeper than it writes
        with suppress(RecursionError):
            return json.dumps(values.whole(element)).encode()
    return _NO_JSON


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except ValueError:
        return False
    return True


def loads(raw: bytes) -> object:
    """What a document says, a bare list of messages as a conversation; None if it is no JSON."""
    try:
        document = values.loads(_unmarked(raw))
    except ValueError:
        return None
    return {"messages": document} if _is_conversation(document) else document


def _unmarked(raw: bytes) -> bytes:
    """Without the byte order mark that some editors and shells begin a file with."""
    return raw.removeprefix(codecs.BOM_UTF8)


def _is_conversation(document: object) -> bool:
    return isinstance(document, list) and bool(document) and all(map(_is_message, document))


def _is_message(value: object) -> bool:
    """True for a message in OpenAI's, Anthropic's or one of LangChain's shapes."""
    if not isinstance(value, dict):
        return False
    fields = unwrap(value)
    told = str(fields.get("role") or fields.get("type")) in ROLES
    return told and not fields.keys().isdisjoint(("content", "tool_calls"))


def why_unreadable(raw: bytes, document: object) -> str:
    """Why a document is not an object."""
    if raw == _NOT_READ:
        return "not JSON, and what follows was not read"
    if document is None:
        cut = "" if raw.endswith((b"\n", b"}")) else " (it ends in the middle: was the file cut off?)"
        return f"not JSON{cut}"
    return f"a {type(document).__name__}, not an object"
