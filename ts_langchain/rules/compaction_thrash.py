"""`compaction_thrash`: the conversation is summed up again before nearly each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.fingerprint import mix, text_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

SUMMARY = "summarization"
ASSUMED_WINDOW = 16_000
MAX_AGENTS = 8
MAX_UNCLAIMED = 6


class Compactions:
    """The summaries that one agent has had in a row."""

    __slots__ = ("count", "guessed", "share", "steps", "unclaimed")

    def __init__(self) -> None:
        self.count = 1
        self.steps = 0
        """Requests of the agent since the last one."""
        self.share = 0.0
        """How full the model's context window was, at most."""
        self.guessed = False
        """How large the window is is not known."""
        self.unclaimed: list[tuple[str, float]] = []


class CompactionThrash(Rule["Recent[int, Compactions]"]):
    """An agent's history is summed up before nearly each of its steps.

    Fires at the `min_summaries`-th summary in a row of one run that left room for no more than `max_steps` requests of
    the agent, while none of these filled more than `max_share` of the model's context window. What is kept after a
    summary is then nearly as much as what triggers the next one, as with a `trigger` of 4 000 tokens and 20 messages to
    keep.

    Does not fire on: summaries of a context that is really full; a summary now and then, or one in each of several
    runs; several of one history, in parts; summaries that no middleware of LangChain's makes. A window that is not
    known counts as 16 000 tokens.

    Wasted: the summaries but the first.
    """

    name = "compaction_thrash"
    specificity = 26
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    suggestion = "Raise the trigger of the summaries, or keep less behind them: several steps must fit in between."
    thresholds: ClassVar[Mapping[str, str]] = {"min_summaries": "summaries"}

    class Settings(RuleSettings):
        """Settings of compaction_thrash."""

        min_summaries: int = Field(3, ge=2, description="Summaries in a row.")
        max_steps: int = Field(2, ge=1, description="Requests of the agent between two of them.")
        max_share: float = Field(
            0.25, gt=0, le=1, description="Largest request between them, as a share of the model's context window."
        )

    settings: Settings

    def new_state(self) -> Recent[int, Compactions]:
        return Recent()

    def outlives(self, state: Recent[int, Compactions]) -> bool:
        return False  # it is about what follows in a row

    def observe(self, call: Call, state: Recent[int, Compactions]) -> Finding | None:
        summary = call.purpose == SUMMARY
        if (not summary and (not state or call.purpose is not None)) or call.status != "ok":
            return None
        agent = mix(text_hash(call.root_id), call.around)
        row = state.get(agent)
        if not summary:
            if row is not None:
                row.steps += 1
                window = self.context.prices.context_window(call.model, call.provider)
                row.guessed |= window is None
                row.share = max(row.share, call.usage.input_tokens / (window or ASSUMED_WINDOW))
                if row.steps > self.settings.max_steps or row.share > self.settings.max_share:
                    del state[agent]
            return None
        if row is None:
            state[agent] = Compactions()
            state.limit(MAX_AGENTS)
            return None
        state.touch(agent)
        row.count += row.steps > 0
        row.steps = 0
        row.unclaimed.append((call.id, call.ended_at - call.started_at))
        del row.unclaimed[:-MAX_UNCLAIMED]
        if row.count < self.settings.min_summaries:
            return None
        unclaimed, row.unclaimed = row.unclaimed, []
        return Finding(
            agent,
            f"The history was summed up {row.count} times in a row, at most {self.settings.max_steps} requests of the "
            f"agent apart, though these filled no more than {row.share:.0%} of the context window.",
            claims=tuple(Claim(i) for i, _ in unclaimed),
            calls=tuple(i for i, _ in unclaimed),
            seconds=sum(seconds for _, seconds in unclaimed),
            severity="medium",
            confidence=0.6 if row.guessed else 0.9,
            evidence={"summaries": row.count, "largest_share": round(row.share, 3)},
        )
