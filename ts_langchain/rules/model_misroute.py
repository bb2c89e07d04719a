"""`model_misroute`: a yes/no question to a frontier model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.call import Feature
from ts_langchain.fingerprint import name_hash
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind


class ModelMisroute(Rule["list[int]"]):
    """A classification-shaped request goes to an expensive model.

    Fires when a request of at most `max_input_tokens` is worded as a classification (classify, which category,
    yes or no, true or false, rate from 1), is answered in at most `max_output_tokens`, without tools, and the
    model's input price is at least `frontier_usd` per million tokens.

    Does not fire on: cheap models; models without a known price; requests with tools, or of more than
    four messages.

    Wasted: dollars, not tokens: the part of the price above `cheap_usd` per million input tokens, the price of
    a small model that does this well.
    """

    name = "model_misroute"
    specificity = 15
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    needs = Feature.CLASSIFICATION
    suggestion = "Send this question to a small model."
    thresholds: ClassVar[Mapping[str, str]] = {"frontier_usd": "input_usd_per_million"}

    class Settings(RuleSettings):
        """Settings of model_misroute."""

        max_input_tokens: int = Field(500, gt=0, description="Longest request.")
        max_output_tokens: int = Field(50, gt=0, description="Longest answer.")
        frontier_usd: float = Field(
            1.25, gt=0, description="USD per million input tokens from which a model counts as expensive."
        )
        cheap_usd: float = Field(
            0.15,
            ge=0,
            description="USD per million input tokens of a model that would do (gpt-4o-mini's price).",
        )

    settings: Settings

    def new_state(self) -> list[int]:
        return [0, 0, 1]  # requests, the model of the last one, whether all went there

    def observe(self, call: Call, state: list[int]) -> Finding | None:
        prompt, usage, s = call.prompt, call.usage, self.settings
        if (
            prompt is None
            or call.status != "ok"
            or call.tool_calls
            or call.toolset is not None
            or usage.input_tokens > s.max_input_tokens
            or usage.output_tokens - usage.reasoning_tokens > s.max_output_tokens
        ):
            return None
        rates = self.context.prices.rates(call.model, call.provider, call.started_at, usage.input_tokens, call.tier)
        if rates is None or rates.input < s.frontier_usd:
            return None
        model = name_hash(call.model or "")
        state[:] = state[0] + 1, model, state[2] and state[1] in (0, model)
        where = "went to" if state[2] else "went to several models, the last of them to"
        return Finding(
            0,
            f"{state[0]} classification-shaped request{'s' if state[0] > 1 else ''} {where} {call.model} "
            f"(${rates.input:g} per million input tokens).",
            claims=(Claim(call.id, rate=max(0.0, 1 - s.cheap_usd / rates.input)),),
            calls=(call.id,),
            severity="low",
            confidence=0.7,
            evidence={
                "model": call.model,
                "requests": state[0],
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "input_usd_per_million": rates.input,
            },
        )
