"""`retry_storm`: the same request again and again in a short time."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_STREAKS = 8


class Streak:
    """Identical requests, one after the other, none of which brought anything new."""

    __slots__ = ("answer", "count", "ended_at", "failed", "members", "times")

    def __init__(self, call: Call) -> None:
        self.start(call)

    def start(self, call: Call) -> None:
        """Begins anew with this call."""
        self.count = 1
        self.times: tuple[float, ...] = (call.started_at,)
        self.members: tuple[tuple[str, float, bool], ...] = ((call.id, call.ended_at - call.started_at, False),)
        self.ended_at = call.ended_at
        self.failed = call.status == "error"
        self.answer = call.answer


class RetryStorm(Rule["Recent[int, Streak]"]):
    """The same request is sent again and again in a short time, and it fails or answers the same each time.

    Fires when `min_retries` requests with the same fingerprint (messages, tools, model, temperature) start
    within `window_seconds` of event time, each after the one before had ended, and each either failed or, at
    temperature 0, brought back the identical answer.

    Does not fire on: parallel sampling (requests in flight together); a request that is answered after a
    failure; different answers; the provider SDK's own retries inside one call, which nobody sees.

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
        window_seconds: PositiveFloat = Field(30, description="Event time in which the requests must start.")
        min_retries: int = Field(5, ge=2, description="Identical requests that make a storm.")

    settings: Settings

    def new_state(self) -> Recent[int, Streak]:
        return Recent()

    def shrink(self, state: Recent[int, Streak]) -> None:
        state.clear()

    def observe(self, call: Call, state: Recent[int, Streak]) -> Finding | None:
        if not call.request or call.status == "cancelled":
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
        same = not failed and call.temperature == 0 and call.answer == streak.answer and not streak.failed
        if not (failed and streak.failed) and not same:
            if failed or not streak.failed:
                streak.start(call)
            else:
                del state[call.request]  # it was answered: the storm is over
            return None
        kept = s.min_retries
        streak.count += 1
        streak.times = (*streak.times, call.started_at)[-kept:]
        streak.members = (*streak.members, (call.id, call.ended_at - call.started_at, True))[-kept:]
        streak.ended_at, streak.answer = call.ended_at, call.answer
        if len(streak.times) < kept or streak.times[-1] - streak.times[0] > s.window_seconds:
            return None
        wasted = [m for m in streak.members if m[2]]
        streak.members = tuple((i, sec, False) for i, sec, _ in streak.members)
        what = f"failed with {call.error or 'an error'}" if failed else "was answered the same"
        times = f"{streak.count} times, {kept} of them" if streak.count > kept else f"{kept} times"
        return Finding(
            call.request,
            f"The same request to {call.model or call.name} {what} {times} within {s.window_seconds:g} s.",
            claims=tuple(Claim(i) for i, _, _ in wasted),
            calls=tuple(i for i, _, _ in wasted),
            seconds=sum(sec for _, sec, _ in wasted),
            severity="high",
            confidence=0.95 if failed else 0.9,
            evidence={
                "model": call.model,
                "requests": streak.count,
                "seconds": round(streak.times[-1] - streak.times[0], 3),
                "failed": failed,
                "error": call.error,
                "request_hash": f"{call.request & 0xFFFFFFFFFFFFFFFF:016x}",
            },
            request=call.request,
        )
