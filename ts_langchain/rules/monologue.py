"""`monologue`: the model repeats itself, and nobody has said anything in between."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.fingerprint import mix
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind
    from ts_langchain.fingerprint import FreeText

MAX_SPEAKERS = 3
MAX_KNOWN = 4
MAX_UNCLAIMED = 8
STOCK_CHARS = 20
"""Shorter answers (`Yes.`, `heads`) may well be right each time that somebody asks for another one."""
SILENT_TOKENS = 8
"""Tokens that an empty answer may be billed as."""
ANSWERED = 2
"""Messages that a prompt grows by where the model has answered and somebody has said one thing."""
UNHEARD = 1
"""Where its answer is not among the messages, as that of a supervisor which only says whose turn it is."""
PAUSED = "pause_turn"
"""Why an answer of Anthropic's ends that is to go on after tools of its own."""


class Speech:
    """What the model said last on one branch, of its own accord."""

    __slots__ = ("again", "answer", "count", "known", "last", "messages", "nudged", "text", "turn", "unclaimed")

    def __init__(self) -> None:
        self.turn = 0
        self.messages = self.last = 0  # of its request
        self.answer = 0
        self.text: FreeText | None = None
        self.known = array("q")  # what it said lately, and to what
        self.again = False
        self.count = 1
        self.nudged = False
        self.unclaimed: list[tuple[str, float]] = []


class Monologue(Rule["Recent[int, Speech]"]):
    """The model is asked again with nothing new behind its own message, and says the same again.

    Fires when `min_messages` messages of the model in a row say the same (word for word, or with a word-set similarity
    of `similarity`) on one branch, and the last message of each request was the model's own: neither a user nor a tool
    has spoken. Asking for tools that nobody answers is saying, too, and so is saying nothing. With severity medium also
    when one run puts the same words of a user behind it each time (`Please continue.`): it is code that says them, most
    likely, or in a model's; when two agents answer each other with the same words for ever (`Thank you!`, `Thank you,
    too!`); and when a supervisor sends the same worker again, or two in turn, and they say what they had said.

    Does not fire on: an answer that goes on where it was cut off; different messages; a user who asks the same again in
    another run (`repair_loop`), or gets `Yes.` each time; workers one of which says something new; a message of another
    agent's behind it, as where a supervisor hands work out; one request sent several times, to vote; the same question
    about the next page; requests whose past differs, as of rows that all end with words for the model to go on with.

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

    def new_state(self) -> Recent[int, Speech]:
        return Recent()

    def outlives(self, state: Recent[int, Speech]) -> bool:
        return False  # it is about what follows in a row

    def observe(self, call: Call, speakers: Recent[int, Speech]) -> Finding | None:
        prompt = call.prompt
        if prompt is None or call.status != "ok" or not call.answer or _is_unread(call):
            return None
        other = next(reversed(speakers.items()), None)  # who spoke before this one
        if other is not None and other[0] == prompt.branch:
            other = None
        before = speakers.pop(prompt.branch, None)
        state = speakers[prompt.branch] = before or Speech()
        speakers.limit(MAX_SPEAKERS)
        on = before is not None and prompt.broke_at < 0
        grown = prompt.messages - state.messages
        # another agent, or code in its name, has written a message of a model's: that is something new
        alone = (
            other is None and prompt.last_role == "ai" and grown > 0 and prompt.last in (0, state.last, state.answer)
        )
        # code that says the same each time in a model's name, and may have done something
        foreign = alone and prompt.last not in (0, state.answer)
        echoed = other is not None and other[1].again  # whoever spoke in between said nothing new, either
        step = hash(mix(prompt.last, call.answer))
        known = step in state.known  # a supervisor that sends one worker, then the other
        nudged = (
            (prompt.last_role == "human" if other is None else echoed)
            and prompt.last != 0
            and (prompt.last == state.last or (known and grown == UNHEARD))
            # of more, the rest is new: the next page, before the same question
            and (grown == ANSWERED or (grown == UNHEARD and echoed))
            and call.turn == state.turn
            and (call.answer_chars >= STOCK_CHARS or not call.answer_chars or echoed)
            # asked for in words, they are answered in a user's
            and (not call.tool_calls or grown == UNHEARD)
        )
        # words beside tool calls do not tell these apart, be they the provider's own
        text = None if call.tool_calls or call.finish_reason == PAUSED else call.answer_text
        said = call.answer == state.answer or self._alike(text, state.text)
        state.again = on and (said or known)
        same = state.again and ((alone and said) or nudged)
        if not known:
            state.known.append(step)
            del state.known[:-MAX_KNOWN]
        state.turn, state.messages, state.last = call.turn, prompt.messages, prompt.last
        state.answer, state.text = call.answer, text
        if not same:
            state.count, state.nudged = 1, False
            state.unclaimed.clear()
            return None
        state.count += 1
        state.nudged |= nudged or foreign
        state.unclaimed.append((call.id, call.ended_at - call.started_at))
        del state.unclaimed[:-MAX_UNCLAIMED]
        if state.count < self.settings.min_messages:
            return None
        unclaimed, state.unclaimed = state.unclaimed, []
        did = (
            "repeated itself"
            if not said
            else "asked for the same tool calls"
            if call.tool_calls
            else "said the same"
            if call.answer_chars
            else "said nothing"
        )
        between = "and got the same words back each time" if state.nudged else "with no user or tool in between"
        return Finding(
            prompt.branch,
            f"The model {did} {state.count} times in a row, {between}.",
            claims=tuple(Claim(i) for i, _ in unclaimed),
            calls=tuple(i for i, _ in unclaimed),
            seconds=sum(seconds for _, seconds in unclaimed),
            severity="medium" if state.nudged else "high",
            confidence=0.85 if state.nudged else 0.93,
            evidence={"messages": state.count, "answer_chars": call.answer_chars},
        )

    def _alike(self, text: FreeText | None, before: FreeText | None) -> bool:
        return text is not None and before is not None and text.similarity(before) >= self.settings.similarity


def _is_unread(call: Call) -> bool:
    """True if the answer only seems to be empty: it is not recorded, or in a form that is not known.

    One that is empty tells why it ended, and next to nothing is billed for it.
    """
    if call.answer_chars or call.tool_calls:
        return False
    usage = call.usage
    return call.finish_reason is None or usage.output_tokens - usage.reasoning_tokens > SILENT_TOKENS
