"""Tables as text (CSV, TSV) as a sequence of rows: a header, and a row of cells for each document."""

from __future__ import annotations

import ast
import codecs
import csv
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from ts_importers.values import parsed
from ts_langchain.errors import UnreadableSource

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDINGS = (".csv", ".tsv")
MAX_CELL = 256_000_000
_DELIMITERS = ",;\t"
_PLAIN = (dict, list, str, int, float, bool, type(None))


class TableRow(NamedTuple):
    """A row.

    Attributes:
        line: Number of its first line, from 1.
        cells: By the names in the header; None if it is none, see `why`. Those that hold JSON, or what Python prints of
            lists and dictionaries, are what these say; empty ones are None; all others are text.
        why: Why it is none.
    """

    line: int
    cells: dict[str, Any] | None
    why: str = ""


def is_table(name: str) -> bool:
    """True for the name of a table, packed or not."""
    return name.lower().removesuffix(".gz").endswith(ENDINGS)


def rows(lines: Iterator[bytes]) -> Iterator[TableRow]:
    """The rows below the header. Cells are parted by commas, semicolons or tabs, whichever the header holds most.

    Raises:
        UnreadableSource: There is no header.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))  # of the whole process: it has no other
    first = next(lines, b"").removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
    delimiter = max(_DELIMITERS, key=first.count)
    try:
        names = next(csv.reader([first], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        msg = f"the first line is no header of a table: {error}"
        raise UnreadableSource(msg) from error
    text = (line.decode(errors="surrogateescape") for line in lines)
    table = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        line = table.line_num + 2
        try:
            found = next(table, None)
        except csv.Error as error:
            yield TableRow(line, None, f"no row of a table: {error}")
            continue
        if found is None:
            return
        if len(found) == len(names):
            yield TableRow(line, {n: _read(cell) for n, cell in zip(names, found, strict=True) if n})
        elif found:
            yield TableRow(line, None, f"a row of {len(found)} cells under a header of {len(names)}")


def _read(cell: str) -> Any:
    """What a cell says."""
    if not cell:
        return None
    if cell[0] not in "{[":
        return cell
    said = parsed(cell)
    return _of_python(cell) if said is cell else said


def _of_python(cell: str) -> Any:
    """What Python, and pandas with it, prints of a list or a dictionary; the text itself if it is none."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of backslashes in it
            said = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return cell
    return said if _is_plain(said) else cell


def _is_plain(value: object) -> bool:
    """True for what JSON could say."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
