"""`embedding_waste`: the same text embedded again."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.fingerprint import mix, name_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from ts_langchain.call import Call, Kind

MAX_TEXTS = 512
MAX_TEXTS_IDLE = 24


class EmbeddingWaste(Rule["Recent[int, int]"]):
    """A text that was already embedded is embedded again with the same model.

    Fires when a text has been embedded `min_calls` times in a session.

    Does not fire on: many different texts; the same text with another model; a text that 512 others have followed,
    since the newest 512 of a session are remembered: of a large corpus embedded again the figure is a lower bound.

    Wasted: the tokens of the repeated texts, as their share of the call's input.
    """

    name = "embedding_waste"
    specificity = 60
    kinds: ClassVar[frozenset[Kind]] = frozenset({"embedding"})
    suggestion = "Cache embeddings (langchain.embeddings.CacheBackedEmbeddings)."

    class Settings(RuleSettings):
        """Settings of embedding_waste."""

        min_calls: int = Field(2, ge=2, description="Times a text is embedded until it is reported.")

    settings: Settings

    def new_state(self) -> Recent[int, int]:
        return Recent()

    def shrink(self, state: Recent[int, int]) -> None:
        state.limit(MAX_TEXTS_IDLE)

    def observe(self, call: Call, state: Recent[int, int]) -> Finding | None:
        if call.status != "ok" or not call.items:
            return None
        model = name_hash(call.model or call.name)
        sizes = call.item_tokens or (1,) * len(call.items)
        repeated = again = 0
        for item, size in zip(call.items, sizes, strict=True):
            key = mix(model, item)
            count = state[key] = state.pop(key, 0) + 1
            if count >= self.settings.min_calls:
                again += 1
                repeated += size
        state.limit(MAX_TEXTS)
        if not again:
            return None
        tokens = call.usage.input_tokens * repeated // max(1, sum(sizes))
        return Finding(
            model,
            f"{again} of {len(call.items)} texts had been embedded before with {call.model or call.name}.",
            claims=(Claim(call.id, "call", tokens, 0),),
            calls=(call.id,),
            seconds=call.ended_at - call.started_at if again == len(call.items) else 0.0,
            severity="low",
            confidence=0.95,
            evidence={
                "model": call.model,
                "texts": len(call.items),
                "repeated_texts": again,
                "usage_estimated": call.usage.estimated,
            },
        )
