"""`abandoned_stream`: the consumer leaves, and the model has written more than anybody read."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.call import Feature
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

CHARS_PER_TOKEN = 4
MAX_UNCLAIMED = 6


class AbandonedStream(Rule["list[tuple[str, int, float]]"]):
    """Streams are left before their end, again and again.

    Fires at the `min_streams`-th model call of a session that was cancelled while it streamed, each within
    `window_seconds` of the one before.

    Does not fire on: a user who stops an answer once or twice; calls that fail.

    Wasted: where the provider reported the usage, the output beyond what the consumer got (4 characters a token)
    by at least `min_tokens`. Without a report nothing is claimed: LangChain closes the connection, and what the
    provider generated and billed after that nobody saw.
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

    def new_state(self) -> list[tuple[str, int, float]]:
        return []

    def shrink(self, state: list[tuple[str, int, float]]) -> None:
        state.clear()

    def observe(self, call: Call, state: list[tuple[str, int, float]]) -> Finding | None:
        s = self.settings
        if state and call.started_at - state[-1][2] > s.window_seconds:
            state.clear()
        usage = call.usage
        unread = 0 if usage.estimated else usage.output_tokens - -(-call.answer_chars // CHARS_PER_TOKEN)
        state.append((call.id, unread if unread >= s.min_tokens else 0, call.ended_at))
        del state[:-MAX_UNCLAIMED]
        if len(state) < s.min_streams:
            return None
        claimed = [(i, tokens) for i, tokens, _ in state if tokens]
        streams = len(state)
        return Finding(
            0,
            f"{streams} streams were left before their end.",
            claims=tuple(Claim(i, "call", 0, tokens) for i, tokens in claimed),
            calls=tuple(i for i, _, _ in state[-1:]) if streams > s.min_streams else tuple(i for i, _, _ in state),
            seconds=call.ended_at - call.started_at,
            severity="medium" if claimed else "low",
            confidence=0.85 if claimed else 0.6,
            evidence={"streams": streams, "unread_tokens": sum(t for _, t in claimed), "usage_reported": bool(claimed)},
        )
