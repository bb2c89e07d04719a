"""`abandoned_stream`: the consumer leaves, and the model has written more than anybody read."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.call import Feature
from ts_langchain.capture.traits import trait
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

CHARS_PER_TOKEN = 4
MAX_UNCLAIMED = 6


class Left:
    """Streams of a session that were left, one soon after the other."""

    __slots__ = ("at", "count", "reported", "unclaimed", "unread")

    def __init__(self) -> None:
        self.at = 0.0
        self.count = 0
        self.unread = 0
        self.reported = False
        # call id, unread tokens, seconds
        self.unclaimed: list[tuple[str, int, float]] = []


class AbandonedStream(Rule[Left]):
    """Streams are left before their end, again and again.

    Fires at the `min_streams`-th model call of a session that was cancelled while it streamed, each within
    `window_seconds` of the one before.

    Does not fire on: a user who stops an answer once or twice; calls that fail.

    Wasted: where the provider reported the usage, the output beyond what the consumer got (4 characters a token, one
    of scripts other than Latin) by at least `min_tokens`; what was spoken or drawn does not count, nor what was thought
    before an answer that was read in part. Without a report nothing is claimed: LangChain closes the connection, and
    what the provider generated and billed after that nobody saw.
    """

    name = "abandoned_stream"
    specificity = 22
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    needs = Feature.CANCELLED
    suggestion = "Set max_tokens, cancel the request itself and not only its reader, or ask for shorter answers."
    thresholds: ClassVar[Mapping[str, str]] = {"min_streams": "streams"}

    class Settings(RuleSettings):
        """Settings of abandoned_stream."""

        min_streams: int = Field(3, ge=1, description="Streams left in a session.")
        window_seconds: float = Field(600, gt=0, description="Event time between one and the next.")
        min_tokens: int = Field(50, ge=0, description="Unread output tokens that count.")

    settings: Settings

    def new_state(self) -> Left:
        return Left()

    def outlives(self, state: Left) -> bool:
        return False  # it is about what follows soon

    def observe(self, call: Call, state: Left) -> Finding | None:
        s, usage = self.settings, call.usage
        if call.started_at - state.at > s.window_seconds:
            state.count = state.unread = 0
            state.reported = False
            state.unclaimed.clear()
        reported = not usage.estimated and usage.output_tokens > 0
        written = usage.output_tokens - usage.output_audio_tokens - usage.output_image_tokens
        if call.answer_chars:
            written -= usage.reasoning_tokens
        read = max(-(-call.answer_chars // CHARS_PER_TOKEN), trait(call.traits, "read") or 0)
        unread = written - read if reported else 0
        if unread < s.min_tokens:
            unread = 0
        state.reported |= reported
        state.at = call.ended_at
        state.count += 1
        state.unread += unread
        state.unclaimed.append((call.id, unread, call.ended_at - call.started_at))
        del state.unclaimed[:-MAX_UNCLAIMED]
        if state.count < s.min_streams:
            return None
        unclaimed, state.unclaimed = state.unclaimed, []
        return Finding(
            0,
            f"{state.count} streams were left before their end.",
            claims=tuple(Claim(i, "call", 0, tokens) for i, tokens, _ in unclaimed if tokens),
            calls=tuple(i for i, _, _ in unclaimed),
            seconds=sum(seconds for _, _, seconds in unclaimed),
            severity="medium" if state.unread else "low",
            confidence=0.85 if state.unread else 0.6,
            evidence={"streams": state.count, "unread_tokens": state.unread, "usage_reported": state.reported},
        )
