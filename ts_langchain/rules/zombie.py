"""`zombie`: calls go on, and nobody gets anything."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.fingerprint import mix, name_hash
from ts_langchain.rules.base import Claim, Finding, Rule, RuleContext, RuleSettings
from ts_langchain.rules.effects import (
    asked_for,
    asks_a_person,
    effect_of,
    is_meant_again,
    is_under_way,
    judges,
    outcome,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_SEEN = 48
MAX_ASKED = 16
MANY = 40
"""Nobody looks for so many times `min_calls` other things in vain."""
MAX_SEEN_IDLE = 4
MAX_UNCLAIMED = 18
LONG = 3
"""After so many times as many polls it may be no poll at all."""


class Polls:
    """Questions in a row whether something is done, all answered by the same: not yet."""

    __slots__ = ("about", "count")

    def __init__(self, about: int) -> None:
        self.about = about
        self.count = 1


class Progress:
    """What a session has achieved, and what it has done since."""

    __slots__ = ("asked", "calls", "polls", "ran", "root_id", "same", "seen", "since", "unclaimed")

    def __init__(self) -> None:
        self.since = 0.0
        self.root_id = ""
        self.calls = 0
        self.seen = array("q")
        self.asked = array("q")  # what tools were asked for since then
        self.same = False  # one of them for what it had been asked for before
        self.polls: Polls | None = None
        self.ran = False  # a tool that the model has asked for
        self.unclaimed: list[tuple[str, float, bool]] = []

    def restart(self, at: float) -> None:
        """Something new came: the clock starts again."""
        self.since, self.calls, self.same = at, 0, False
        self.unclaimed.clear()
        del self.asked[:]

    def ask(self, call: Call) -> None:
        """Remembers what a tool was asked for. Where it failed to do something it is all the same."""
        about = 0
        looks = effect_of(call) == "looks" or judges(call.name)
        if call.arguments is not None and (call.status == "ok" or looks):
            about = hash(mix(name_hash(call.name), asked_for(call, call.arguments)))
        self.same |= not about or about in self.asked
        self.asked.append(about)
        del self.asked[:-MAX_ASKED]

    def is_new(self, answer: int) -> bool:
        """True if this answer has not come back before; remembers it."""
        known = hash(answer)
        if known in self.seen:
            return False
        self.seen.append(known)
        del self.seen[:-MAX_SEEN]
        return True


class Zombie(Rule[Progress]):
    """A run goes on for minutes, and neither the user nor the agent itself gets anything new.

    Fires when for `window_seconds` of event time, inside one run, at least `min_calls` calls were made, none of
    them a new answer to the user and none a tool result that had not come back before; of tools that do not only
    look (`edit_file`, `bash`, `process_invoice`) or that judge (`validate_file`), none that was given something
    new. Severity medium where tools were asked for something else each time, and found the same (nothing, most
    likely), up to forty times `min_calls`.

    Fires with severity low when the model has asked `min_polls` times in a row whether something is done, and was
    told the same each time (`running`) by a tool that does not poll by its name, medium after three times as many:
    each time is a call with all of the context; a tool that waits would need one.

    Does not fire on: long work in which each step brings something new; rows that are judged one by one, yes or no, in
    words, or in a structured answer; code that tells the model something new each time; polls and questions to a
    person, by name, or because the answer says that something is still under way (`tool_loop.polling_tools` names more
    of them); a new run of the same session; runs tagged with one of `long_running_tags`.

    Wasted: the model calls since the last thing that was new; the turns of polls from `min_polls` on.
    """

    name = "zombie"
    specificity = 10
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model", "tool", "retriever"})
    suggestion = "Stop the run, and give the agent a step or time limit; where it waits, let a tool wait for it."
    thresholds: ClassVar[Mapping[str, str]] = {"min_calls": "calls", "window_seconds": "seconds", "min_polls": "polls"}

    class Settings(RuleSettings):
        """Settings of zombie."""

        block: bool = Field(True, description="In mode `block`: veto the next model call of this run.")
        window_seconds: PositiveFloat = Field(300, description="Event time without anything new.")
        min_calls: int = Field(5, ge=2, description="Calls in that time.")
        min_polls: int = Field(60, ge=2, description="Times in a row that the model is told that it is not done yet.")
        long_running_tags: frozenset[str] = Field(
            frozenset({"long_running", "long-running"}),
            description="Tags that mark runs allowed to take long.",
        )

    settings: Settings

    def __init__(self, settings: RuleSettings, context: RuleContext) -> None:
        super().__init__(settings, context)
        self._polling: frozenset[str] = getattr(context.active.get("tool_loop"), "polling_tools", frozenset())

    def _waits(self, name: str) -> bool:
        return is_meant_again(name) or asks_a_person(name) or name in self._polling

    def new_state(self) -> Progress:
        return Progress()

    def shrink(self, state: Progress) -> None:
        del state.seen[:-MAX_SEEN_IDLE]
        state.unclaimed.clear()

    def observe(self, call: Call, state: Progress) -> Finding | None:
        s = self.settings
        if call.kind == "tool" and (polled := self._polled(call, state)) is not None:
            self._gets_on(call, state)
            return polled
        if self._gets_on(call, state):
            return None
        state.calls += 1
        if call.kind != "model":
            state.ask(call)
        state.unclaimed.append((call.id, call.ended_at - call.started_at, call.kind == "model"))
        del state.unclaimed[:-MAX_UNCLAIMED]
        quiet = call.ended_at - state.since
        if quiet < s.window_seconds or state.calls < s.min_calls or not s.long_running_tags.isdisjoint(call.tags):
            return None
        unclaimed, state.unclaimed = state.unclaimed, []
        stuck = state.same or not state.asked or state.calls >= s.min_calls * MANY
        return Finding(
            0,
            f"{state.calls} calls in {quiet / 60:.0f} minutes brought nothing new to the user or the agent.",
            claims=tuple(Claim(i) for i, _, billed in unclaimed if billed),
            calls=tuple(i for i, _, _ in unclaimed),
            seconds=sum(sec for _, sec, _ in unclaimed),
            severity="high" if stuck else "medium",
            confidence=0.85 if stuck else 0.6,
            evidence={"calls": state.calls, "seconds": round(quiet, 3)},
        )

    def _polled(self, call: Call, state: Progress) -> Finding | None:
        """The finding, if the model has asked for long whether something is done."""
        s = self.settings
        if not is_under_way(call) or self._waits(call.name) or call.requested_by is None:
            if call.requested_by is not None:
                state.polls = None
            return None
        args = call.arguments.fingerprint if call.arguments is not None else 0
        about = mix(name_hash(call.name), args, call.answer, call.turn)
        polls = state.polls
        if polls is None or polls.about != about or not call.answer:
            state.polls = Polls(about)
            return None
        polls.count += 1
        if polls.count < s.min_polls or not s.long_running_tags.isdisjoint(call.tags):
            return None
        return Finding(
            mix(1, about),
            f"{call.name} said {polls.count} times in a row that it is not done; a model was asked each time.",
            claims=(Claim(call.requested_by, "turn", unit=call.tool_call_id or call.id, units=call.siblings),),
            calls=(call.id,),
            seconds=call.ended_at - call.started_at,
            severity="low" if polls.count < s.min_polls * LONG else "medium",
            confidence=0.7,
            evidence={"tool": call.name, "polls": polls.count},
        )

    def overlook(self, call: Call, state: Progress) -> None:
        """What is new is new."""
        self._gets_on(call, state)

    def _gets_on(self, call: Call, state: Progress) -> bool:
        """True if the call brings something new, or waits for it: the clock starts again then, and in a new run."""
        if call.root_id != state.root_id:
            state.root_id, state.ran = call.root_id, False
            state.restart(call.started_at)
        state.ran |= call.kind == "tool" and call.requested_by is not None
        if is_under_way(call) or (call.kind == "tool" and self._waits(call.name)):
            state.restart(call.ended_at)
            return True
        if call.kind == "model":
            said = call.status == "ok" and not call.tool_calls and bool(call.answer_chars)
            # the same answer to another question is a new one
            new = said and state.is_new(mix(call.conversation, call.answer))
            prompt = call.prompt
            told = prompt is not None and prompt.last_role in ("ai", "human") and not state.ran
            if not said and prompt is not None and prompt.last and told:
                # asked for something else, it answers in tool calls that nobody runs, in pictures or in sound
                new = call.status == "ok" and state.is_new(mix(call.conversation, prompt.last))
        else:
            new = call.status == "ok" and (not call.answer or state.is_new(_came(call)))
        if new:
            state.restart(call.ended_at)
        return new


def _came(call: Call) -> int:
    """Fingerprint of what came of a call. The same verdict on something else is another one."""
    if call.kind == "tool" and call.arguments is not None and judges(call.name):
        return mix(call.answer, call.arguments.fingerprint)
    return outcome(call)
