"""Incidents, and the accounting of waste: every token once.

A *claim* says that tokens of one billed call were wasted. `Bill` settles all claims on one call: where two
rules claim the same tokens, the more specific rule gets them and the other one learns that it overlaps. The
outcome depends only on the set of claims, not on their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ts_langchain.fingerprint import mix, name_hash
from ts_langchain.rules.base import ABOUT, SEVERITIES, Claim, Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Collection

    from ts_langchain.call import Call
    from ts_langchain.pricing import Cost

MAX_CALLS_LISTED = 16
RETRY_AFTER = 30.0
NONE_READ = (0, 0)


@dataclass(slots=True)
class Incident:
    """One thing that goes wrong in a session: opened by the first finding, extended by the next ones.

    Attributes:
        id: The same for the same run, live or replayed.
        rule: The rule that found it.
        session_id: The conversation.
        key: What it is about, within rule and session.
        opened_at: Event time of the first finding, seconds since the epoch.
        last_seen_at: Event time of the last finding.
        closed: True once another begins after 15 minutes of silence, or needs its room, or the history has ended.
        severity: Highest severity of its findings.
        confidence: Highest confidence of its findings.
        summary: What happened, in one sentence, as of the last finding.
        suggestion: What to do about it.
        findings: Number of findings.
        calls: Number of calls that were waste.
        call_ids: Ids of the first 16 of them.
        wasted_input_tokens: Input tokens that brought nothing, each counted for one incident only.
        wasted_output_tokens: Output tokens that brought nothing.
        wasted_nano: What they cost, in nano-dollars, as far as prices are known.
        avoidable_nano: The part of `wasted_nano` spent on calls begun after the first finding: what acting
            on it would have saved.
        avoidable_tokens: The same in tokens.
        wasted_seconds: Time the calls took.
        unpriced_calls: Wasted calls whose cost is unknown.
        estimated: True if some of the usage was estimated.
        overlaps: Rules that claimed some of the same tokens and were given them.
        evidence: Hashes, lengths, counts and names of the last finding; of what a threshold was compared with the
            greatest, and None where findings are about several tools or models.
        root_id: The outermost run of the last finding that is as severe as the incident.
        request: If set, the request that is to be vetoed.
        turn: The turn of that last finding, 0 if unknown.
        severe_at: Event time of that last finding.
        acted_at: Event time of the first decision of a policy to do more about it than to warn, None without one.
        after_nano: The part of `wasted_nano` spent on calls begun after that decision: what it would have saved.
        after_tokens: The same in tokens.
    """

    id: str
    rule: str
    session_id: str
    key: int
    opened_at: float
    last_seen_at: float
    suggestion: str = ""
    closed: bool = False
    severity: Severity = "low"
    confidence: float = 0.0
    summary: str = ""
    findings: int = 0
    calls: int = 0
    call_ids: tuple[str, ...] = ()
    wasted_input_tokens: int = 0
    wasted_output_tokens: int = 0
    wasted_nano: int = 0
    avoidable_nano: int = 0
    avoidable_tokens: int = 0
    wasted_seconds: float = 0.0
    unpriced_calls: int = 0
    estimated: bool = False
    overlaps: tuple[str, ...] = ()
    evidence: dict[str, int | float | str | bool | None] = field(default_factory=dict)
    root_id: str = ""
    request: int | None = None
    turn: int = 0
    severe_at: float = 0.0
    acted_at: float | None = None
    after_nano: int = 0
    after_tokens: int = 0

    @property
    def wasted_tokens(self) -> int:
        """Wasted input and output tokens together."""
        return self.wasted_input_tokens + self.wasted_output_tokens

    @property
    def wasted_usd(self) -> float:
        """`wasted_nano` in USD."""
        return self.wasted_nano / 1e9

    @property
    def avoidable_usd(self) -> float:
        """`avoidable_nano` in USD."""
        return self.avoidable_nano / 1e9

    def as_dict(self) -> dict[str, object]:
        """For JSON: what it is, what it cost (USD, tokens, seconds) and the evidence. Names and numbers, no content."""
        return {
            "id": self.id,
            "rule": self.rule,
            "session_id": self.session_id,
            "severity": self.severity,
            "confidence": self.confidence,
            "summary": self.summary,
            "suggestion": self.suggestion,
            "opened_at": self.opened_at,
            "last_seen_at": self.last_seen_at,
            "findings": self.findings,
            "calls": self.calls,
            "wasted_tokens": self.wasted_tokens,
            "wasted_usd": self.wasted_usd,
            "avoidable_tokens": self.avoidable_tokens,
            "avoidable_usd": self.avoidable_usd,
            "wasted_seconds": self.wasted_seconds,
            "unpriced_calls": self.unpriced_calls,
            "estimated": self.estimated,
            "call_ids": list(self.call_ids),
            "overlaps": list(self.overlaps),
            "evidence": dict(self.evidence),
        }

    def is_hot(self, at: float) -> bool:
        """True if its last severe finding is 30 s old at most. After that it may be tried whether things are better."""
        return at - self.severe_at <= RETRY_AFTER

    def is_storm_of(self, request: int, at: float) -> bool:
        """True if it is about this very request, and hot."""
        return self.request is not None and self.request == request and self.is_hot(at)

    def extend(self, finding: Finding, call: Call, measured: Collection[str] = ()) -> bool:
        """Takes a finding in; of what is `measured`, by its key in the evidence, the greatest value stays.

        Returns:
            True if the severity rose.
        """
        rose = SEVERITIES.index(finding.severity) > SEVERITIES.index(self.severity) or not self.findings
        if rose:
            self.severity = finding.severity
        self.confidence = max(self.confidence, finding.confidence)
        self.last_seen_at = max(self.last_seen_at, call.ended_at)
        if finding.severity != "low" or self.severity == "low":  # once it was worse, that is what is told
            self.summary = finding.summary
        before, self.evidence = self.evidence, dict(finding.evidence)
        if self.findings:
            for key in measured:
                was, now = before.get(key), self.evidence.get(key)
                if isinstance(was, (int, float)) and isinstance(now, (int, float)):
                    self.evidence[key] = max(was, now)
            for key in ABOUT if finding.key == self.key else ():  # another's is taken in for lack of room
                if key in self.evidence and before.get(key) != self.evidence[key]:
                    self.evidence[key] = None
        self.findings += 1
        self.calls += len(finding.calls)
        if len(self.call_ids) < MAX_CALLS_LISTED:
            self.call_ids = (*self.call_ids, *finding.calls)[:MAX_CALLS_LISTED]
        self.wasted_seconds += finding.seconds
        if finding.severity == self.severity:
            self.root_id, self.turn, self.severe_at = call.root_id, call.turn, call.ended_at
        self.request = finding.request
        return rose


def open_incident(rule: str, suggestion: str, finding: Finding, call: Call) -> Incident:
    """A new incident, its id made from what does not change between a run and its replay."""
    number = mix(name_hash(rule), name_hash(call.session_id), finding.key, name_hash(call.id))
    return Incident(
        id=f"{rule}-{number & 0xFFFFFFFFFFFFFFFF:016x}",
        rule=rule,
        session_id=call.session_id,
        key=finding.key,
        opened_at=call.ended_at,
        last_seen_at=call.ended_at,
        suggestion=suggestion,
    )


@dataclass(slots=True)
class _Settled:
    """A claim on a bill, with what it was awarded so far."""

    specificity: int
    claim: Claim
    incident: Incident
    avoidable: bool
    input_tokens: int = 0
    output_tokens: int = 0
    nano: int = 0

    @property
    def order(self) -> tuple[int, str, str, str, int]:
        """Whose claim comes first."""
        return -self.specificity, self.incident.rule, self.claim.part, self.claim.unit, self.incident.key


@dataclass(slots=True)
class _Pool:
    """Tokens of one price that nobody has claimed yet, and what they cost together."""

    tokens: int
    nano: int

    def take(self, tokens: int) -> int:
        """Hands out so many of them. What they cost."""
        if not tokens:
            return 0
        nano = self.nano * tokens // self.tokens
        self.tokens -= tokens
        self.nano -= nano
        return nano


class Bill:
    """What one call was billed, and who claims which part of it to be waste."""

    __slots__ = (
        "claims",
        "estimated",
        "input_nano",
        "input_tokens",
        "output_nano",
        "output_tokens",
        "priced",
        "read",
        "started_at",
    )

    def __init__(self, call: Call, cost: Cost | None, cached_nano: int = 0) -> None:
        self.started_at = call.started_at
        self.input_tokens = call.usage.input_tokens
        self.output_tokens = call.usage.output_tokens
        self.estimated = call.usage.estimated
        self.priced = cost is not None
        self.input_nano = cost.input_nano if cost else 0
        self.output_nano = cost.output_nano if cost else 0
        read = min(call.usage.cache_read_tokens, self.input_tokens)
        # what was read from the cache, and what that cost
        self.read = (read, min(cached_nano, self.input_nano)) if read else NONE_READ
        self.claims: tuple[_Settled, ...] = ()

    def claim(self, claim: Claim, incident: Incident, specificity: int) -> None:
        """Adds a claim and settles anew."""
        settled = _Settled(specificity, claim, incident, self.started_at >= incident.opened_at)
        if any(c.order == settled.order and c.incident.id == incident.id for c in self.claims):
            return
        self.claims = tuple(sorted((*self.claims, settled), key=lambda c: c.order))
        incident.unpriced_calls += not self.priced
        incident.estimated |= self.estimated
        self._settle()

    def _settle(self) -> None:
        left_in, left_out = self.input_tokens, self.output_tokens
        read = _Pool(*self.read)
        sent = _Pool(left_in - read.tokens, self.input_nano - read.nano)
        given: dict[str, int] = {}
        turns: dict[str, str] = {}
        for c in self.claims:
            if c.claim.part == "turn":
                turns.setdefault(c.claim.unit, c.incident.id)
        units = max((c.claim.units for c in self.claims if c.claim.part == "turn"), default=1)
        winners: list[str] = []
        for c in self.claims:
            claim = c.claim
            if claim.part == "turn":
                want_in, want_out = self._turn_share(claim, turns, units, c.incident.id)
            else:
                want_in = self.input_tokens if claim.input_tokens is None else claim.input_tokens
                want_out = self.output_tokens if claim.output_tokens is None else claim.output_tokens
            if claim.part in ("tools", "context", "fresh"):
                want_in = max(0, want_in - given.get(claim.part, 0))
            take_in, take_out = min(want_in, left_in), min(want_out, left_out)
            if (
                take_in < want_in
                or take_out < want_out
                or (claim.part == "turn" and turns[claim.unit] != c.incident.id)
            ):
                others = {r for r in winners if r != c.incident.rule}
                c.incident.overlaps = tuple(sorted({*c.incident.overlaps, *others}))
            left_in -= take_in
            left_out -= take_out
            given[claim.part] = given.get(claim.part, 0) + take_in
            if take_in or take_out:
                winners.append(c.incident.rule)
            # what is carried along, and the tools in front of it, are what a cache holds first, and what is new last
            if claim.part == "fresh":
                cached = max(0, take_in - sent.tokens)
            elif claim.part in ("tools", "context"):
                cached = min(take_in, read.tokens)
            else:
                cached = read.tokens * take_in // (read.tokens + sent.tokens) if take_in else 0
            nano = read.take(cached) + sent.take(take_in - cached)
            if take_out:
                nano += self.output_nano * take_out // self.output_tokens
            self._award(c, take_in, take_out, nano)

    def _turn_share(self, claim: Claim, turns: dict[str, str], units: int, incident_id: str) -> tuple[int, int]:
        """One tool call's share of its turn: the input only once all of the turn's calls are waste."""
        if turns[claim.unit] != incident_id:
            return 0, 0
        last = claim.unit == max(turns)
        out = self.output_tokens // units
        if len(turns) < units:
            return 0, out
        n = len(turns)
        share_in, share_out = self.input_tokens // n, self.output_tokens // n
        if last:  # the remainder of the division goes to one of them
            share_in = self.input_tokens - share_in * (n - 1)
            share_out = self.output_tokens - share_out * (n - 1)
        return share_in, share_out

    def _award(self, c: _Settled, take_in: int, take_out: int, nano: int) -> None:
        """Brings the incident's figures in line with what the claim is awarded now."""
        if c.claim.rate < 1:  # the tokens were needed, at a lower price
            nano = int(nano * c.claim.rate)
            take_in = take_out = 0
        if (take_in, take_out, nano) == (c.input_tokens, c.output_tokens, c.nano):
            return
        incident = c.incident
        delta_in, delta_out, delta = take_in - c.input_tokens, take_out - c.output_tokens, nano - c.nano
        incident.wasted_input_tokens += delta_in
        incident.wasted_output_tokens += delta_out
        incident.wasted_nano += delta
        if c.avoidable:
            incident.avoidable_tokens += delta_in + delta_out
            incident.avoidable_nano += delta
        if incident.acted_at is not None and self.started_at >= incident.acted_at:
            incident.after_tokens += delta_in + delta_out
            incident.after_nano += delta
        c.input_tokens, c.output_tokens, c.nano = take_in, take_out, nano
