"""What an importer is, and what all of them share.

An importer reads history from one place. It yields `Page`s of `Run` rows in ascending order of start
time. Each page has a `position`: handed back to `pages`, it yields that page again and all that follow.
Positions are small JSON values and are stored in the ledger; they must survive a restart, so they name a
place in time or in a file, not a server's short-lived cursor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Position: TypeAlias = "dict[str, str | int | float | None]"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that could not be read.

    Attributes:
        where: A line number, a run id, a page: enough to find it again.
        why: What was wrong with it, without its content.
    """

    where: str
    why: str


@dataclass(slots=True)
class Page:
    """One page of history.

    Attributes:
        runs: Rows in ascending order of start time.
        position: Where this page begins.
        skipped: Rows of this page that could not be read.
        ignored: Rows that were read and are not calls (chains, prompts, parsers).
    """

    runs: list[Run]
    position: Position
    skipped: list[Skipped] = field(default_factory=list)
    ignored: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """The importer is waiting before it tries again.

    Attributes:
        seconds: How long.
        reason: Why, for people.
        attempt: Which attempt failed, counted from 1.
    """

    seconds: float
    reason: str
    attempt: int


OnWait: TypeAlias = "Callable[[Wait], None]"


@runtime_checkable
class Importer(Protocol):
    """Reads history from one place.

    Attributes:
        source: Short name of the kind of place (`langsmith`, `file`).
        scope: Which place exactly (a project id, a file's path): rows of the same source and scope are the
            same history, and are counted once however often they are imported.
        total: Number of rows, None where it is not known beforehand.
        notices: What the user should know about how the source was read (`detected: ...`).
    """

    source: str
    scope: str
    total: int | None
    notices: list[str]

    def pages(self, position: Position | None = None) -> Iterator[Page]:
        """Yields pages from `position` on, from the beginning where it is None.

        Raises:
            ImporterError: The history cannot be read; the message says what to do.
        """
        ...

    def describe(self) -> Mapping[str, str]:
        """Which history it is, for people: label to value. Never a secret."""
        ...


def failed_chain(
    run_id: object, name: object, started: float | None, ended: float | None, trace_id: object, error: str
) -> Run | None:
    """A chain that failed, of which that is all that matters; None if it does not say which, or when."""
    if not isinstance(run_id, str) or not run_id or started is None or ended is None:
        return None
    trace = trace_id if isinstance(trace_id, str) and trace_id else run_id
    return Run(run_id, "chain", str(name or "chain"), started, max(started, ended), trace, error=error)
