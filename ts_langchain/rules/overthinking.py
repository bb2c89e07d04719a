"""`overthinking`: much reasoning for a trivial answer, again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.call import Feature
from ts_langchain.fingerprint import name_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_MODELS = 4
MAX_UNCLAIMED = 6


class Overthinking(Rule["Recent[int, tuple[int, tuple[tuple[str, int], ...]]]"]):
    """A model reasons at length before answers of a few words.

    Fires at the `min_calls`-th call of one model in a session that spent at least `min_reasoning_tokens` on
    reasoning, at least `min_ratio` times what its visible answer took, for a short request (at most
    `max_input_tokens`) and a short answer (at most `max_answer_tokens`) without tool calls.

    Does not fire on: long requests; long answers; models that do not report reasoning; a single such call. That a short
    request is hard, as a riddle or a sum is, nobody can tell from outside: exempt such nodes or sessions.

    Wasted: the reasoning beyond `allowed_reasoning_tokens`.
    """

    name = "overthinking"
    specificity = 18
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    needs = Feature.REASONING
    suggestion = "Lower the reasoning effort for this step, or send it to a model that does not reason."
    thresholds: ClassVar[Mapping[str, str]] = {"min_calls": "calls", "min_reasoning_tokens": "reasoning_tokens"}

    class Settings(RuleSettings):
        """Settings of overthinking."""

        min_calls: int = Field(3, ge=1, description="Calls of this kind in a session.")
        min_reasoning_tokens: int = Field(1_000, gt=0, description="Reasoning that counts as much.")
        min_ratio: float = Field(20.0, gt=1, description="Reasoning tokens per visible output token.")
        max_answer_tokens: int = Field(50, gt=0, description="Longest visible answer that counts as trivial.")
        max_input_tokens: int = Field(1_000, gt=0, description="Longest request that counts as simple.")
        allowed_reasoning_tokens: int = Field(256, ge=0, description="Reasoning that is never called waste.")

    settings: Settings

    def new_state(self) -> Recent[int, tuple[int, tuple[tuple[str, int], ...]]]:
        return Recent()

    def observe(self, call: Call, state: Recent[int, tuple[int, tuple[tuple[str, int], ...]]]) -> Finding | None:
        s, usage = self.settings, call.usage
        visible = usage.output_tokens - usage.reasoning_tokens
        if (
            usage.reasoning_tokens < s.min_reasoning_tokens
            or call.status != "ok"
            or call.tool_calls
            or visible > s.max_answer_tokens
            or usage.input_tokens > s.max_input_tokens
            or usage.reasoning_tokens < s.min_ratio * max(1, visible)
        ):
            return None
        model = name_hash(call.model or call.name)
        count, unclaimed = state.pop(model, (0, ()))
        count += 1
        unclaimed = (*unclaimed, (call.id, usage.reasoning_tokens - s.allowed_reasoning_tokens))[-MAX_UNCLAIMED:]
        fires = count >= s.min_calls
        state[model] = (count, () if fires else unclaimed)
        state.limit(MAX_MODELS)
        if not fires:
            return None
        return Finding(
            model,
            f"{call.model or call.name} reasoned for {usage.reasoning_tokens:,} tokens before an answer of "
            f"{visible} tokens; {count} calls like this.",
            claims=tuple(Claim(i, "call", 0, max(0, tokens)) for i, tokens in unclaimed),
            calls=tuple(i for i, _ in unclaimed),
            severity="low",
            confidence=0.75,
            evidence={
                "model": call.model,
                "calls": count,
                "reasoning_tokens": usage.reasoning_tokens,
                "visible_tokens": visible,
            },
        )
