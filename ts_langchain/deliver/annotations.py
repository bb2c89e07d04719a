"""What is written beside a recorded run: one annotation for each call that an incident names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from uuid import UUID, uuid5

from ts_langchain.fingerprint import text_hash

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from ts_langchain.incident import Incident
    from ts_langchain.ledger import History, Ledger

NAMESPACE = UUID("b3f6a0c4-52a6-5a0e-9f7c-6f4f1d3a7e21")
PREFIX = "token_waste."
MICRO = 1_000
"""Nano-dollars in a millionth of a dollar: the smallest part a score tells apart, 0.0001 US cents."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """A note on one recorded run: this call was waste.

    Attributes:
        id: A UUID made from place, incident and call: the same however often it is written.
        run_id: The run it belongs to.
        trace_id: The outermost run; None where the ledger does not know.
        started_at: When the run began, seconds since the epoch; None where the ledger does not know.
        key: `token_waste.` and the rule.
        cents: The call's even part of what the incident wasted, in US cents with four decimals. Over all
            annotations of an incident it adds up to the incident's waste.
        comment: What happened and what to do, without content.
        rule: The rule.
        incident_id: The incident.
        again: True if it may be there already.
    """

    id: str
    run_id: str
    trace_id: str | None
    started_at: float | None
    key: str
    cents: float
    comment: str
    rule: str
    incident_id: str
    again: bool = False

    @property
    def content(self) -> str:
        """Fingerprint of what may change: score and comment."""
        return f"{text_hash(f'{self.cents} {self.comment}'):016x}"


@dataclass(frozen=True, slots=True)
class NotWritten:
    """Why an annotation could not be written.

    Attributes:
        why: For people.
        gone: True if the run is no longer there.
    """

    why: str
    gone: bool = False


class Annotator(Protocol):
    """A place that takes annotations, found by the entry-point group `ts_langchain.deliveries`.

    Attributes:
        batch: How many annotations it wants at a time.
    """

    batch: int

    def write(self, annotations: Sequence[Annotation]) -> Mapping[str, NotWritten]:
        """Writes them; what is there already is brought up to date.

        Returns:
            Those that could not be written, by id.

        Raises:
            AuthenticationFailed: The key was refused.
            SourceUnavailable: The place kept failing; any of them may have been written.
        """
        ...

    def remove(self, ids: Sequence[str]) -> Mapping[str, NotWritten]:
        """Removes them. One that is not there counts as removed. Returns and raises as `write` does."""
        ...


def annotation_id(history: History, incident: Incident, call_id: str) -> str:
    """The annotation's id, the same on every machine and for every ledger."""
    return str(uuid5(NAMESPACE, f"{history.source}\n{history.scope}\n{incident.id}\n{call_id}"))


def annotation_ids(history: History, incident: Incident) -> list[str]:
    """The ids of all annotations of an incident."""
    return [annotation_id(history, incident, call_id) for call_id in dict.fromkeys(incident.call_ids)]


def run_of(call_id: str) -> str:
    """The recorded run behind a call.

    A tool that nobody saw run is known by the model's request for it, `model-run/tool-call`: its run is the model's.
    """
    return call_id.partition("/")[0]


def plan(
    ledger: Ledger, history: History, *, rules: Collection[str] = (), min_usd: float = 0.0
) -> Iterator[Annotation]:
    """All annotations of a history, the costliest incidents first.

    Args:
        ledger: The ledger.
        history: The history.
        rules: Only incidents of these rules; of all if empty.
        min_usd: Only incidents that wasted at least so much.
    """

    def wanted() -> Iterator[Incident]:
        for incident in ledger.incidents(history):
            if (not rules or incident.rule in rules) and incident.wasted_usd >= min_usd:
                yield incident

    named = {run_of(call_id) for incident in wanted() for call_id in incident.call_ids}
    where = {
        call.id: (call.trace_id or call.root_id, call.started_at) for call in ledger.calls(history) if call.id in named
    }
    for incident in wanted():
        call_ids = list(dict.fromkeys(incident.call_ids))
        comment = _comment(incident, len(call_ids))
        micros = max(0, incident.wasted_nano) // MICRO
        for number, call_id in enumerate(call_ids):
            part = micros // len(call_ids) + (number < micros % len(call_ids))
            trace_id, started_at = where.get(run_of(call_id), (None, None))
            yield Annotation(
                id=annotation_id(history, incident, call_id),
                run_id=run_of(call_id),
                trace_id=trace_id,
                started_at=started_at,
                key=PREFIX + incident.rule,
                cents=round(part / 10_000, 4),
                comment=comment,
                rule=incident.rule,
                incident_id=incident.id,
            )


def _comment(incident: Incident, named: int) -> str:
    tokens = f"{incident.wasted_tokens:,} tokens"
    cost = f"${incident.wasted_usd:,.6f}"
    if incident.unpriced_calls:
        cost += f" (the cost of {incident.unpriced_calls:,} calls is unknown)"
    whole = f"Incident {incident.id}: {incident.calls:,} calls, {tokens}, {cost} wasted"
    if incident.estimated:
        whole += ", in part estimated"
    if named < incident.calls:
        whole += f"; the first {named} of its calls are annotated"
    return (
        f"{incident.summary}\nWhat to do: {incident.suggestion}\n{whole}. The score is an even part of it in US cents."
    )
