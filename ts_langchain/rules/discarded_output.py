"""`discarded_output`: a model answers, the app throws the answer away, and the same request is sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.call import Feature
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind, Lost

MAX_REQUESTS = 8
MAX_UNCLAIMED = 8
SEVERE = 2
"""Retries are meant (`with_retry` tries 3 times): so many times as many are no longer."""


class Discarded:
    """Answers of a session that were thrown away, and how many in a row to the same request."""

    __slots__ = ("at", "count", "rows", "unclaimed")

    def __init__(self) -> None:
        self.at = 0.0
        self.count = 0
        self.rows: Recent[int, tuple[int, float]] = Recent()  # how many, and when the latest was lost
        self.unclaimed: list[Lost] = []

    def add(self, request: int, lost: Lost, window: float) -> int:
        """Counts a lost answer. How many there are now to this request, one soon after the other."""
        if lost.at - self.at > window:
            self.count = 0
            self.unclaimed.clear()
        row, at = self.rows.pop(request, (0, lost.at))
        row = row + 1 if lost.at - at <= window else 1
        self.rows[request] = (row, lost.at)
        self.rows.limit(MAX_REQUESTS)
        self.count += 1
        self.at = lost.at
        self.unclaimed.append(lost)
        del self.unclaimed[:-MAX_UNCLAIMED]
        return row


class DiscardedOutput(Rule[Discarded]):
    """The chain around a model call fails after the model has answered, and the very same request is sent again.

    So it is where an output parser rejects the answer and `with_retry` tries again, and where a node of LangGraph calls
    a model and then something else that fails, and a `RetryPolicy` runs the whole node again: the model is paid anew
    for what it had done.

    Fires when `min_discarded` answers of a session were lost, each within `window_seconds` of event time before its
    request was sent again (severity low); severity medium from `min_in_a_row` on; severity high when the same request
    lost twice as many answers in a row: then that request alone is vetoed.

    Does not fire on: model calls that fail themselves, which `retry_storm` looks after; interrupts and their resumes,
    hand-offs, cancelled runs, vetoes; a chain that fails and is not tried again; another request, with the error in
    the prompt, for example: so a model learns what was wrong; a request that a cache answers, or that fails. Only
    the innermost chain, node or tool around the model call counts.

    Wasted: the calls whose answers were lost, not the last one of them.
    """

    name = "discarded_output"
    specificity = 31
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    needs = Feature.LOST
    suggestion = (
        "Have the provider enforce the format (structured output), tell the model what was wrong with its answer, or "
        "retry only the step that failed."
    )
    thresholds: ClassVar[Mapping[str, str]] = {"min_discarded": "answers"}

    class Settings(RuleSettings):
        """Settings of discarded_output."""

        block: bool = Field(True, description="In mode `block`: veto this very request while it lasts.")
        min_discarded: int = Field(1, ge=1, description="Answers lost in a session that are reported (severity low).")
        min_in_a_row: int = Field(3, ge=1, description="Answers lost in a session that are worth mending.")
        window_seconds: PositiveFloat = Field(600, description="Event time in which the same request follows.")

    settings: Settings

    def new_state(self) -> Discarded:
        return Discarded()

    def outlives(self, state: Discarded) -> bool:
        return False  # it is about what follows soon

    def observe(self, call: Call, state: Discarded) -> Finding | None:
        lost, s = call.lost, self.settings
        if lost is None or call.started_at - lost.at > s.window_seconds:
            return None
        row = state.add(call.request, lost, s.window_seconds)
        if state.count < s.min_discarded:
            return None
        unclaimed, state.unclaimed = state.unclaimed, []
        severe = row >= s.min_in_a_row * SEVERE
        count, model = state.count, call.model or call.name
        return Finding(
            call.request if severe else 0,
            (f"{count} answers of {model} were" if count > 1 else f"An answer of {model} was")
            + f" lost: the chain around it failed ({lost.error}), and the same request was sent again.",
            claims=tuple(Claim(one.call_id) for one in unclaimed),
            calls=tuple(one.call_id for one in unclaimed),
            seconds=sum(one.seconds for one in unclaimed),
            severity="high" if severe else "medium" if state.count >= s.min_in_a_row else "low",
            confidence=0.9,
            evidence={"model": call.model, "answers": count, "in_a_row": row, "error": lost.error},
            request=call.request if severe else None,
        )
