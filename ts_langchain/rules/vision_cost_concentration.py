"""`vision_cost_concentration`: images are nearly all that is paid for, and the answers are tiny."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.call import Feature
from ts_langchain.rules.base import Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind


class VisionCostConcentration(Rule["list[int]"]):
    """Images dominate the input of many calls, and little comes out.

    Fires at the `min_calls`-th model call of a session in which images are at least `min_share` of the input
    (estimated) and the answer has fewer than `max_output_tokens`.

    Does not fire on: text around the images; long answers; a few calls.

    Wasted: nothing is claimed. Whether the images were needed nobody can tell from outside; the incident shows where
    the money goes.
    """

    name = "vision_cost_concentration"
    specificity = 5
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    needs = Feature.IMAGES
    suggestion = "Scale images down, crop them, or let a cheaper vision model look first."
    thresholds: ClassVar[Mapping[str, str]] = {"min_calls": "calls"}

    class Settings(RuleSettings):
        """Settings of vision_cost_concentration."""

        min_calls: int = Field(5, ge=1, description="Calls of this kind in a session.")
        min_share: float = Field(0.8, gt=0, le=1, description="Share of the input that images take.")
        max_output_tokens: int = Field(50, gt=0, description="Answers shorter than this are tiny.")

    settings: Settings

    def new_state(self) -> list[int]:
        return [0]

    def observe(self, call: Call, state: list[int]) -> Finding | None:
        prompt, usage, s = call.prompt, call.usage, self.settings
        if prompt is None or not prompt.image_tokens or call.status != "ok" or call.tool_calls:
            return None
        text = -(-prompt.chars // 4)
        share = prompt.image_tokens / (prompt.image_tokens + text)
        if share < s.min_share or usage.output_tokens - usage.reasoning_tokens >= s.max_output_tokens:
            return None
        state[0] += 1
        if state[0] < s.min_calls:
            return None
        return Finding(
            0,
            f"Images were {share:.0%} of the input of {state[0]} calls with tiny answers.",
            calls=(call.id,),
            severity="low",
            confidence=0.6,
            evidence={
                "calls": state[0],
                "image_tokens": prompt.image_tokens,
                "image_share": round(share, 3),
                "output_tokens": usage.output_tokens,
                "tokens_estimated": True,
            },
        )
