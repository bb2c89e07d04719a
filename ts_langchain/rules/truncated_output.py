"""`truncated_output`: an answer was cut off, and the same request is sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.call import UNBILLED
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from ts_langchain.call import Call, Kind

CUT_OFF = frozenset({
    "length", "max_tokens", "MAX_TOKENS", "max_output_tokens", "model_length", "model_context_window_exceeded",
})  # fmt: skip
MAX_REQUESTS = 6
MEANT = 16
"""Output limits up to so many tokens are meant to cut: for one label and its probability, or to warm a cache."""


class TruncatedOutput(Rule["Recent[int, tuple[str, float, int, float]]"]):
    """The output limit cuts an answer off, and the very same request is sent again.

    Fires when a request whose answer ended for its length (`length`, `max_tokens`) is sent again, unchanged, within
    `window_seconds` of event time.

    Does not fire on: a request that asks to go on; a changed prompt; a higher output limit, or none any more, or one
    where there was none; a limit of a few tokens, which is meant; what a cache of responses answers.

    Wasted: the call that was cut off: its answer was not used.
    """

    name = "truncated_output"
    specificity = 32
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    suggestion = "Raise max_tokens, ask for a shorter answer, or let the model go on where it stopped."

    class Settings(RuleSettings):
        """Settings of truncated_output."""

        window_seconds: PositiveFloat = Field(300, description="Event time in which the request must come again.")

    settings: Settings

    def new_state(self) -> Recent[int, tuple[str, float, int, float]]:
        return Recent()

    def shrink(self, state: Recent[int, tuple[str, float, int, float]]) -> None:
        state.clear()

    def observe(self, call: Call, state: Recent[int, tuple[str, float, int, float]]) -> Finding | None:
        if not call.request or call.status != "ok" or call.source_cost == UNBILLED:
            return None
        bound = call.max_tokens or 0
        cut = state.pop(call.request, None)
        if call.finish_reason in CUT_OFF and not 0 < bound <= MEANT:
            state[call.request] = (call.id, call.ended_at, bound, call.ended_at - call.started_at)
            state.limit(MAX_REQUESTS)
        if cut is None or not 0 <= call.started_at - cut[1] <= self.settings.window_seconds:
            return None
        if bound > cut[2] or (cut[2] and not bound):
            return None  # it was given more room
        again = call.finish_reason in CUT_OFF
        return Finding(
            call.request,
            f"An answer of {call.model or call.name} was cut off for its length, and the same request was sent again"
            + (", and was cut off again." if again else "."),
            claims=(Claim(cut[0]),),
            calls=(cut[0],),
            seconds=cut[3],
            severity="medium" if again else "low",
            confidence=0.95,
            evidence={"model": call.model, "finish_reason": call.finish_reason, "cut_off_again": again},
            request=call.request,
        )
