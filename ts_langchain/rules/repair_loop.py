"""`repair_loop`: the user corrects the agent, and the agent gives the same answer again."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.call import Feature
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind
    from ts_langchain.fingerprint import FreeText

MAX_BRANCHES = 2
MAX_UNCLAIMED = 4


class Answers:
    """The latest answer to a user, and how often it has been given."""

    __slots__ = ("answer", "asked", "at", "chars", "corrections", "text", "unclaimed")

    def __init__(self) -> None:
        self.answer = 0
        self.at = 0.0
        self.chars = 0
        self.asked = 0
        self.text: FreeText | None = None
        self.corrections = 0
        self.unclaimed: list[tuple[str, float]] = []


class RepairLoop(Rule["Recent[int, Answers]"]):
    """The user writes back something short, and gets the answer that had just been given.

    Fires when `min_corrections` user messages in a row, each shorter than `max_share` of the answer before it and
    written within `window_seconds` of event time behind it, were answered the same as before: word for word, or with a
    word-set similarity of `similarity` and the same numbers, names and quotes.

    Does not fire on: a customer who changes a booking and is obeyed, since dates and numbers differ; long new
    questions; the same greeting on another day; short stock answers below `min_chars`; words such as no or actually,
    which are looked at by nobody.

    Wasted: the calls that gave the same answer again.
    """

    name = "repair_loop"
    specificity = 33
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    needs = Feature.WORDS
    suggestion = "Let the agent ask what is wrong, change its prompt or model, or hand over to a person."
    thresholds: ClassVar[Mapping[str, str]] = {"min_corrections": "corrections"}

    class Settings(RuleSettings):
        """Settings of repair_loop."""

        min_corrections: int = Field(2, ge=1, description="Corrections answered the same in a row.")
        max_share: float = Field(0.8, gt=0, description="Longest correction, as a share of the answer before it.")
        window_seconds: PositiveFloat = Field(1800, description="Event time in which the user writes back.")
        min_chars: int = Field(40, ge=0, description="Shorter answers are stock phrases and do not count.")
        similarity: float = Field(0.85, ge=0, le=1, description="Word-set similarity that counts as the same answer.")

    settings: Settings

    def new_state(self) -> Recent[int, Answers]:
        return Recent()

    def shrink(self, state: Recent[int, Answers]) -> None:
        state.limit(1)
        for answers in state.values():
            answers.unclaimed.clear()

    def observe(self, call: Call, state: Recent[int, Answers]) -> Finding | None:
        prompt, s = call.prompt, self.settings
        if prompt is None or call.status != "ok" or call.tool_calls or call.answer_text is None:
            return None
        before = state.pop(prompt.branch, None)
        now = state[prompt.branch] = before or Answers()
        state.limit(MAX_BRANCHES)
        short = prompt.last_role == "human" and prompt.last_chars < s.max_share * now.chars
        soon = call.started_at - now.at <= s.window_seconds
        long_enough = call.answer_chars >= s.min_chars
        same = call.answer == now.answer or (
            now.text is not None and call.answer_text.similarity(now.text) >= s.similarity
        )
        if before is not None and short and soon and long_enough and same and prompt.messages > now.asked:
            now.corrections += 1
            now.unclaimed.append((call.id, call.ended_at - call.started_at))
            del now.unclaimed[:-MAX_UNCLAIMED]
        else:
            now.corrections = 0
            now.unclaimed.clear()
        now.at = call.ended_at
        now.answer, now.chars, now.text, now.asked = call.answer, call.answer_chars, call.answer_text, prompt.messages
        if now.corrections < s.min_corrections:
            return None
        unclaimed, now.unclaimed = now.unclaimed, []
        return Finding(
            prompt.branch,
            f"The user wrote back {now.corrections} times and got the same answer again each time.",
            claims=tuple(Claim(i) for i, _ in unclaimed),
            calls=tuple(i for i, _ in unclaimed),
            seconds=sum(seconds for _, seconds in unclaimed),
            severity="medium",
            confidence=0.85,
            evidence={"corrections": now.corrections, "answer_chars": call.answer_chars},
        )
