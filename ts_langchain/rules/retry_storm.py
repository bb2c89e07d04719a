"""`retry_storm`: the same request again and again in a short time."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.call import UNBILLED
from ts_langchain.fingerprint import mix, name_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings
from ts_langchain.rules.beside import Made, alone, begun_anew, fall, then, times

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_STREAKS = 8
MAX_SAID = 12
LASTS = 900.0
BY_CHANCE = 3


class Streak:
    """Identical requests, one after the other, none of which brought anything new."""

    __slots__ = ("answer", "count", "ended_at", "failed", "loop", "made", "members", "spent", "storm", "times")

    def __init__(self, call: Call) -> None:
        self.start(call)

    def start(self, call: Call) -> None:
        """Begins anew with this call."""
        self.count = 1
        self.storm = False
        self.loop = ""  # the run in which it is a loop
        # when each was sent, without the time that those before took: a time-out is no pause
        self.times: tuple[float, ...] = (call.started_at,)
        self.made: Made = alone(call, name_hash(call.root_id), call.started_at)
        self.spent = call.ended_at - call.started_at
        self.members: tuple[tuple[str, float, bool], ...] = ((call.id, self.spent, False),)
        self.ended_at = call.ended_at
        self.failed = call.status == "error"
        self.answer = call.answer


class Requests:
    """The streaks of a session, and what was said to whom."""

    __slots__ = ("said", "streaks")

    def __init__(self) -> None:
        self.streaks: Recent[int, Streak] = Recent()
        self.said = array("q")

    def note(self, call: Call) -> None:
        """What is new in a run ends its loops: it gets on."""
        if call.status != "ok" or call.kind != "model":
            return
        said = mix(call.conversation, call.answer)
        if said in self.said:
            return
        self.said.append(said)
        del self.said[:-MAX_SAID]
        for streak in self.streaks.values():
            if streak.count > 1:
                streak.made = begun_anew(streak.made, name_hash(call.root_id))


class RetryStorm(Rule[Requests]):
    """The same request is sent again and again in a short time, and it fails or answers the same each time.

    Fires when `min_retries` requests with the same fingerprint (messages, tools, model, temperature) are sent with
    pauses of `window_seconds` of event time between them in all, each after the one before had ended, and each either
    failed or brought back the identical answer. Where they are answered, `answered_window_seconds` count inside one
    run, and three requests more have to be unless the temperature is 0: the same answer may come by chance. Severity
    low if runs of their own were answered the same, or tasks of one superstep of LangGraph, as rows of a batch are that
    are alike, and if other requests of the run were answered with something new in between, as where each step of an
    agent is checked by the same question: a cache would do.
    From then on each further failure extends it, for 15 minutes. In mode `block` a request that has been silent for
    30 seconds is let through, to see whether it is answered now.

    Does not fire on: parallel sampling (requests in flight together); a request that is answered after a
    failure; different answers; answers out of LangChain's cache, which cost nothing; the provider SDK's own retries
    inside one call, which nobody sees.

    Wasted: the tokens that failed or repeated requests were billed for; all but the first. A failed call is
    mostly not billed: then the incident shows calls and seconds, and no dollars.
    """

    name = "retry_storm"
    specificity = 30
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model", "embedding"})
    suggestion = "Back off exponentially with a cap on attempts, or fail over to another model."
    thresholds: ClassVar[Mapping[str, str]] = {"min_retries": "requests"}

    class Settings(RuleSettings):
        """Settings of retry_storm."""

        block: bool = Field(True, description="In mode `block`: veto this very request while the storm lasts.")
        window_seconds: PositiveFloat = Field(30, description="Event time that the pauses between them may take.")
        answered_window_seconds: PositiveFloat = Field(
            300, description="The same for requests of one run that are answered the same."
        )
        min_retries: int = Field(5, ge=2, description="Identical requests that make a storm.")

    settings: Settings

    def new_state(self) -> Requests:
        return Requests()

    def outlives(self, state: Requests) -> bool:
        return False  # it is about what follows in a row

    def observe(self, call: Call, requests: Requests) -> Finding | None:
        if not call.request or call.status == "cancelled":
            return None
        requests.note(call)
        state = requests.streaks
        if call.source_cost == UNBILLED:
            state.pop(call.request, None)
            return None
        streak = state.get(call.request)
        if streak is None:
            state[call.request] = Streak(call)
            state.limit(MAX_STREAKS)
            return None
        state.touch(call.request)
        if call.started_at < streak.ended_at:
            streak.ended_at = max(streak.ended_at, call.ended_at)
            return None
        s = self.settings
        failed = call.status == "error"
        varies = call.temperature is not None and call.temperature > 0
        said = call.kind == "model" and call.answer != 0  # embeddings are the same by nature, the unknown is not
        same = said and not failed and not varies and call.answer == streak.answer and not streak.failed
        if not (failed and streak.failed) and not same:
            if failed or not streak.failed:
                streak.start(call)
            else:
                del state[call.request]  # it was answered: the storm is over
            return None
        took = call.ended_at - call.started_at
        lasts = streak.storm and call.started_at - streak.ended_at <= LASTS
        kept = s.min_retries if failed or call.temperature == 0 else s.min_retries + BY_CHANCE
        at, run = call.started_at - streak.spent, call.root_id
        streak.count += 1
        streak.times = (*streak.times, at)[-kept:]
        streak.made = then(streak.made, call, name_hash(run), at, kept)
        streak.spent += took
        streak.members = (*streak.members, (call.id, took, True))[-kept:]
        streak.ended_at, streak.answer = call.ended_at, call.answer
        pauses = streak.times[-1] - streak.times[0]
        # in a run of its own, or in another task, it may be a row of a batch like one before
        in_a_row = same and fall(times(streak.made, name_hash(run)), kept, s.answered_window_seconds)
        if in_a_row or not lasts:
            streak.loop = run if in_a_row else ""
        streak.storm = lasts or in_a_row or (len(streak.times) >= kept and pauses <= s.window_seconds)
        if not streak.storm:
            return None
        wasted = [m for m in streak.members if m[2]]
        streak.members = tuple((i, sec, False) for i, sec, _ in streak.members)
        what = f"failed with {call.error or 'an error'}" if failed else "was answered the same"
        return Finding(
            call.request,
            f"The same request to {call.model or call.name} {what} {streak.count} times in a row.",
            claims=tuple(Claim(i) for i, _, _ in wasted),
            calls=tuple(i for i, _, _ in wasted),
            seconds=sum(sec for _, sec, _ in wasted),
            severity="high" if failed or run == streak.loop else "low",
            confidence=0.95 if failed else 0.9,
            evidence={
                "model": call.model,
                "requests": streak.count,
                "seconds": round(pauses, 3),
                "failed": failed,
                "error": call.error,
                "request_hash": f"{call.request & 0xFFFFFFFFFFFFFFFF:016x}",
            },
            request=call.request,
        )
