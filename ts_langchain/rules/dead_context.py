"""`dead_context`: a large tool result is carried along, call after call, and nothing of it is ever used."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.call import Feature
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings
from ts_langchain.rules.parts import input_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind


class DeadContext(Rule["list[int]"]):
    """Large tool results go along with every call, and no answer or tool call has used anything they name.

    Fires once a request carries tool results of together at least `min_chars` characters and `min_share` of the
    input, each of which has been in the conversation for five turns of the model without anything the model wrote
    naming something that stands in it (names, numbers, long words; in its messages or in arguments of tool calls).

    Does not fire on: results that were used once; small ones; the newest ones. A result that answers by its mere
    existence ("nothing found") is small.

    Wasted: the share of the input that these results take, from that call on.
    """

    name = "dead_context"
    specificity = 19
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    needs = Feature.UNUSED
    suggestion = "Let the tool return less, or clear results that were not needed (context editing)."
    thresholds: ClassVar[Mapping[str, str]] = {"min_chars": "unused_chars"}

    class Settings(RuleSettings):
        """Settings of dead_context."""

        min_chars: int = Field(8_000, gt=0, description="Characters of unused results.")
        min_share: float = Field(0.2, gt=0, le=1, description="Their share of the input.")

    settings: Settings

    def new_state(self) -> list[int]:
        return [0]

    def observe(self, call: Call, state: list[int]) -> Finding | None:
        prompt, usage, s = call.prompt, call.usage, self.settings
        if prompt is None or call.status != "ok" or prompt.unused_chars < s.min_chars:
            return None
        tokens = input_of(call, prompt.unused_chars)
        share = tokens / max(1, usage.input_tokens)
        if share < s.min_share or not tokens:
            return None
        state[0] += 1
        return Finding(
            prompt.branch,
            f"Tool results of {prompt.unused_chars:,} characters, {share:.0%} of the input, went along with "
            f"{state[0]} {'call' if state[0] == 1 else 'calls'}, and nothing of them was used.",
            claims=(Claim(call.id, "context", tokens, 0),),
            calls=(call.id,),
            severity="medium" if share >= 0.5 else "low",
            confidence=0.65,
            evidence={"calls": state[0], "unused_chars": prompt.unused_chars, "share": round(share, 3)},
        )
