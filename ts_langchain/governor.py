"""`Governor`: what a policy, its budgets and its kill switches say of the next call, and what came of it."""

from __future__ import annotations

import copy
import logging
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ts_langchain.budget import Budgets, Reservation, overdrawn
from ts_langchain.budget_redis import RedisStore
from ts_langchain.control import Control
from ts_langchain.decision import VETOED, Decision, Standing, decide
from ts_langchain.health import announce
from ts_langchain.listeners import Listeners
from ts_langchain.policy import ENDING, SESSION_WIDE
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ts_langchain.budget import Request
    from ts_langchain.call import Call
    from ts_langchain.decision import Outcome
    from ts_langchain.health import Faults
    from ts_langchain.incident import Incident
    from ts_langchain.policy import Action, Budget, Policy
    from ts_langchain.pricing import Prices
    from ts_langchain.rules.base import Finding, Rule
    from ts_langchain.session import Session, SessionState

MAX_DECISIONS = 10_000


class Admission(NamedTuple):
    """Whether a model request may be sent.

    Attributes:
        reservation: What it is let through with, to be settled; None where no budget applies.
        refused: The decision that stands against it; None if it may go. With `downgrade`, it may go to a cheaper model:
            as it is reserved for, or, without a reservation, if that fits.
    """

    reservation: Reservation | None
    refused: Decision | None


ADMITTED = Admission(None, None)


@cache
def _warn(what: str) -> None:
    """Says once what a policy cannot do."""
    announce("policy", what, "", logging.WARNING)


