"""`handoff_loop`: agents hand the same task back and forth."""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.fingerprint import name_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings, Turn
from ts_langchain.rules.effects import is_change, outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind
    from ts_langchain.fingerprint import Arguments, FreeText

_HANDOFF = re.compile(
    r"^(?:transfer|hand_?off|hand_?over|delegate|escalate|route)_?(?:back_?)?(?:to_|$)", re.IGNORECASE
)
_NAMES: dict[str, bool] = {}
MAX_UNCLAIMED = 12
MAX_SEEN = 16
MAX_SAID = 4
MEANT = 2
"""Where somebody acts in between, it may be the next of many: it is severe after so many times as many handoffs."""


def is_handoff(name: str) -> bool:
    """True for a tool whose name says that it hands over to another agent (`transfer_to_billing`)."""
    known = _NAMES.get(name)
    if known is None:
        if len(_NAMES) > 4096:
            _NAMES.clear()
        known = _NAMES[name] = _HANDOFF.search(name) is not None
    return known


class Handoffs:
    """Handoffs of a run since somebody got something done."""

    __slots__ = ("acted", "count", "given", "root_id", "said", "seen", "spoke", "targets", "unclaimed")

    def __init__(self) -> None:
        self.root_id = ""
        self.count = 0
        self.acted = False  # somebody did something that had been done before, and may be meant again
        self.targets: list[int] = []
        self.given: Recent[int, tuple[Arguments | None, int]] = Recent()  # to each target: what, and what came back
        self.seen = array("q")
        self.spoke = False  # an agent, since the last handoff
        self.said: list[FreeText] = []
        self.unclaimed: list[Turn] = []

    def begin(self, root_id: str) -> None:
        """Another run."""
        self.root_id = root_id
        if self.targets or self.given:
            self.restart()
            self.given.clear()
            self.said.clear()
        del self.seen[:]

    def restart(self) -> None:
        """Somebody got something done."""
        self.count, self.acted = 0, False
        self.targets.clear()
        self.unclaimed.clear()

    def remember(self, call: Call) -> None:
        """Keeps what was brought back or said; of words said between handoffs also which ones."""
        self.seen.append(hash(outcome(call)))
        del self.seen[:-MAX_SEEN]
        if self.count and call.answer_text is not None:
            self.said.append(call.answer_text)
            del self.said[:-MAX_SAID]


