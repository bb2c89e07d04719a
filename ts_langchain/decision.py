"""What a policy decides about an incident, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ts_langchain.policy import SUSTAINED
from ts_langchain.rules.base import SEVERITIES

if TYPE_CHECKING:
    from ts_langchain.call import Call
    from ts_langchain.incident import Incident
    from ts_langchain.policy import Action, Policy
    from ts_langchain.rules.base import Finding

Outcome = Literal["due", "dry run", "done", "skipped", "failed"]

VETOED = "a handler held the call back"


@dataclass(slots=True)
class Decision:
    """What a policy decided to do about an incident or a budget.

    Attributes:
        at: Event time of the decision, seconds since the epoch.
        session_id: The conversation.
        root_id: The outermost run it was decided in.
        rule: The incident's rule, or `budget`, or `kill_switch`.
        incident_id: The incident; the budget's name for a budget.
        key: The incident's key.
        action: What to do.
        strike: How many strikes the incident had by then.
        summary: What happened, in one sentence.
        suggestion: What to do about it.
        outcome: `due` until it is carried out; `dry run` where the policy only observes; `done` once, or for a
            sustained action at least once; `skipped` where it could not be done here, `why` says why; `failed` where it
            raised, and the app went on without it.
        why: Why it was skipped or failed, or how it was done.
        tool: The tool it is about, None if it is about none.
        classifying: The request it was decided at was worded as a classification; a `downgrade` then holds for
            such requests only, in all runs of the session.
        among_agents: It is about several agents of the run: a `stop` is for all of them.
    """

    at: float
    session_id: str
    root_id: str
    rule: str
    incident_id: str
    key: int
    action: Action
    strike: int
    summary: str
    suggestion: str = ""
    outcome: Outcome = "due"
    why: str = ""
    tool: str | None = None
    classifying: bool = False
    among_agents: bool = False

    @property
    def lasting(self) -> bool:
        """True once it is done, if it holds for its run until the incident is silent.

        An exception may have been caught by retries around the call, and where one of several agents has stopped, the
        others go on.
        """
        stops_all = self.action == "stop" and self.among_agents
        return self.outcome == "done" and (stops_all or self.action == "block" or self.why == VETOED)


class Standing:
    """How far the escalation on one incident has come. Part of a session's state."""

    __slots__ = ("decision", "strikes")

    def __init__(self) -> None:
        self.strikes = 0
        self.decision: Decision | None = None

    @property
    def due(self) -> Decision | None:
        """The decision in force: sustained ones until another takes their place, others until done."""
        decision = self.decision
        if decision is None or decision.outcome in ("dry run", "failed", "skipped"):
            return None
        if decision.outcome == "done" and decision.action not in SUSTAINED and not decision.lasting:
            return None
        return decision

    @property
    def tried(self) -> Decision | None:
        """The sustained decision that would be in force, were this no dry run."""
        decision = self.decision
        dry = decision is not None and decision.outcome == "dry run" and decision.action in SUSTAINED
        return decision if dry else None


def decide(
    policy: Policy, standing: Standing, incident: Incident, finding: Finding, call: Call, *, among_agents: bool = False
) -> Decision | None:
    """What the policy does about a finding. Depends on the finding, the call and the strikes so far alone."""
    rule = policy.of(incident.rule)
    if (
        SEVERITIES.index(finding.severity) < SEVERITIES.index(rule.min_severity)
        or finding.confidence < rule.min_confidence
        or rule.exempt.covers(call)
        or policy.exempt.covers(call)
    ):
        return None
    standing.strikes += 1
    before = standing.decision
    action = rule.action(standing.strikes)
    if action is None or (before is not None and call.ended_at - before.at < rule.cooldown_seconds):
        return None
    if before is not None and before.action == action:
        if action in SUSTAINED and before.root_id == call.root_id:
            return None  # it is in force already
        if action == "warn" and not rule.cooldown_seconds:
            return None  # it was told
    tool = finding.evidence.get("tool")
    standing.decision = Decision(
        at=call.ended_at,
        session_id=incident.session_id,
        root_id=call.root_id,
        rule=incident.rule,
        incident_id=incident.id,
        key=incident.key,
        action=action,
        strike=standing.strikes,
        summary=incident.summary,
        suggestion=incident.suggestion,
        outcome="dry run" if policy.mode == "observe" else "due",
        tool=tool if isinstance(tool, str) else None,
        classifying=call.prompt is not None and call.prompt.classification,
        among_agents=among_agents,
    )
    return standing.decision
