"""`handoff_loop`: agents hand the same task back and forth."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.fingerprint import name_hash
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

_HANDOFF = re.compile(
    r"^(?:transfer|hand_?off|hand_?over|delegate|escalate|route)_?(?:back_?)?(?:to_|$)", re.IGNORECASE
)
_NAMES: dict[str, bool] = {}
MAX_UNCLAIMED = 12


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

    __slots__ = ("count", "root_id", "seen", "targets", "unclaimed")

    def __init__(self) -> None:
        self.root_id = ""
        self.count = 0
        self.targets: list[int] = []
        self.seen: list[int] = []
        self.unclaimed: list[tuple[str, str | None, str, int, float]] = []

    def restart(self) -> None:
        """Somebody got something done."""
        self.count = 0
        self.targets.clear()
        self.unclaimed.clear()


class HandoffLoop(Rule[Handoffs]):
    """Agents hand over to one another and none of them does anything.

    Fires when in one run there have been `min_handoffs` handoffs (tools named `transfer_to_…`, `handoff_to_…`,
    `delegate_to_…`), back to targets that had the task before, and no other tool brought anything new meanwhile.

    Does not fire on: a task that is passed on from one agent to the next; handoffs with work in between; a new
    question of the user, which is a new run.

    Wasted: the turns of the handoffs back to somebody who had the task before.
    """

    name = "handoff_loop"
    specificity = 48
    kinds: ClassVar[frozenset[Kind]] = frozenset({"tool"})
    suggestion = "Say in each agent's prompt what it must do itself, and let a handoff carry what was found out."
    thresholds: ClassVar[Mapping[str, str]] = {"min_handoffs": "handoffs"}

    class Settings(RuleSettings):
        """Settings of handoff_loop."""

        block: bool = Field(True, description="In mode `block`: veto the next model call while it lasts.")
        min_handoffs: int = Field(4, ge=3, description="Handoffs without work in between.")

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
        if call.root_id != state.root_id:
            state.root_id = call.root_id
            state.restart()
            state.seen.clear()
        if not is_handoff(call.name):
            if call.status == "ok" and call.answer not in state.seen:
                state.seen.append(call.answer)
                del state.seen[:-16]
                state.restart()
            return None
        if call.status == "cancelled":
            return None
        # tools without a target in their name carry it in their arguments
        named = not call.name.rstrip("_").lower().endswith(("to", "over", "off", "handoff", "delegate"))
        target = name_hash(call.name) if named or call.arguments is None else call.arguments.fingerprint
        back = target in state.targets
        state.count += 1
        state.targets.append(target)
        del state.targets[:-MAX_UNCLAIMED]
        if back:
            unit = call.tool_call_id or call.id
            took = call.ended_at - call.started_at
            state.unclaimed.append((call.id, call.requested_by, unit, call.siblings, took))
            del state.unclaimed[:-MAX_UNCLAIMED]
        agents = len(set(state.targets))
        if state.count < self.settings.min_handoffs or agents < 2 or agents * 2 > len(state.targets):
            return None
        unclaimed, state.unclaimed = state.unclaimed, []
        return Finding(
            0,
            f"{agents} agents handed the task over {state.count} times without doing anything else.",
            claims=tuple(Claim(r, "turn", unit=unit, units=units) for _, r, unit, units, _ in unclaimed if r),
            calls=tuple(u[0] for u in unclaimed),
            seconds=sum(u[4] for u in unclaimed),
            severity="high",
            confidence=0.92,
            evidence={"handoffs": state.count, "agents": agents, "tool": call.name},
        )
