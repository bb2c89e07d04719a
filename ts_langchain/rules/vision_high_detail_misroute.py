"""`vision_high_detail_misroute`: an image is read in high detail to answer a question of one word."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.call import Feature
from ts_langchain.capture.images import LOW_DETAIL_TOKENS
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from ts_langchain.call import Call, Kind

PROVIDERS = frozenset({"openai", "azure", "azure_openai", "openrouter"})
VENDORS = frozenset({"", "openai", "azure"})
MAX_UNCLAIMED = 6


class VisionHighDetailMisroute(Rule["list[tuple[str, int]]"]):
    """A classification-shaped question about an image pays for high detail.

    Fires at the `min_calls`-th request of a session that is worded as a classification (classify, which category,
    yes or no, ...), shows an image in OpenAI's high detail (asked for, `auto`, or not said), and is answered in at
    most `max_output_tokens`.

    Does not fire on: low detail; questions that need to read the image (no classification wording); long answers;
    providers and models without a choice of detail.

    Wasted: the image's estimated tokens beyond those of low detail (85).
    """

    name = "vision_high_detail_misroute"
    specificity = 26
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    needs = Feature.IMAGES | Feature.CLASSIFICATION
    suggestion = "Set detail to low for questions that need no small print."

    class Settings(RuleSettings):
        """Settings of vision_high_detail_misroute."""

        min_calls: int = Field(2, ge=1, description="Requests of this kind in a session.")
        max_output_tokens: int = Field(50, gt=0, description="Longest answer.")

    settings: Settings

    def new_state(self) -> list[tuple[str, int]]:
        return []

    def shrink(self, state: list[tuple[str, int]]) -> None:
        state.clear()

    def observe(self, call: Call, state: list[tuple[str, int]]) -> Finding | None:
        prompt, usage, s = call.prompt, call.usage, self.settings
        if (
            prompt is None
            or call.status != "ok"
            or call.tool_calls
            or usage.output_tokens - usage.reasoning_tokens > s.max_output_tokens
            or (call.provider is not None and call.provider.lower() not in PROVIDERS)
            or not _offers_detail(call.model)
        ):
            return None
        extra = sum(i.tokens - LOW_DETAIL_TOKENS for i in prompt.images if i.high)
        if extra <= 0:
            return None
        state.append((call.id, extra))
        if len(state) < s.min_calls:
            return None
        claimed = state[-MAX_UNCLAIMED:] if len(state) == s.min_calls else state[-1:]
        del state[: -s.min_calls]
        return Finding(
            0,
            f"Classification-shaped questions about images were asked {call.model or call.name} in high detail.",
            claims=tuple(Claim(i, "fresh", tokens, 0) for i, tokens in claimed),
            calls=tuple(i for i, _ in claimed),
            severity="low",
            confidence=0.7,
            evidence={"model": call.model, "image_tokens": prompt.image_tokens, "tokens_estimated": True},
        )


def _offers_detail(model: str | None) -> bool:
    """True unless the name says that the model is another vendor's, behind a gateway."""
    path, _, name = (model or "").rpartition("/")
    return path.rpartition("/")[2] in VENDORS and not name.startswith(("claude", "gemini"))
