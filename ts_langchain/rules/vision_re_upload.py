"""`vision_re_upload`: the same image is sent anew, call after call."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.call import Feature
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings
from ts_langchain.rules.parts import image_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Image, Kind, Prompt

MAX_IMAGES = 24
MAX_UNCLAIMED = 6


class VisionReUpload(Rule["Recent[int, tuple[int, float, tuple[tuple[str, int], ...]]]"]):
    """An image that the session has sent before is put into a new message, or into a new conversation, again.

    Fires at the `min_uploads`-th time the same image appears in messages that are new, each within `window_seconds`
    of the time before.

    Does not fire on: an image that is carried along in the history of a conversation, as chat APIs demand; different
    images; one beside a new one, in a request that carries no others along, as to compare each photo with the same
    reference; an input most of which the provider read from its cache.

    Wasted: the image's tokens, all but the first time: estimated, and no more than its share of the input.
    """

    name = "vision_re_upload"
    specificity = 28
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    needs = Feature.IMAGES
    suggestion = "Refer to the image that is already in the conversation, or ask all questions about it at once."
    thresholds: ClassVar[Mapping[str, str]] = {"min_uploads": "uploads"}

    class Settings(RuleSettings):
        """Settings of vision_re_upload."""

        min_uploads: int = Field(3, ge=2, description="Times the same image is sent anew.")
        window_seconds: PositiveFloat = Field(300, description="Event time between one and the next.")

    settings: Settings

    def new_state(self) -> Recent[int, tuple[int, float, tuple[tuple[str, int], ...]]]:
        return Recent()

    def shrink(self, state: Recent[int, tuple[int, float, tuple[tuple[str, int], ...]]]) -> None:
        state.clear()

    def observe(self, call: Call, state: Recent[int, tuple[int, float, tuple[tuple[str, int], ...]]]) -> Finding | None:
        prompt, s = call.prompt, self.settings
        if prompt is None or not prompt.images or call.status != "ok":
            return None
        cached = call.usage.cache_read_tokens * 2 > call.usage.input_tokens
        if _compares(prompt, state):
            for image in prompt.images:
                state.setdefault(image.digest, (1, call.ended_at, ()))
            state.limit(MAX_IMAGES)
            return None
        again: list[tuple[Image, int]] = []
        wasted: dict[str, int] = {}
        for image in dict.fromkeys(prompt.images):
            count, last, unclaimed = state.pop(image.digest, (0, 0.0, ()))
            if call.started_at - last > s.window_seconds or prompt.broke_at > 0:
                count, unclaimed = 0, ()
            count += 1
            if count > 1 and not cached:
                unclaimed = (*unclaimed, (call.id, image_of(call, image)))[-MAX_UNCLAIMED:]
            fires = count >= s.min_uploads and bool(unclaimed)
            state[image.digest] = (count, call.ended_at, () if fires else unclaimed)
            if fires:
                again.append((image, count))
                for call_id, tokens in unclaimed:
                    wasted[call_id] = wasted.get(call_id, 0) + tokens
        state.limit(MAX_IMAGES)
        if not again:
            return None
        (image, count), number = again[0], len(again)
        return Finding(
            image.digest,
            f"The same {'image was' if number == 1 else f'{number} images were'} sent anew {count} times.",
            claims=tuple(Claim(i, "fresh", tokens, 0) for i, tokens in wasted.items()),
            calls=tuple(wasted),
            severity="medium",
            confidence=0.9,
            evidence={
                "uploads": count,
                "image_tokens": sum(one.tokens for one, _ in again),
                "tokens_estimated": True,
            },
        )


def _compares(prompt: Prompt, known: Recent[int, tuple[int, float, tuple[tuple[str, int], ...]]]) -> bool:
    """True if one of the images is new and none is in the history: it could not be referred to there."""
    return prompt.image_tokens <= sum(image.tokens for image in prompt.images) and any(
        image.digest not in known for image in prompt.images
    )
