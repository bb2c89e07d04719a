"""`cache_miss`: a long prompt begins like the one before, and the provider reads nothing of it from its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings
from ts_langchain.rules.parts import input_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_BRANCHES = 3


class Prefix:
    """Calls in a row on one branch that could have read their beginning from the cache."""

    __slots__ = ("chars", "ended_at", "model", "tools", "uncached", "unclaimed")

    def __init__(self) -> None:
        self.chars = 0
        self.ended_at = 0.0
        self.model = ""
        self.tools = 0
        self.uncached = 0
        self.unclaimed: list[tuple[str, int, float]] = []


class CacheMiss(Rule["Recent[int, Prefix]"]):
    """A model that has prompt caching is sent the same long beginning again and again, and caches nothing.

    Fires at the `min_calls`-th call in a row, each within `window_seconds` of the one before on the same branch (or in
    another conversation of the session under the same system message) and model, whose opening messages were the same
    as in the call before for at least `min_tokens` tokens (or would have been, had not an early message been
    rewritten), and whose reported usage shows no cache read. The evidence says where the prefix broke: at which
    message, or at the tools.

    Does not fire on: models whose price list knows no price for cached input; usage that is estimated; caches that
    are read; beginnings shorter than providers cache (1024 to 2048 tokens).

    Wasted: dollars, not tokens: what reading these tokens from the cache would have been cheaper.
    """

    name = "cache_miss"
    specificity = 12
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    suggestion = "Keep the beginning of the prompt the same (no timestamp, fixed order of tools), and set cache points."
    thresholds: ClassVar[Mapping[str, str]] = {"min_calls": "calls", "min_tokens": "prefix_tokens"}

    class Settings(RuleSettings):
        """Settings of cache_miss."""

        min_calls: int = Field(3, ge=1, description="Calls in a row.")
        min_tokens: int = Field(2_048, gt=0, description="Tokens of the common beginning.")
        window_seconds: PositiveFloat = Field(300, description="How long providers keep a prefix.")

    settings: Settings

    def new_state(self) -> Recent[int, Prefix]:
        return Recent()

    def shrink(self, state: Recent[int, Prefix]) -> None:
        state.clear()

    def observe(self, call: Call, state: Recent[int, Prefix]) -> Finding | None:
        prompt, usage, s = call.prompt, call.usage, self.settings
        if prompt is None or call.status != "ok" or usage.estimated or not usage.input_tokens or not call.model:
            return None
        # under a system message that changes, the branch changes too, and under one that stays where the conversation
        # is another: then the newest branch is the one before
        before = state.pop(prompt.branch, None)
        goes_on = before is not None or prompt.broke_at == 0
        if before is None and (prompt.broke_at == 0 or prompt.carried_chars) and state:
            before = state.pop(next(reversed(state)))
        now = state[prompt.branch] = before or Prefix()
        state.limit(MAX_BRANCHES)
        tools = call.toolset.fingerprint if call.toolset is not None else 0
        could = self._could(call, now, tools, goes_on=goes_on)
        moved = before is not None and now.tools != tools
        chars, now.chars = now.chars, prompt.chars
        now.ended_at, now.model, now.tools = call.ended_at, call.model, tools
        if before is None or could is None or usage.cache_read_tokens:
            now.uncached = 0
            now.unclaimed.clear()
            return None
        tokens, rate = could
        now.uncached += 1
        now.unclaimed.append((call.id, tokens, rate))
        del now.unclaimed[:-8]
        if now.uncached < s.min_calls:
            return None
        unclaimed, now.unclaimed = now.unclaimed, []
        broke = (
            f"; it broke at message {prompt.broke_at}"
            if prompt.broke_at >= 0
            else "; the tools changed"
            if moved
            else ""
        )
        return Finding(
            0,
            f"{now.uncached} calls in a row to {call.model} began with the same {tokens:,} tokens and read none of "
            f"them from the cache{broke}.",
            claims=tuple(Claim(i, "call", t, 0, rate=r) for i, t, r in unclaimed),
            calls=tuple(i for i, _, _ in unclaimed),
            severity="low" if prompt.broke_at < 0 and not moved else "medium",
            confidence=0.8,
            evidence={
                "model": call.model,
                "calls": now.uncached,
                "prefix_tokens": tokens,
                "broke_at_message": prompt.broke_at if prompt.broke_at >= 0 else None,
                "tools_changed": moved,
                "chars_before": chars,
            },
        )

    def _could(self, call: Call, now: Prefix, tools: int, *, goes_on: bool) -> tuple[int, float] | None:
        """Tokens that could have been read from the cache, and the share of their price that would have saved.

        Tools stand at the very beginning. The images of a conversation that goes on have been sent before, but for
        those that are new.
        """
        prompt, usage, s = call.prompt, call.usage, self.settings
        assert prompt is not None  # noqa: S101 - `observe` has looked
        if now.model != call.model or not 0 <= call.started_at - now.ended_at <= s.window_seconds or not prompt.chars:
            return None
        # a prompt that broke could have kept what it now shares with the one before anywhere: at most that one
        common = prompt.carried_chars if prompt.broke_at < 0 else min(now.chars, prompt.chars)
        definitions = call.toolset.total_bytes if call.toolset is not None and now.tools == tools else 0
        shown = prompt.image_tokens - sum(i.tokens for i in prompt.images) if goes_on else 0
        tokens = input_of(call, common, definitions, max(0, shown))
        if tokens < s.min_tokens:
            return None
        rates = self.context.prices.rates(call.model, call.provider, call.started_at, usage.input_tokens, call.tier)
        if rates is None or rates.cache_read is None or rates.cache_read >= rates.input or not rates.input:
            return None
        return tokens, 1 - rates.cache_read / rates.input
