"""Writing the annotations of a history, and removing them again.

Every annotation is entered in the record before it is sent and confirmed after it has arrived. Killed at any moment,
the next run sends what is not confirmed (under the same ids), and a removal finds all that may have arrived.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from ts_langchain.deliver.annotations import NotWritten, annotation_ids, plan
from ts_langchain.deliver.record import Record, Written

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from ts_langchain.deliver.annotations import Annotation, Annotator
    from ts_langchain.ledger import History, Ledger

DRY_RUN_BATCH = 500


@dataclass(slots=True)
class Outcome:
    """What an annotation or a removal did, or would do.

    Attributes:
        written: Annotations written for the first time.
        updated: Annotations written again, since they changed or nobody knew whether they had arrived.
        unchanged: Annotations that were there already.
        removed: Annotations removed.
        not_written: Run id and reason of those that could not be written or removed.
    """

    written: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    not_written: list[tuple[str, NotWritten]] = field(default_factory=list)

    @property
    def gone(self) -> int:
        """How many could not be written since their run is no longer there."""
        return sum(n.gone for _, n in self.not_written)

    @property
    def refused(self) -> int:
        """How many could not be written for another reason."""
        return len(self.not_written) - self.gone


@dataclass(slots=True)
class Annotate:
    """The annotations of one history.

    Args:
        ledger: The ledger.
        history: The history.
        place: Where they go; None for a dry run: nothing is sent and nothing recorded.
        service: Which service that is, None for the one that the history came from.
        on_progress: Told how many more annotations are done.

    Raises:
        LedgerError: The ledger cannot be used.
    """

    ledger: Ledger
    history: History
    place: Annotator | None
    service: str | None = None
    on_progress: Callable[[int], None] | None = None
    outcome: Outcome = field(default_factory=Outcome)

    def count(self, *, rules: Collection[str] = (), min_usd: float = 0.0, removing: bool = False) -> int:
        """How many annotations `write` will look at, or `remove` will remove."""
        if removing:
            known = Record(self.ledger).annotations(*self._where)
            return sum(not rules or w.rule in rules for w in known.values())
        return sum(
            len(set(incident.call_ids))
            for incident in self.ledger.incidents(self.history)
            if (not rules or incident.rule in rules) and incident.wasted_usd >= min_usd
        )

    def write(self, *, rules: Collection[str] = (), min_usd: float = 0.0) -> Outcome:
        """Writes what is missing or changed, and removes annotations whose incidents no longer exist.

        While a history is incomplete nothing is removed: the incident may still come.

        Args:
            rules: Write those of these rules only; of all if empty.
            min_usd: Write those of incidents that wasted at least so much only.

        Raises:
            AuthenticationFailed: The key was refused.
            SourceUnavailable: The place kept failing. What was sent is recorded.
        """
        record = Record(self.ledger)
        known = record.annotations(*self._where)
        if self.history.done:
            self._take_away(record, self._stale(known), known)
        missing = self._missing(plan(self.ledger, self.history, rules=rules, min_usd=min_usd), known)
        while batch := list(islice(missing, self.place.batch if self.place is not None else DRY_RUN_BATCH)):
            self._send(record, batch)
            self._tell(len(batch))
        return self.outcome

    def remove(self, *, rules: Collection[str] = ()) -> Outcome:
        """Removes all annotations that were written, or those of some rules. Raises as `write` does."""
        record = Record(self.ledger)
        known = record.annotations(*self._where)
        chosen = [i for i, w in known.items() if not rules or w.rule in rules]
        self._take_away(record, chosen, known, self.on_progress)
        return self.outcome

    @property
    def _where(self) -> tuple[str, str]:
        source = self.history.source
        to = f" to {self.service}" if self.service not in (None, source) else ""
        return f"{source}{to}", self.history.scope

    def _stale(self, known: dict[str, Written]) -> list[str]:
        stale = dict.fromkeys(known)
        if stale:
            for incident in self.ledger.incidents(self.history):
                for id_ in annotation_ids(self.history, incident):
                    stale.pop(id_, None)
        return list(stale)

    def _missing(self, planned: Iterator[Annotation], known: dict[str, Written]) -> Iterator[Annotation]:
        for annotation in planned:
            there = known.get(annotation.id)
            if there is None:
                yield annotation
            elif there.content != annotation.content or not there.confirmed:
                yield replace(annotation, again=True)
            else:
                self.outcome.unchanged += 1
                self._tell(1)

    def _send(self, record: Record, batch: Sequence[Annotation]) -> None:
        failed = {}
        if self.place is not None:
            intended = {a.id: Written(a.rule, a.run_id, a.content) for a in batch}
            record.intend(*self._where, intended)
            failed = dict(self.place.write(batch))
            record.arrived(*self._where, {i: w for i, w in intended.items() if i not in failed})
            record.forget(*self._where, (a.id for a in batch if a.id in failed and (failed[a.id].gone or not a.again)))
        for annotation in batch:
            if annotation.id in failed:
                self.outcome.not_written.append((annotation.run_id, failed[annotation.id]))
            elif annotation.again:
                self.outcome.updated += 1
            else:
                self.outcome.written += 1

    def _take_away(
        self,
        record: Record,
        ids: list[str],
        known: dict[str, Written],
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        size = self.place.batch if self.place is not None else max(1, len(ids))
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            failed = {}
            if self.place is not None:
                # killed in the middle, what is gone must not be taken for written by the next run
                record.confirm(*self._where, batch, there=False)
                failed = dict(self.place.remove(batch))
                record.taken_back(*self._where, (i for i in batch if i not in failed))
                record.confirm(*self._where, (i for i in failed if known[i].confirmed))
            self.outcome.removed += len(batch) - len(failed)
            self.outcome.not_written += [(known[i].run, why) for i, why in failed.items()]
            if on_progress is not None:
                on_progress(len(batch))

    def _tell(self, done: int) -> None:
        if self.on_progress is not None:
            self.on_progress(done)