class Governor:
    """Decides by a policy. Without one it decides nothing. Thread-safe.

    Args:
        policy: What to do about incidents, budgets, kill switches.
        prices: What calls cost.
        faults: Where what goes wrong is counted.

    Attributes:
        policy: The policy.
        budgets: Its budgets; None where it has none.
        control: Its kill switches and the remote policy; None where it has none.
        listeners: Who is told of decisions.
        questions: What humans were asked.
    """

    def __init__(self, policy: Policy | None, prices: Prices, faults: Faults) -> None:
        self.policy = policy
        self._prices = prices
        self.budgets: Budgets | None = None
        self.control: Control | None = None
        self.listeners: Listeners[Decision] = Listeners("on_decision callback", faults)
        # asked by a process that is gone, by task of LangGraph, until a door takes one over; None where there is none
        self.questions: Recent[str, Mapping[str, Any] | None] = Recent()
        self._decisions: deque[Decision] = deque(maxlen=MAX_DECISIONS)
        if policy is None:
            return
        for what in policy.inert():
            _warn(what)
        switch = policy.kill_switch
        if switch.file is not None or switch.redis_key is not None or policy.remote is not None:
            self.control = Control(policy, faults)
        if policy.budgets or policy.remote is not None:
            store = RedisStore(policy.redis_url) if policy.redis_url is not None else None
            self.budgets = Budgets(policy, prices, faults, store, self._budget_warning)
            control = self.control
            if control is not None:
                self.budgets.remote = lambda: control.budgets

    @property
    def admits(self) -> bool:
        """True if budgets or a kill switch have a say in each model call."""
        return self.budgets is not None or self.control is not None

    def decisions(self) -> list[Decision]:
        """The newest 10 000 decisions, in order of time. No copies."""
        return list(self._decisions)

    def close(self) -> None:
        """Ends background threads."""
        if self.control is not None:
            self.control.close()

    # --- incidents ---------------------------------------------------------------------------------

    def judge(
        self, rule: Rule[Any], finding: Finding, incident: Incident, call: Call, state: SessionState
    ) -> Decision | None:
        """What the policy does about a finding of this rule. The session's lock is held.

        Returns:
            A decision that is settled by being made (a warning, a dry run): to be told once no lock is held.
        """
        if self.policy is None:
            return None
        key = (incident.rule, incident.key)
        standing = state.standing.get(key)
        if standing is None:
            standing = state.standing[key] = Standing()
        decision = decide(self.policy, standing, incident, finding, call, among_agents=rule.among_agents)
        if decision is None:
            return None
        if incident.acted_at is None and decision.action != "warn":
            incident.acted_at = decision.at
        self._record(decision)
        return decision if decision.outcome != "due" else None

    def due(
        self, session: Session, root_id: str, at: float, *, resuming: bool = False, dry: bool = False
    ) -> list[Decision]:
        """Decisions in force for the next call of a run. See `Sentinel.due`."""
        return [
            d
            for d in _in_force(session, at, dry=dry)
            if d.root_id == root_id
            or d.action in SESSION_WIDE
            or (d.action == "downgrade" and d.classifying)
            or (d.action == "pause" and resuming)
        ]

    def veto(self, session: Session, root_id: str, request: int, at: float) -> Incident | None:
        """The incident because of which a handler in mode `block` holds this request back.

        It does so by the policy's `stop`, `pause` and `block`.
        """
        for decision in _in_force(session, at):
            if decision.action not in ENDING:
                continue
            with session.lock:
                incident = copy.copy(session.state.incidents.get((decision.rule, decision.key)))
            if incident is not None and (decision.root_id == root_id or incident.is_storm_of(request, at)):
                self.settle(decision, "done", "" if decision.action == "block" else VETOED)
                return incident
        return None

    # --- budgets and kill switches -----------------------------------------------------------------

    def admit(self, request: Request, *, force: bool = False, cheapest: bool = False) -> Admission:
        """Asks kill switch and budgets whether a model request may be sent.

        Args:
            request: The request.
            force: Let it through whatever they say, and count it.
            cheapest: No cheaper model will be tried.
        """
        halted = self.control.halted() if self.control is not None else None
        if halted is not None:
            decision = self._refuse(request, "kill_switch", "kill_switch", "block", halted, "Remove it to go on.")
            if decision.outcome == "due" and not force:
                return Admission(None, decision)
            if decision.outcome == "due":
                self.settle(decision, "skipped", "this door only watches")
        return self._within(self.budgets, request, force, cheapest) if self.budgets is not None else ADMITTED

    def _within(self, budgets: Budgets, request: Request, force: bool, cheapest: bool) -> Admission:
        """Asks the budgets."""
        answer = budgets.reserve(request, force=force)
        if isinstance(answer, Reservation):
            return Admission(answer, None if force or cheapest else self._cheaper(request, answer.exhausted))
        budget, summary, cheaper = answer
        if cheaper is not None and not cheapest:
            decision = self._overdrawn(request, cheaper)
            if decision.outcome == "due":
                return Admission(None, decision)
            name = self.policy.cheaper(request.model or "") if self.policy is not None else None
            dry = request._replace(model=name, provider=None) if name is not None else request
            return self._within(budgets, dry, force=False, cheapest=True)
        if budget is not None:
            decision = self._overdrawn(request, budget)
        else:
            decision = self._refuse(request, "budget", "store", "block", summary, "See that it can be reached again.")
        if decision.outcome == "due":
            return Admission(None, decision)
        forced = budgets.reserve(request, force=True)
        return Admission(forced if isinstance(forced, Reservation) else None, None)

    def _cheaper(self, request: Request, exhausted: Sequence[Budget]) -> Decision | None:
        """The decision to take a cheaper model, where a budget that asks for it is exhausted."""
        budget = next((b for b in exhausted if b.do == "downgrade"), None)
        decision = self._overdrawn(request, budget) if budget is not None else None
        return decision if decision is not None and decision.outcome == "due" else None

    def _overdrawn(self, request: Request, budget: Budget) -> Decision:
        return self._refuse(request, "budget", budget.label, budget.do, overdrawn(budget), "Raise the budget to go on.")

    def _budget_warning(self, budget: Budget, request: Request, *, exhausted: bool) -> None:
        share = "All" if exhausted else f"At least {budget.warn_at:.0%}"
        summary = f"{share} of the budget of {budget.label} is spent or reserved."
        self._refuse(request, "budget", budget.label, "warn", summary, "")

    def _refuse(self, request: Request, rule: str, name: str, action: Action, summary: str, hint: str) -> Decision:
        observing = self.policy is not None and self.policy.mode == "observe"
        decision = Decision(
            request.at, request.session_id, request.root_id, rule, name, 0, action, 1, summary, hint,
            "dry run" if observing else "due",
        )  # fmt: skip
        self._record(decision)
        if decision.outcome != "due":
            self.tell(decision)
        return decision

    def book(self, reservation: Reservation, call: Call | None) -> None:
        """Replaces what was reserved by what the call used; None where it was not made."""
        if self.budgets is not None:
            self.budgets.settle(reservation, call, self._prices.cost(call) if call is not None else None)

    def take_over(self, decision: Decision) -> None:
        """Keeps a decision that another process has made, and that is to be carried out here."""
        self._record(decision)

    # --- what came of it ---------------------------------------------------------------------------

    def settle(self, decision: Decision, outcome: Outcome, why: str = "") -> None:
        """Says what came of a decision."""
        first = decision.outcome != outcome
        decision.outcome, decision.why = outcome, why
        if first:
            self.tell(decision)

    def tell(self, decision: Decision) -> None:
        """Tells users of a settled decision. No lock may be held."""
        if decision.action == "warn" and decision.outcome == "done":
            announce(decision.rule, decision.summary, decision.suggestion, logging.WARNING)
        self.listeners.tell(decision)

    def _record(self, decision: Decision) -> None:
        """Keeps a decision. A warning is settled by that; telling it is left to the caller."""
        if decision.action == "warn" and decision.outcome == "due":
            decision.outcome = "done"
        self._decisions.append(decision)


def _in_force(session: Session, at: float, *, dry: bool = False) -> list[Decision]:
    """Decisions in force for some of a session's calls; `dry`, those that would be, were this no dry run."""
    found = []
    with session.lock:
        for key, standing in session.state.standing.items():
            due = standing.tried if dry else standing.due
            incident = session.state.incidents.get(key)
            if due is not None and not (due.lasting and (incident is None or not incident.is_hot(at))):
                found.append(due)
    return found
