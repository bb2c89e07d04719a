"""What a format of files is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ts_importers.base import Skipped
    from ts_importers.formats.retold import Retold
    from ts_importers.told_twice import Telling
    from ts_langchain.replay import Run

Row: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class Key:
    """What has to be known of a row before any row is read.

    Attributes:
        started: Seconds since the epoch, None if the row does not say: then it follows the row before it.
        id: Of spans: theirs, unique over all traces.
        parent: Of spans: the enclosing span's.
        trace: Of spans: their trace.
        kind: Of spans: what they are (`llm`, `tool`, ...), empty for what is no call.
        session: The conversation that the row names itself.
        node: The agent or graph node that the row names itself.
        name: Of tools: theirs.
        telling: Of model calls in spans: what tells whether another span records the same call.
    """

    started: float | None = None
    id: str = ""
    parent: str = ""
    trace: str = ""
    kind: str = ""
    session: str | None = None
    node: str | None = None
    name: str = ""
    telling: Telling | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a row is read with.

    Attributes:
        place: Where it stands, unique in the history: a line, or a file and a line.
        clock: Seconds since the epoch, for rows without a time.
        model: For rows that name no model.
        provider: For rows that name no provider.
        session: The conversation that another span of the same trace names.
        node: The agent or graph node that an enclosing span names.
        usage: Usage that another span of the same call tells, and this one does not.
        retold: What rows before it told of conversations.
    """

    place: str
    clock: float
    model: str | None = None
    provider: str | None = None
    session: str | None = None
    node: str | None = None
    usage: dict[str, Any] | None = None
    retold: Retold | None = None


class Format(Protocol):
    """One kind of file.

    Attributes:
        name: What `--format` calls it.
        title: What people call it.
        expects: How a row is recognised, for people.
        spans: True where rows belong to traces and have to be known together before one can be read.
    """

    name: str
    title: str
    expects: str
    spans: bool

    def recognises(self, document: Row) -> str | None:
        """What a document (a line, or an element of a list) is, for people; None if it is not of this format."""
        ...

    def rows(self, document: Row) -> Iterable[Row]:
        """The rows of a document."""
        ...

    def key(self, row: Row) -> Key:
        """What has to be known of a row before any row is read."""
        ...

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        """The calls of a row, in order of start time, empty if it is none; and why what could not be read could not."""
        ...


def first(row: Mapping[str, Any], *names: str) -> Any:
    """The first of several spellings that the row has a value for."""
    return next((row[n] for n in names if row.get(n) not in (None, "")), None)
