"""What a policy would have done to the past: decisions, what they would have saved, whom they would have disturbed.

The calls of an imported history (the ledger keeps them without content) go through a `Sentinel` with the policy, as
they would have live. Only what comes after a decision counts as saved:

- `stop`, `block`, `pause`, and budgets end the run they are taken in: its later calls are saved, in full, and are taken
  out of what the rules see from then on. For `pause` that is the most it can save: a human may have let it go on.
- `downgrade` saves what the cheaper model that the policy names would have charged less for the calls it is in force
  for, the same tokens assumed. From then on the rules and the budgets see that model.
- For all other actions, it is the waste of the same incident in calls begun after its first decision: what would have
  been saved had the trimmed context been left out, or, for `steer`, `reuse` and `backoff`, had the model listened. The
  last is an assumption, and is told apart.

A run *succeeded* if its last model call answered without asking for another tool; with `success_tag`, if it bears
that tag. A decision that ends a run which succeeded later on is a false stop: what it would have saved is what that
success took, and is told apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ts_langchain.budget import Request
from ts_langchain.capture.parameters import estimated_input
from ts_langchain.policy import ENDING
from ts_langchain.sentinel import Sentinel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ts_langchain.call import Call
    from ts_langchain.decision import Decision
    from ts_langchain.incident import Incident
    from ts_langchain.policy import Policy

MAX_SESSIONS = 50_000
HOPED_FOR = frozenset({"steer", "reuse", "backoff"})
"""Actions that save only if the model, or what it asks for, does better than it did."""


@dataclass(slots=True)
class ActionFigures:
    """What one action of one rule would have done.

    Attributes:
        rule: The rule, or `budget`.
        action: The action.
        decisions: How often it would have been taken.
        sessions: In how many sessions.
        saved_calls: Calls that would not have been made (ending actions only).
        saved_tokens: Tokens that would not have been used.
        saved_nano: Their cost in nano-dollars, as far as prices are known.
        false_stops: Runs it would have ended that succeeded later on.
    """

    rule: str
    action: str
    decisions: int = 0
    sessions: int = 0
    saved_calls: int = 0
    saved_tokens: int = 0
    saved_nano: int = 0
    false_stops: int = 0


@dataclass(slots=True)
class Result:
    """What a policy would have done to a history.

    Attributes:
        actions: Figures by rule and action, the greatest saving first.
        decisions: All decisions, in order of time.
        false_stops: Session, run and decision of each false stop.
        calls: Calls of the history.
        sessions: Its sessions.
        runs: Its outermost runs.
        succeeded: Runs that succeeded.
        nano: What it cost, as far as prices are known.
        lost_nano: The part of `saved_nano` that false stops would have saved: what those successes took.
        unpriced_calls: Calls without a known price.
        estimated_calls: Calls whose usage is estimated.
        faults: What went wrong inside.
    """

    actions: list[ActionFigures] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    false_stops: list[Decision] = field(default_factory=list)
    calls: int = 0
    sessions: int = 0
    runs: int = 0
    succeeded: int = 0
    nano: int = 0
    lost_nano: int = 0
    unpriced_calls: int = 0
    estimated_calls: int = 0
    faults: Mapping[str, int] = field(default_factory=dict)

    @property
    def saved_nano(self) -> int:
        """Savings of all actions."""
        return sum(a.saved_nano for a in self.actions)

    @property
    def hoped_nano(self) -> int:
        """The part of `saved_nano` that is saved only if the model does better once it is told: `HOPED_FOR`."""
        return sum(a.saved_nano for a in self.actions if a.action in HOPED_FOR)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; money in USD."""
        return {
            "calls": self.calls,
            "sessions": self.sessions,
            "runs": self.runs,
            "succeeded_runs": self.succeeded,
            "spend_usd": self.nano / 1e9,
            "saved_usd": self.saved_nano / 1e9,
            "saved_if_heeded_usd": self.hoped_nano / 1e9,
            "saved_by_false_stops_usd": self.lost_nano / 1e9,
            "unpriced_calls": self.unpriced_calls,
            "estimated_calls": self.estimated_calls,
            "decisions": len(self.decisions),
            "false_stops": [
                {"session_id": d.session_id, "run": d.root_id, "rule": d.rule, "action": d.action, "at": d.at}
                for d in self.false_stops
            ],
            "actions": [
                {
                    "rule": a.rule,
                    "action": a.action,
                    "decisions": a.decisions,
                    "sessions": a.sessions,
                    "saved_calls": a.saved_calls,
                    "saved_tokens": a.saved_tokens,
                    "saved_usd": a.saved_nano / 1e9,
                    "false_stops": a.false_stops,
                }
                for a in self.actions
            ],
        }


