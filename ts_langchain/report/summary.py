"""The figures of a report, from the ledger."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ts_langchain.ledger import iso_day

if TYPE_CHECKING:
    from ts_langchain.ledger import History, Ledger

WORST_SESSIONS = 10


@dataclass(slots=True)
class RuleFigures:
    """Waste found by one rule, each token counted for one rule only.

    Attributes:
        rule: Its name.
        incidents: Number of incidents.
        sessions: Number of sessions with one.
        calls: Wasted calls.
        wasted_tokens: Tokens that brought nothing.
        wasted_nano: Their cost, in nano-dollars.
        avoidable_nano: The part after each incident was first detected.
        seconds: Time the wasted calls took.
        unpriced_calls: Wasted calls without a known price.
    """

    rule: str
    incidents: int = 0
    sessions: int = 0
    calls: int = 0
    wasted_tokens: int = 0
    wasted_nano: int = 0
    avoidable_nano: int = 0
    seconds: float = 0.0
    unpriced_calls: int = 0


@dataclass(slots=True)
class SessionFigures:
    """Waste of one session, with the number of calls, and of wasted ones, whose cost is unknown."""

    session_id: str
    calls: int
    nano: int
    wasted_nano: int
    wasted_tokens: int
    rules: list[str]
    unpriced_calls: int = 0
    unpriced_wasted: int = 0


@dataclass(slots=True)
class ModelFigures:
    """Spend on one model. `model` is empty for tools and retrievers."""

    model: str
    provider: str
    calls: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    nano: int = 0
    unpriced_calls: int = 0
    unpriced_tokens: int = 0


@dataclass(slots=True)
class Summary:
    """A report's figures. Money is in nano-dollars.

    Attributes:
        history: What was imported.
        first_day: First day with a call, ISO; None without calls.
        last_day: Last day with a call.
        sessions: Number of sessions.
        calls: Number of calls.
        tokens: Input and output tokens.
        nano: Known spend.
        source_nano: The part of it that the source itself reported.
        estimated_calls: Calls whose usage was estimated from text lengths.
        failed_calls: Calls that failed.
        uncounted_calls: Calls of models of which neither tokens nor content are told: what they cost is in no figure.
        models: Spend by model, the dearest first.
        rules: Waste by rule, the costliest first.
        worst: Sessions with most waste.
        incidents: Number of incidents.
        skipped: Reasons for rows that could not be read, with their number.
    """

    history: History
    first_day: str | None = None
    last_day: str | None = None
    sessions: int = 0
    calls: int = 0
    tokens: int = 0
    nano: int = 0
    source_nano: int = 0
    estimated_calls: int = 0
    failed_calls: int = 0
    uncounted_calls: int = 0
    models: list[ModelFigures] = field(default_factory=list)
    rules: list[RuleFigures] = field(default_factory=list)
    worst: list[SessionFigures] = field(default_factory=list)
    incidents: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def wasted_nano(self) -> int:
        """Waste of all rules."""
        return sum(r.wasted_nano for r in self.rules)

    @property
    def wasted_tokens(self) -> int:
        """Wasted tokens of all rules."""
        return sum(r.wasted_tokens for r in self.rules)

    @property
    def avoidable_nano(self) -> int:
        """Avoidable waste of all rules."""
        return sum(r.avoidable_nano for r in self.rules)

    @property
    def unpriced_calls(self) -> int:
        """Calls with tokens and no known price."""
        return sum(m.unpriced_calls for m in self.models)

    @property
    def unpriced_tokens(self) -> int:
        """Their tokens."""
        return sum(m.unpriced_tokens for m in self.models)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: money in USD, rounded to whole nano-dollars."""
        return {
            "source": self.history.source,
            "scope": self.history.scope,
            "complete": self.history.done,
            "first_day": self.first_day,
            "last_day": self.last_day,
            "rows": {
                "replayed": self.history.runs,
                "no_calls": self.history.ignored,
                "skipped": self.history.skipped,
                "out_of_order": self.history.late,
                "skipped_reasons": self.skipped,
            },
            "sessions": self.sessions,
            "calls": self.calls,
            "tokens": self.tokens,
            "spend_usd": self.nano / 1e9,
            "spend_reported_by_source_usd": self.source_nano / 1e9,
            "wasted_usd": self.wasted_nano / 1e9,
            "wasted_tokens": self.wasted_tokens,
            "avoidable_usd": self.avoidable_nano / 1e9,
            "unpriced_calls": self.unpriced_calls,
            "unpriced_tokens": self.unpriced_tokens,
            "estimated_calls": self.estimated_calls,
            "failed_calls": self.failed_calls,
            "uncounted_calls": self.uncounted_calls,
            "incidents": self.incidents,
            "models": [
                {
                    "model": m.model,
                    "provider": m.provider,
                    "calls": m.calls,
                    "input_tokens": m.input_tokens,
                    "cache_read_tokens": m.cache_read_tokens,
                    "output_tokens": m.output_tokens,
                    "spend_usd": m.nano / 1e9,
                    "unpriced_calls": m.unpriced_calls,
                }
                for m in self.models
            ],
            "rules": [
                {
                    "rule": r.rule,
                    "incidents": r.incidents,
                    "sessions": r.sessions,
                    "calls": r.calls,
                    "wasted_tokens": r.wasted_tokens,
                    "wasted_usd": r.wasted_nano / 1e9,
                    "avoidable_usd": r.avoidable_nano / 1e9,
                    "seconds": round(r.seconds, 3),
                    "unpriced_calls": r.unpriced_calls,
                }
                for r in self.rules
            ],
            "worst_sessions": [
                {
                    "session_id": s.session_id,
                    "calls": s.calls,
                    "spend_usd": s.nano / 1e9,
                    "wasted_usd": s.wasted_nano / 1e9,
                    "wasted_tokens": s.wasted_tokens,
                    "unpriced_calls": s.unpriced_calls,
                    "rules": s.rules,
                }
                for s in self.worst
            ],
        }


