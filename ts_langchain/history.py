"""An import: an importer's pages, replayed, with a checkpoint in the ledger every so often.

Killed at any moment it goes on where the last checkpoint was, with the same result: a checkpoint holds the
position, the calls under way, the sessions that changed and the runs already counted, in one transaction.
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ts_langchain.bloom import Bloom
from ts_langchain.database import run_key, stored_id
from ts_langchain.errors import LedgerError, TokenSentinelError
from ts_langchain.fingerprint import text_hash
from ts_langchain.ledger import UNNAMED, Batch, History, Ledger, Spend, day_of
from ts_langchain.replay import Replay
from ts_langchain.sentinel import Sentinel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ts_langchain.call import Call
    from ts_langchain.incident import Incident
    from ts_langchain.pricing import Cost
    from ts_langchain.replay import Run
    from ts_langchain.session import SessionState

CHECKPOINT_RUNS = 5_000
SESSIONS_IN_MEMORY = 500
GC_THRESHOLD = 200_000


class SkippedRow(Protocol):
    """A row that could not be read."""

    @property
    def where(self) -> str: ...
    @property
    def why(self) -> str: ...


class SourcePage(Protocol):
    """A page of an importer (`ts_importers.base.Page`)."""

    @property
    def runs(self) -> Sequence[Run]: ...
    @property
    def position(self) -> Mapping[str, Any]: ...
    @property
    def skipped(self) -> Sequence[SkippedRow]: ...
    @property
    def ignored(self) -> int: ...


class Source(Protocol):
    """An importer (`ts_importers.base.Importer`)."""

    source: str
    scope: str
    total: int | None

    def pages(self, position: dict[str, Any] | None = None) -> Iterator[SourcePage]: ...
    def describe(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import has come.

    Attributes:
        rows: Rows read in this sitting, ignored and skipped ones included.
        pages: Pages read in this sitting.
        total: Rows in all, None if unknown.
        resumed: Rows replayed in earlier sittings.
    """

    rows: int
    pages: int
    total: int | None
    resumed: int