class _Kept:
    """Keeps the incidents of sessions that leave memory."""

    def __init__(self) -> None:
        self.incidents: list[Incident] = []

    def load(self, _session_id: str) -> None:
        """Nothing comes back."""

    def evict(self, state: Any) -> None:
        """Keeps what it found."""
        self.incidents.extend(state.incidents.values())

    def changed(self, state: Any) -> None:
        """Nothing to do."""

    def touched(self, state: Any, call: Call, cost: Any) -> None:
        """Nothing to do."""

    def closed(self, incident: Incident) -> None:
        """Keeps it."""
        self.incidents.append(incident)


class Backtest:
    """Tries a policy on calls of the past.

    Args:
        policy: The policy; its mode does not matter.
        prices: As for `Sentinel`.
        success_tag: Runs with this tag succeeded; None: runs whose last model call was an answer.
        follow: Take the calls after an ending decision out, as they would not have been made. False leaves all in, as
            a dry run does.
    """

    def __init__(
        self, policy: Policy, *, prices: Any = None, success_tag: str | None = None, follow: bool = True
    ) -> None:
        self._kept, self._policy = _Kept(), policy
        self.sentinel = Sentinel(policy=policy.dry_run(), prices=prices, max_sessions=MAX_SESSIONS, store=self._kept)
        self._tag = success_tag
        self._follow = follow
        self._result = Result()
        self._figures: dict[tuple[str, str], ActionFigures] = {}
        self._hit: dict[tuple[str, str], set[str]] = {}
        self._first: dict[str, Decision] = {}
        self._ended: dict[str, Decision] = {}
        self._dear = False  # the call at hand did not fit into a budget that asks for a cheaper model
        self._cut: dict[str, int] = {}  # what the end of each of these runs saves
        self._succeeded: dict[str, bool] = {}
        self._seen_sessions: set[str] = set()
        self.sentinel.on_decision(self._decided)

    def run(self, calls: Iterable[Call]) -> Result:
        """Sends the calls through, in the order in which they ended."""
        for call in calls:
            self._take(call)
        return self._finish()

    def _take(self, call: Call) -> None:
        result = self._result
        result.calls += 1
        self._seen_sessions.add(call.session_id)
        if call.kind == "model" or call.root_id not in self._succeeded:
            answered = call.kind == "model" and call.status == "ok" and not call.tool_calls and call.answer_chars > 0
            tagged = self._tag is not None and self._tag in call.tags
            before = self._succeeded.get(call.root_id, False)
            self._succeeded[call.root_id] = (tagged or before) if self._tag is not None else answered
        cost = self.sentinel.prices.cost(call) if call.model is not None or call.source_cost is not None else None
        nano = cost.nano if cost is not None else 0
        result.nano += nano
        if call.usage.total_tokens:
            result.unpriced_calls += cost is None
            result.estimated_calls += call.usage.estimated
        stopped = self._ended.get(call.root_id)
        if stopped is None and call.kind == "model":
            call = self._let_through(call)
            stopped = self._ended.get(call.root_id)
        if stopped is not None and call.started_at >= stopped.at and self._follow:
            figures = self._figures[stopped.rule, stopped.action]
            figures.saved_calls += 1
            figures.saved_tokens += call.usage.total_tokens
            figures.saved_nano += nano
            self._cut[call.root_id] = self._cut.get(call.root_id, 0) + nano
            return
        self.sentinel.observe(call)

    def _let_through(self, call: Call) -> Call:
        """Asks for a model call what a door asks for it. Gives the call as it would have been made."""
        asked, rule = call, ""
        for decision in self.sentinel.due(call.session_id, call.root_id, call.started_at, dry=True):
            labels = call.prompt is not None and call.prompt.classification
            if decision.action == "downgrade" and (labels or not decision.classifying):
                asked, rule = self._cheaper(call), decision.rule
                break
        if self.sentinel.governor.admits:
            cheaper = asked if asked is not call else self._cheaper(call)  # once is all a door does
            dear = self._admit(asked, cheaper)
            if self._follow and call.root_id in self._ended:
                return call
            if dear and asked is call:
                asked, rule = cheaper, "budget"
        if asked is not call:
            before, after = self.sentinel.prices.cost(call), self.sentinel.prices.cost(asked)
            if before is not None and after is not None:
                self._figures[rule, "downgrade"].saved_nano += before.nano - after.nano
        return asked if self._follow else call

    def _cheaper(self, call: Call) -> Call:
        """The call by the model that the policy names for it; the same where it names none."""
        name = self._policy.cheaper(call.model or "")
        return call if name is None else call._replace(model=name, provider=None, source_cost=None)

    def _admit(self, call: Call, cheaper: Call) -> bool:
        """Asks the budgets, and settles what the call used, or the cheaper one. True if they ask for the latter."""
        request = Request(
            call.session_id,
            call.root_id,
            call.started_at,
            call.model,
            call.provider,
            estimated_input(call.prompt.chars if call.prompt else 0, call.toolset),
            call.max_tokens,
            call.user_id,
            call.tags,
        )
        self._dear = False
        admission = self.sentinel.governor.admit(request)
        if admission.reservation is not None:
            made = not self._follow or call.root_id not in self._ended
            sent = cheaper if self._dear and self._follow else call
            self.sentinel.governor.book(admission.reservation, sent if made else None)
        return self._dear

    def _decided(self, decision: Decision) -> None:
        self._result.decisions.append(decision)
        key = (decision.rule, decision.action)
        figures = self._figures.get(key)
        if figures is None:
            figures = self._figures[key] = ActionFigures(*key)
        figures.decisions += 1
        self._hit.setdefault(key, set()).add(decision.session_id)
        if decision.action != "warn":  # it saves nothing, and keeps nobody from saving
            self._first.setdefault(decision.incident_id, decision)
        self._dear |= decision.rule == "budget" and decision.action == "downgrade"
        if decision.action in ENDING:
            self._ended.setdefault(decision.root_id, decision)

    def _finish(self) -> Result:
        result = self._result
        for incident in {i.id: i for i in (*self._kept.incidents, *self.sentinel.incidents())}.values():
            decision = self._first.get(incident.id)
            if decision is not None and decision.action not in (*ENDING, "downgrade"):
                figures = self._figures[decision.rule, decision.action]
                figures.saved_nano += incident.after_nano
                figures.saved_tokens += incident.after_tokens
        for root, decision in self._ended.items():
            if self._succeeded.get(root):
                self._figures[decision.rule, decision.action].false_stops += 1
                result.false_stops.append(decision)
                result.lost_nano += self._cut.get(root, 0)
        for key, figures in self._figures.items():
            figures.sessions = len(self._hit[key])
        result.actions = sorted(
            self._figures.values(), key=lambda a: (-a.saved_nano, -a.saved_tokens, a.rule, a.action)
        )
        result.sessions = len(self._seen_sessions)
        result.runs = len(self._succeeded)
        result.succeeded = sum(self._succeeded.values())
        result.faults = self.sentinel.health().faults
        return result