def summarise(ledger: Ledger, history: History) -> Summary:
    """Adds a history's figures up."""
    summary = Summary(history, sessions=ledger.session_count(history))
    models: dict[tuple[str, str], ModelFigures] = {}
    days = []
    for spend in ledger.spend(history):
        days.append(spend.day)
        summary.calls += spend.calls
        summary.tokens += spend.input_tokens + spend.output_tokens
        summary.nano += spend.nano
        summary.source_nano += spend.source_nano
        summary.estimated_calls += spend.estimated_calls
        summary.failed_calls += spend.failed_calls
        summary.uncounted_calls += spend.uncounted_calls
        key = (spend.model, spend.provider)
        figures = models.setdefault(key, ModelFigures(*key))
        figures.calls += spend.calls
        figures.input_tokens += spend.input_tokens
        figures.cache_read_tokens += spend.cache_read_tokens
        figures.output_tokens += spend.output_tokens
        figures.nano += spend.nano
        figures.unpriced_calls += spend.unpriced_calls
        figures.unpriced_tokens += spend.unpriced_tokens
    if days:
        summary.first_day, summary.last_day = iso_day(min(days)), iso_day(max(days))
    summary.models = sorted(models.values(), key=lambda m: (-m.nano, -m.input_tokens, m.model))
    _add_incidents(summary, ledger, history)
    summary.skipped = dict(ledger.skipped_reasons(history).most_common())
    return summary


@dataclass(slots=True)
class _Wasted:
    """What one session wasted: of the sessions of a large history no more than this is held."""

    nano: int = 0
    tokens: int = 0
    unpriced: int = 0
    rules: tuple[str, ...] = ()


def _add_incidents(summary: Summary, ledger: Ledger, history: History) -> None:
    rules: dict[str, RuleFigures] = {}
    sessions: dict[str, _Wasted] = {}
    for incident in ledger.incidents(history):
        summary.incidents += 1
        figures = rules.setdefault(incident.rule, RuleFigures(incident.rule))
        figures.incidents += 1
        figures.calls += incident.calls
        figures.wasted_tokens += incident.wasted_tokens
        figures.wasted_nano += incident.wasted_nano
        figures.avoidable_nano += incident.avoidable_nano
        figures.seconds += incident.wasted_seconds
        figures.unpriced_calls += incident.unpriced_calls
        session = sessions.setdefault(incident.session_id, _Wasted())
        session.nano += incident.wasted_nano
        session.tokens += incident.wasted_tokens
        session.unpriced += incident.unpriced_calls
        if incident.rule not in session.rules:
            session.rules += (figures.rule,)
            figures.sessions += 1
    summary.rules = sorted(rules.values(), key=lambda r: (-r.wasted_nano, -r.wasted_tokens, r.rule))
    worst = heapq.nsmallest(WORST_SESSIONS, sessions.items(), key=lambda s: (-s[1].nano, -s[1].tokens, s[0]))
    known = ledger.sessions(history, [session_id for session_id, _ in worst])
    for session_id, wasted in worst:
        row = known.get(session_id, {})
        summary.worst.append(
            SessionFigures(
                session_id,
                int(row.get("calls", 0)),
                int(row.get("nano", 0)),
                wasted.nano,
                wasted.tokens,
                sorted(wasted.rules),
                int(row.get("unpriced_calls", 0)),
                wasted.unpriced,
            )
        )
