"""`ping_pong`: tools or nodes take turns in a circle, and nothing new comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ts_langchain.fingerprint import mix, name_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleContext, RuleSettings
from ts_langchain.rules.effects import (
    asked_for,
    asks_a_person,
    effect_of,
    is_meant_again,
    is_under_way,
    may_be_meant,
    may_have_changed,
    outcome,
)
from ts_langchain.rules.handoff_loop import is_handoff
from ts_langchain.rules.voices import Voices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_PERIOD = 6
MAX_BESIDE = 3
BRIEF_CHARS = 100
"""An answer as short as that (`nothing found`, `free`) may well be the same to a question in other words."""
WORDS_CHARS = 60
"""Of tools of which nobody can say what they do: an answer as short as that says that something was done."""
STEPS = 4
"""`may_be_meant` of steps from where one is (`move_forward`)."""
MEANT = 2
"""A circle with such a step in it, and a look (`get_distance`), is severe after so many times as many rounds."""
OTHERS = 8
"""Where each round is about something else, after so many times as many."""


class Steps:
    """The latest tool calls of a turn, and those of others that go on beside it."""

    __slots__ = ("arrived", "asked_by", "beside", "reported", "root_id", "steps", "turn", "voices")

    def __init__(self) -> None:
        self.root_id = ""
        self.turn = 0
        self.reported = 0  # calls told of, from the first finding on
        self.asked_by: str | None = None
        self.arrived = 0  # how many of the calls that this model call asked for have ended
        # fingerprint of tool and answer, call id, model call that asked, unit, units, seconds, superstep and task,
        # tool, how often it may be meant to be done again, what it was given; which one, where a long answer came back
        self.steps: list[tuple[int, str, str | None, str, int, float, int, int, int, int, int]] = []
        self.beside: Recent[int, tuple[Any, ...]] | None = None  # the same of other turns; most sessions have none
        self.voices: Voices | None = None  # of nodes that speak; most sessions have none

    def go_on(self, call: Call) -> None:
        """Goes on where the turn of this call has stopped."""
        if call.turn != self.turn:
            beside = self.beside = self.beside or Recent()
            own = beside.pop(call.turn, None) or (0, None, 0, [])
            if self.steps or self.asked_by:
                beside[self.turn] = (self.reported, self.asked_by, self.arrived, self.steps)
                beside.limit(MAX_BESIDE)
            self.turn = call.turn
            self.reported, self.asked_by, self.arrived, self.steps = own
        elif call.root_id != self.root_id:
            self.restart()
        self.root_id = call.root_id

    def restart(self) -> None:
        """What follows goes round in no circle with what was before."""
        self.steps.clear()
        self.reported = 0


class PingPong(Rule[Steps]):
    """Two or more tools or nodes take turns, round after round, and each brings or says what it did before.

    Fires when the latest tool calls of one turn are `min_rounds` rounds of the same circle of 2 to 6 different
    tools, each with the same answer as in the round before, whatever was looked for. Calls that one model call asks
    for side by side count once all of them have ended, and in whatever order.

    Severity medium where one of them was given something else in each round, and, if it answered at length, not
    just in other words: nothing was found there either; up to eight times as many rounds. And up to twice as many
    rounds where all of them act and are told no more than a word (`grasp`, `release`), or one of them is a step from
    where one is (`move_forward` and `get_distance`), four times as many where all are (`step`, `turn_left`): it may be
    meant.

    Severity medium also when two or more nodes of a graph have a model answer in turn for `min_rounds` rounds, a writer
    and its critic, say, and each says the same as before (word for word, or nearly), one of them at length.

    Does not fire on: a circle in which one answer differs; nodes whose requests grow by more than what they say, or
    shrink: it may be the next row that gets the same answer; tools that do not only look (`edit_file`, `bash`,
    `process_invoice`) and were given something else each time; polls, by name, or because the answer says that
    something is still under way; a circle in which a person is asked; one tool alone (`tool_loop`); handing over to
    other agents (`handoff_loop`); answers that were not captured.

    Wasted: the turns of all rounds but the first, of nodes their calls.
    """

    name = "ping_pong"
    specificity = 45
    kinds: ClassVar[frozenset[Kind]] = frozenset({"tool", "retriever", "model"})
    suggestion = "Tell the model that this circle brings nothing new, or stop the run."
    thresholds: ClassVar[Mapping[str, str]] = {"min_rounds": "rounds"}

    class Settings(RuleSettings):
        """Settings of ping_pong."""

        block: bool = Field(True, description="In mode `block`: veto the next model call while the circle lasts.")
        min_rounds: int = Field(3, ge=2, le=20, description="Rounds that make a circle.")

    settings: Settings

    def __init__(self, settings: RuleSettings, context: RuleContext) -> None:
        super().__init__(settings, context)
        self._leaves_handoffs = "handoff_loop" in context.active

    def new_state(self) -> Steps:
        return Steps()

    def outlives(self, state: Steps) -> bool:
        return False  # it is about what follows in a row

    def observe(self, call: Call, state: Steps) -> Finding | None:
        if call.kind == "model":
            if call.node is None or (call.tool_calls and state.voices is None):
                return None  # most agents ask for tools as long as they work
            state.voices = state.voices or Voices()
            return state.voices.hear(call, self.settings.min_rounds)
        if state.voices is not None:
            state.voices.hear_tool(call)
        state.go_on(call)
        if call.requested_by is None or call.requested_by != state.asked_by:
            state.asked_by, state.arrived = call.requested_by, 0
        state.arrived += 1
        aside = call.status == "cancelled" or is_meant_again(call.name)
        if aside or (self._leaves_handoffs and is_handoff(call.name)):
            among = ""
        elif is_under_way(call) or not call.answer or asks_a_person(call.name):
            state.restart()
            return None
        else:
            self._add(call, state)
            del state.steps[: -MAX_PERIOD * self.settings.min_rounds]
            among = f", {call.name} among them,"
        if state.arrived < call.siblings:
            return None
        together = self._together(call, state)
        return self._judge(state, together, among) if together else None

    def overlook(self, call: Call, state: Steps) -> None:
        """To look again after a change is no circle."""
        if call.kind != "model" and state.voices is not None:
            state.voices.hear_tool(call)
        if may_have_changed(call):
            state.restart()
            state.beside = None

    @staticmethod
    def _add(call: Call, state: Steps) -> None:
        tool = name_hash(call.name)
        step = mix(tool, outcome(call))
        given = 0
        if call.arguments is not None and call.status == "ok":
            brief = call.answer_chars <= BRIEF_CHARS
            given = asked_for(call, call.arguments) if brief else call.arguments.fixed
        seconds = call.ended_at - call.started_at
        unit = call.tool_call_id or call.id
        # what another task of the same superstep did, this one does not know of
        state.steps = [s for s in state.steps if s[6] != call.step or s[7] == call.task]
        acts = effect_of(call) != "unknown" or call.answer_chars <= WORDS_CHARS
        of = (call.step, call.task, tool, may_be_meant(call) if acts else 0, given)
        state.steps.append((step, call.id, call.requested_by, unit, call.siblings, seconds, *of))

    @staticmethod
    def _together(call: Call, state: Steps) -> int:
        """How many of the latest steps are of one turn with this call, itself among them; puts them into one order."""
        if call.siblings == 1:
            return int(bool(state.steps) and state.steps[-1][1] == call.id)
        others = (n for n, s in enumerate(reversed(state.steps)) if s[2] != call.requested_by)
        together = next(others, len(state.steps))
        if together:
            state.steps[-together:] = sorted(state.steps[-together:])
        return together

    def _judge(self, state: Steps, together: int, among: str) -> Finding | None:
        """The finding, if the latest steps run in a circle; `together` of them are new."""
        rounds = self.settings.min_rounds
        period = self._period([s[0] for s in state.steps])
        tools = len({s[8] for s in state.steps[-period:]}) if period is not None else 0
        if period is None or tools < 2:  # one tool alone is no circle of several
            state.reported = 0
            return None
        # the first time all rounds but the first one; from then on, each turn's calls as they come
        new = state.steps[-together:] if state.reported else state.steps[-period * (rounds - 1) :]
        state.reported += len(new) if state.reported else period * rounds
        calls = state.reported
        last = state.steps[-period * rounds :]
        often = min(s[9] for s in last) or (MEANT if max(s[9] for s in last) >= STEPS else 0)
        meant = calls < period * rounds * often
        # people that are looked for in one list and another, and are in none: each time it is somebody else
        asked = ({s[10] for s in last[i::period]} for i in range(period))
        others = any(0 not in given and len(given) == rounds for given in asked)
        return Finding(
            mix(*sorted({s[0] for s in state.steps[-period:]})),
            f"{tools} tools{among} were called in turn for {calls // period} rounds; nothing new came back.",
            claims=tuple(Claim(s[2], "turn", unit=s[3], units=s[4]) for s in new if s[2]),
            calls=tuple(s[1] for s in new),
            seconds=sum(s[5] for s in new),
            severity="medium" if meant or (others and calls < period * rounds * OTHERS) else "high",
            confidence=0.92,
            evidence={"period": period, "rounds": calls // period, "calls": calls},
        )

    def _period(self, steps: list[int]) -> int | None:
        """The shortest circle of different tools that the latest steps run in, None if they do not."""
        for period in range(2, MAX_PERIOD + 1):
            length = period * self.settings.min_rounds
            if length > len(steps):
                return None
            tail = steps[-length:]
            circle = tail[:period]
            if len(set(circle)) > 1 and all(tail[i] == circle[i % period] for i in range(length)):
                return period
        return None
