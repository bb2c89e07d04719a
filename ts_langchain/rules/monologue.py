"""`monologue`: the model repeats itself, and nobody has said anything in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind
    from ts_langchain.fingerprint import FreeText

MAX_UNCLAIMED = 8


class Speech:
    """What the model said last, of its own accord."""

    __slots__ = ("answer", "branch", "count", "text", "unclaimed")

    def __init__(self) -> None:
        self.branch = 0
        self.answer = 0
        self.text: FreeText | None = None
        self.count = 1
        self.unclaimed: list[tuple[str, float]] = []


class Monologue(Rule[Speech]):
    """The model is asked again with its own message last, and says the same again.

    Fires when `min_messages` messages of the model in a row say the same (word for word, or with a word-set
    similarity of `similarity`) on one branch, and the last message of each request was the model's own: neither
    a user nor a tool has spoken. Asking for tools that nobody answers is saying, too.

    Does not fire on: an answer that goes on where it was cut off; different messages; a user who asks the same
    again (`repair_loop`); requests whose past differs, as of rows that all end with words for the model to go on with.

    Wasted: the calls of all messages but the first.
    """

    name = "monologue"
    specificity = 35
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    suggestion = "End the turn once the model has answered; ask it again only with something new."
    thresholds: ClassVar[Mapping[str, str]] = {"min_messages": "messages"}

    class Settings(RuleSettings):
        """Settings of monologue."""

        block: bool = Field(True, description="In mode `block`: veto the next model call while it lasts.")
        min_messages: int = Field(3, ge=2, description="Messages that say the same.")
        similarity: float = Field(0.85, ge=0, le=1, description="Word-set similarity that counts as the same.")

    settings: Settings

    def new_state(self) -> Speech:
        return Speech()

    def outlives(self, state: Speech) -> bool:
        return False  # it is about what follows in a row

    def observe(self, call: Call, state: Speech) -> Finding | None:
        prompt = call.prompt
        if prompt is None or call.status != "ok" or not (call.tool_calls or call.answer_chars):
            return None
        alone = prompt.last_role == "ai" and prompt.branch == state.branch and prompt.broke_at < 0
        text = None if call.tool_calls else call.answer_text  # words beside tool calls do not tell these apart
        same = alone and (call.answer == state.answer or self._alike(text, state.text))
        state.branch, state.answer, state.text = prompt.branch, call.answer, text
        if not same:
            state.count = 1
            state.unclaimed.clear()
            return None
        state.count += 1
        state.unclaimed.append((call.id, call.ended_at - call.started_at))
        del state.unclaimed[:-MAX_UNCLAIMED]
        if state.count < self.settings.min_messages:
            return None
        unclaimed, state.unclaimed = state.unclaimed, []
        did = "asked for the same tool calls" if call.tool_calls else "said the same"
        return Finding(
            prompt.branch,
            f"The model {did} {state.count} times in a row, with no user or tool in between.",
            claims=tuple(Claim(i) for i, _ in unclaimed),
            calls=tuple(i for i, _ in unclaimed),
            seconds=sum(seconds for _, seconds in unclaimed),
            severity="high",
            confidence=0.93,
            evidence={"messages": state.count, "answer_chars": call.answer_chars},
        )

    def _alike(self, text: FreeText | None, before: FreeText | None) -> bool:
        return text is not None and before is not None and text.similarity(before) >= self.settings.similarity
