"""`context_bloat`: each turn drags more context along than the last."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from ts_langchain.fingerprint import mix
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings
from ts_langchain.rules.parts import input_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_BRANCHES = 4
# What a cached token costs at most, relative to an uncached one, with the providers that cache (OpenAI 0.1 to
# 0.5, Anthropic 0.1, Google 0.1 to 0.25): the share of it that still weighs.
CACHED_WEIGHT = 0.25


class ContextBloat(Rule["Recent[int, tuple[int, ...]]"]):
    """The input of one line of conversation grows turn over turn until it weighs.

    Fires when the input tokens of the last `turns` model calls of one conversation branch (at least `min_turns`
    of them) grow by `min_slope` tokens a turn (least squares), and the input fills at least `min_share` of
    the model's context window or `min_tokens` tokens, cached tokens counting a quarter.

    Does not fire on: a small context that grows; a large one that is steady; growth that is read from the
    provider's cache; calls of other branches (sub-agents) in between.

    Wasted: what is provably dead weight: long messages that stand in the prompt more than once, and tool
    results superseded by a newer answer to the same call; in tokens, as their share of what was sent: messages, tool
    definitions and images. Growth alone is no waste: without dead weight the incident shows 0 tokens.
    """

    name = "context_bloat"
    specificity = 20
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    suggestion = "Clear old tool results (context editing), summarise, or start a new thread."
    thresholds: ClassVar[Mapping[str, str]] = {"min_slope": "slope_tokens"}

    class Settings(RuleSettings):
        """Settings of context_bloat."""

        turns: int = Field(10, ge=3, description="Turns looked at.")
        min_turns: int = Field(5, ge=3, description="Turns needed.")
        min_slope: float = Field(1500, gt=0, description="Growth in tokens per turn.")
        min_share: float = Field(0.25, gt=0, le=1, description="Share of the model's context window in use.")
        min_tokens: int = Field(50_000, gt=0, description="Input tokens that weigh whatever the window.")

        @model_validator(mode="after")
        def _can_be_reached(self) -> Self:
            if self.min_turns > self.turns:
                msg = f"min_turns ({self.min_turns}) is more than turns ({self.turns}): it would never fire"
                raise ValueError(msg)
            return self

    settings: Settings

    def new_state(self) -> Recent[int, tuple[int, ...]]:
        return Recent()

    def observe(self, call: Call, state: Recent[int, tuple[int, ...]]) -> Finding | None:
        prompt, usage = call.prompt, call.usage
        if prompt is None or call.status != "ok" or not usage.input_tokens:
            return None
        s = self.settings
        branch = prompt.branch
        turns = state[branch] = (*state.get(branch, ()), usage.input_tokens)[-s.turns :]
        state.touch(branch)
        state.limit(MAX_BRANCHES)
        if len(turns) < s.min_turns:
            return None
        weight = usage.input_tokens - (1 - CACHED_WEIGHT) * usage.cache_read_tokens
        window = self.context.prices.context_window(call.model, call.provider)
        if weight < s.min_tokens and not (window and weight >= s.min_share * window):
            return None
        slope = _slope(turns)
        if slope < s.min_slope:
            return None
        tokens = input_of(call, prompt.repeated_chars)
        dead = tokens / usage.input_tokens
        share = f", {usage.input_tokens / window:.0%} of the context window" if window else ""
        return Finding(
            mix(branch),
            f"The input grew by {slope:,.0f} tokens a turn to {usage.input_tokens:,}{share}; "
            f"{dead:.0%} of it is repeated or superseded.",
            claims=(Claim(call.id, "context", tokens, 0),) if tokens else (),
            calls=(call.id,),
            severity="medium" if dead >= 0.1 else "low",
            confidence=0.9 if dead >= 0.1 else 0.6,
            evidence={
                "turns": len(turns),
                "slope_tokens": round(slope),
                "input_tokens": usage.input_tokens,
                "cache_read_tokens": usage.cache_read_tokens,
                "context_window": window,
                "repeated_share": round(dead, 3),
                "tool_result_share": round(prompt.tool_result_chars / prompt.chars, 3) if prompt.chars else 0.0,
                "usage_estimated": usage.estimated,
            },
        )


def _slope(values: tuple[int, ...]) -> float:
    """Least-squares slope over 0, 1, 2, …"""
    n = len(values)
    mean_x = (n - 1) / 2
    mean_y = sum(values) / n
    return sum((x - mean_x) * (y - mean_y) for x, y in enumerate(values)) / (n * (n * n - 1) / 12)