class HandoffLoop(Rule[Handoffs]):
    """Agents hand over to one another and none of them does anything.

    Fires when in one run there have been `min_handoffs` handoffs (tools named `transfer_to_…`, `handoff_to_…`,
    `delegate_to_…`), back to targets that had the task before, and meanwhile no other tool brought anything new and
    no agent said anything new in answer. Severity medium, up to twice as many handoffs, where one of them changed
    something in between as before (`close_ticket`): it may be the next one.

    Does not fire on: a task that is passed on from one agent to the next; handoffs with work in between, be it a
    tool's, an agent's own words, or what a worker that is code puts into the conversation; an agent that is given
    another task, or that brings back something else than before; a new question of the user, which is a new run.

    Wasted: the turns of the handoffs back to somebody who had the task before.
    """

    name = "handoff_loop"
    specificity = 48
    kinds: ClassVar[frozenset[Kind]] = frozenset({"tool", "model"})
    suggestion = "Say in each agent's prompt what it must do itself, and let a handoff carry what was found out."
    thresholds: ClassVar[Mapping[str, str]] = {"min_handoffs": "handoffs"}
    among_agents: ClassVar[bool] = True

    class Settings(RuleSettings):
        """Settings of handoff_loop."""

        block: bool = Field(True, description="In mode `block`: veto the next model call while it lasts.")
        min_handoffs: int = Field(4, ge=3, description="Handoffs without work in between.")
        similarity: float = Field(
            0.85, ge=0, le=1, description="Word-set similarity from which an answer or a task is the same as before."
        )

    settings: Settings

    def new_state(self) -> Handoffs:
        return Handoffs()

    def outlives(self, state: Handoffs) -> bool:
        return False  # it is about what follows in a row

    @classmethod
    def silencers(cls, evidence: Mapping[str, object], session_id: str) -> list[tuple[str, str]]:
        """As of all rules; without the tool, which is one of several."""
        return super().silencers({**evidence, "tool": None}, session_id)

    def observe(self, call: Call, state: Handoffs) -> Finding | None:
        if call.kind == "model" and (call.tool_calls or not call.answer_chars):
            if state.count and call.root_id == state.root_id and self._was_told(call, state):
                state.restart()
            return None
        if call.root_id != state.root_id:
            state.begin(call.root_id)
        state.spoke |= call.kind == "model"
        if call.kind == "model" or not is_handoff(call.name):
            if call.status == "ok" and (not state.count or self._is_new(call, state)):
                state.remember(call)
                if state.count:
                    state.restart()
            else:
                state.acted |= is_change(call)
            return None
        if call.status == "cancelled":
            return None
        # tools without a target in their name carry it in their arguments
        named = not call.name.rstrip("_").lower().endswith(("to", "over", "off", "handoff", "delegate"))
        target = name_hash(call.name) if named or call.arguments is None else call.arguments.fingerprint
        if self._is_another_task(call, state.given.get(target)):
            state.restart()
        state.given[target] = call.arguments, call.answer
        state.given.limit(MAX_SEEN)
        back, state.spoke = target in state.targets, False
        state.count += 1
        state.targets.append(target)
        del state.targets[:-MAX_UNCLAIMED]
        if back:
            unit = call.tool_call_id or call.id
            state.unclaimed.append(
                Turn(call.id, call.requested_by, unit, call.siblings, call.ended_at - call.started_at)
            )
            del state.unclaimed[:-MAX_UNCLAIMED]
        agents = len(set(state.targets))
        if state.count < self.settings.min_handoffs or agents * 2 > len(state.targets):
            return None
        unclaimed, state.unclaimed = state.unclaimed, []
        return Finding(
            0,
            f"{agents} agents handed the task over {state.count} times without doing anything else."
            if agents > 1
            else f"One agent was handed the task {state.count} times and nothing came of it.",
            claims=tuple(
                Claim(t.requested_by, "turn", unit=t.unit, units=t.units) for t in unclaimed if t.requested_by
            ),
            calls=tuple(t.call_id for t in unclaimed),
            seconds=sum(t.seconds for t in unclaimed),
            severity="medium" if state.acted and state.count < self.settings.min_handoffs * MEANT else "high",
            confidence=0.92,
            evidence={"handoffs": state.count, "agents": agents, "tool": call.name},
        )

    def overlook(self, call: Call, state: Handoffs) -> None:
        """Work is work."""
        if call.kind == "model" or not is_handoff(call.name):
            self.observe(call, state)

    @staticmethod
    def _was_told(call: Call, state: Handoffs) -> bool:
        """True if its request ends with something new of a worker's that is code, or of a person's."""
        prompt = call.prompt
        if state.spoke or prompt is None or prompt.last_role not in ("ai", "human"):
            return False  # what an agent has said is judged as what it said
        told = hash(prompt.last)
        if not told or told in state.seen:
            return False
        state.seen.append(told)
        del state.seen[:-MAX_SEEN]
        return True

    def _is_new(self, call: Call, state: Handoffs) -> bool:
        """True for an answer or a change that was not there before, neither word for word nor reworded."""
        if hash(outcome(call)) in state.seen:
            return False
        text = call.answer_text
        return text is None or not any(text.similarity(before) >= self.settings.similarity for before in state.said)

    def _is_another_task(self, call: Call, before: tuple[Arguments | None, int] | None) -> bool:
        """True if the agent had something else to do before, or has brought something else back."""
        if before is None:
            return False
        arguments, answer = before
        if call.answer != answer:
            return True
        if call.arguments is None or arguments is None:
            return False
        return call.arguments.similarity(arguments) < self.settings.similarity