@contextmanager
def _unhurried_collector() -> Iterator[None]:
    """Fewer passes of Python's cycle collector: parsed rows make many objects and no cycles, a pass is all loss."""
    thresholds = gc.get_threshold()
    gc.set_threshold(max(thresholds[0], GC_THRESHOLD), *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


class LedgerStore:
    """Sessions that do not fit into memory go into the ledger and come back from there."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.batch = Batch()
        self.modules: frozenset[str] = frozenset()
        self._stored = Bloom()

    def open(self, history: History, *, anew: bool = False) -> None:
        """Says whose sessions they are. `anew`: none of those that the ledger holds."""
        self.history = history
        if not anew:
            self._stored.add(text_hash(session_id) for session_id in self.ledger.session_ids(history))

    def load(self, session_id: str) -> SessionState | None:
        """A session evicted a moment ago, or one of an earlier checkpoint."""
        state = self.batch.sessions.get(session_id)
        if state is None and text_hash(stored_id(session_id)) in self._stored:
            state = self.ledger.load_session(self.history, session_id, self.modules)
        return state

    def evict(self, state: SessionState) -> None:
        """It is in the batch already, if it changed since the last checkpoint."""

    def changed(self, state: SessionState) -> None:
        """Remembers that a session has changed: a request of it was read, which may still be under way for long."""
        self.batch.sessions[state.id] = state

    def touched(self, state: SessionState, call: Call, cost: Cost | None) -> None:
        """Counts a call, and remembers that its session has changed."""
        batch = self.batch
        batch.sessions[state.id] = state
        batch.calls.append(call)
        key = (day_of(call.started_at), "", "")
        if call.kind in ("model", "embedding"):
            key = (key[0], call.provider or "", call.model or UNNAMED)
        spend = batch.spend.get(key)
        if spend is None:
            spend = batch.spend[key] = Spend(*key)
        spend.add(call, cost)

    def closed(self, incident: Incident) -> None:
        """Keeps an incident that has left its session."""
        self.batch.closed[incident.id] = incident

    def take(self) -> Batch:
        """What has gathered since the last checkpoint."""
        batch, self.batch = self.batch, Batch()
        return batch

    def saved(self, batch: Batch) -> None:
        """The sessions of a batch may now be found in the ledger."""
        self._stored.add(text_hash(stored_id(session_id)) for session_id in batch.sessions)


class Import:
    """Imports a history into a ledger.

    Args:
        source: An importer.
        ledger: Where results go.
        rules: As for `Sentinel`.
        settings: As for `Sentinel`.
        prices: As for `Sentinel`.
        asked: What the user asked for (range, filters), to recognise an interrupted import.
        fresh: Forget what was imported of this history before, with the first checkpoint: a source that cannot be read
            costs nothing.
        checkpoint_runs: Rows between checkpoints.
        sessions_in_memory: Sessions kept in memory.

    Raises:
        ConfigurationError: A rule, setting or price is wrong; the ledger is left as it is.
        LedgerError: The ledger cannot be used, or holds this history replayed under other settings.
    """

    def __init__(
        self,
        source: Source,
        ledger: Ledger,
        *,
        rules: Sequence[str] | None = None,
        settings: Mapping[str, object] | None = None,
        prices: Any = None,
        asked: Mapping[str, Any] | None = None,
        fresh: bool = False,
        checkpoint_runs: int = CHECKPOINT_RUNS,
        sessions_in_memory: int = SESSIONS_IN_MEMORY,
    ) -> None:
        self.source = source
        self.ledger = ledger
        self.checkpoint_runs = checkpoint_runs
        self.store = LedgerStore(ledger)
        self.sentinel = Sentinel(rules, settings, prices, max_sessions=sessions_in_memory, store=self.store)
        self.store.modules = frozenset(type(rule).__module__ for rule in self.sentinel.rules)
        asked = dict(asked or {})
        fingerprint = f"{run_key(repr((sorted(rules or ()), sorted((settings or {}).items()), prices))):x}"[:20]
        label = dict(source.describe())
        history = ledger.open_history(source.source, source.scope, label, fingerprint, asked, time.time())
        self._anew = fresh or (history.settings != fingerprint and not history.runs)
        if self._anew:
            history = History(
                history.id, source.source, source.scope, label, fingerprint, asked, updated_at=history.updated_at
            )
        elif history.settings != fingerprint:
            msg = (
                f"{source.scope} was imported with other rules, settings or prices; mixing them would make the "
                "numbers meaningless. Import it again with --fresh, or use another --ledger."
            )
            raise LedgerError(msg)
        self.resumes = not history.done and history.position is not None and history.range == asked
        if not self.resumes:
            # another range of the same history: from its beginning; what was counted before is known by id
            history.position, history.ignored = None, 0
        history.range, history.label, history.done = asked, label, False
        self.history = history
        self.duplicates = 0
        self.store.open(history, anew=self._anew)
        self.replay = Replay(self.sentinel, on_delivered=lambda run_id: self._delivered.add(run_key(run_id)))
        self._stopping = False
        self._positions: dict[int, dict[str, Any]] = {}
        self._ignored: dict[int, int] = {}
        # what the ledger does not know yet: keys of rows delivered, and of rows that could not be read
        self._delivered: set[int] = set()
        # what it may know; only these are looked up
        self._counted = Bloom()
        if not self._anew:
            self._counted.add(ledger.run_keys(history))
        self._odd: dict[int, SkippedRow] = {}

    def stop(self) -> None:
        """Asks a running import to stop after the page it is at, with a checkpoint."""
        self._stopping = True

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> History:
        """Imports everything. Interrupted at any moment, the next import goes on at the last checkpoint.

        Returns:
            The history; `done` is False if `stop` ended it early.

        Raises:
            ImporterError: The source could not be read to its end; what was read is kept.
            LedgerError: A checkpoint could not be written.
        """
        with _unhurried_collector():
            return self._run(on_progress)

    def _run(self, on_progress: Callable[[Progress], None] | None) -> History:
        history, replay = self.history, self.replay
        if history.replay is not None:
            replay.restore(history.replay, from_the_beginning=not self.resumes)
        resumed, rows, since, number = history.runs, 0, 0, -1
        try:
            for number, page in enumerate(self.source.pages(history.position)):
                self._take(page, number)
                count = len(page.runs) + page.ignored + len(page.skipped)
                rows += count
                since += count
                if on_progress is not None:
                    on_progress(Progress(rows, number + 1, self.source.total, resumed))
                if since >= self.checkpoint_runs:
                    self._checkpoint(number)
                    since = 0
                if self._stopping:
                    self._checkpoint(number)
                    return history
        except LedgerError:
            raise  # what was to be written is gone: the next import reads it again
        except TokenSentinelError:
            if number >= 0 or not self._anew:
                self._checkpoint(number)
            raise
        replay.finish()
        history.done = True
        self._checkpoint(number)
        return history

    def _take(self, page: SourcePage, number: int) -> None:
        """Feeds a page's rows, each once however often it comes."""
        replay = self.replay
        self._positions[number] = dict(page.position)
        self._ignored[number] = page.ignored + sum(run.run_type == "chain" for run in page.runs)
        keys = [run_key(run.id) for run in page.runs]
        odd = [(row, run_key(f"skipped {row.where}")) for row in page.skipped]
        asked = [key for key in (*keys, *(key for _, key in odd)) if key in self._counted]
        counted = self.ledger.known_runs(self.history, asked) if asked else set()
        for run, key in zip(page.runs, keys, strict=True):
            if key in counted or key in self._delivered or replay.is_under_way(run.id):
                self.duplicates += 1
            else:
                replay.feed(run, number)
        for row, key in odd:
            if key not in counted and key not in self._odd:
                self._odd[key] = row

    def _checkpoint(self, number: int) -> None:
        """Writes everything up to here. Pages with rows still under way will be read again."""
        history, replay = self.history, self.replay
        oldest = replay.oldest_page()
        settled = number + 1 if oldest is None else oldest
        # where the next page begins nobody knows before it is read: the last one will be read again
        again = min(settled, number)
        if number >= 0:
            history.position = self._positions[again]
        for page in [p for p in self._ignored if p < again or history.done]:
            history.ignored += self._ignored.pop(page)
        for page in [p for p in self._positions if p < again]:
            del self._positions[page]
        history.replay = replay.snapshot()
        history.late = replay.late
        batch = self.store.take()
        batch.seen = [*self._delivered, *self._odd]
        batch.skipped = {row.where: row.why for row in self._odd.values()}
        for run_id in dict.fromkeys(replay.faulty):
            batch.skipped[run_id] = "could only be read in part"
        replay.faulty.clear()
        history.runs += len(self._delivered)
        history.skipped += len(batch.skipped)
        self.ledger.save(history, batch, anew=self._anew)
        self._anew = False
        self.store.saved(batch)
        self._counted.add(batch.seen)
        self._delivered.clear()
        self._odd.clear()
