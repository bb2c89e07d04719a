"""`retrieval_thrash`: overlapping queries that bring back what was already there."""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic import Field, PositiveFloat

from ts_langchain.fingerprint import mix
from ts_langchain.rules.base import Claim, Finding, Turn
from ts_langchain.rules.effects import named_effect
from ts_langchain.rules.handoff_loop import is_handoff
from ts_langchain.rules.repeats import PAGE_CHARS, RepeatRule, Repeats
from ts_langchain.rules.rerank_thrash import is_rerank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_WANDERING = 3
MAX_ASKED = 24
MAX_UNCLAIMED = 8
WANDERS = 2
"""Searches in other words each time that find nothing new are told of from so many times `min_calls` on."""
VERDICTS = 1
"""What a grader says of all that is found is new but once; what is new each time is written for the next row."""

_RETRIEVAL = re.compile(r"search|retriev|query|lookup|look_up|^rag_|_rag$", re.IGNORECASE)


def is_retrieval(name: str) -> bool:
    """True for a tool whose name says that it looks something up."""
    return _RETRIEVAL.search(name) is not None and named_effect(name) != "changes"


class Wandering:
    """Searches of one turn, in other words each time, that bring back what was there."""

    __slots__ = ("asked", "asked_by", "fixed", "news", "told", "turn", "unclaimed", "written")

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.begin(0, 0)

    def begin(self, fixed: int, query: int) -> None:
        """Something new was found, or is searched for elsewhere."""
        self.fixed = fixed
        self.asked = array("q", [query])  # since then
        self.asked_by = ""  # the answer after which the newest was asked; at once many may be
        self.news = self.told = 0
        self.written = 0  # how often a model said something else in between: of what was found, perhaps
        self.unclaimed: tuple[Turn, ...] = ()


class Searches(Repeats):
    """State of one session."""

    __slots__ = ("wandering",)

    def __init__(self) -> None:
        super().__init__()
        self.wandering: tuple[Wandering, ...] = ()  # the newest last

    def wander(self, turn: int) -> Wandering:
        """What a turn has searched."""
        own = next((one for one in self.wandering if one.turn == turn), None) or Wandering(turn)
        self.wandering = (*(one for one in self.wandering if one is not own), own)[-MAX_WANDERING:]
        return own


class RetrievalThrash(RepeatRule):
    """A retriever or search tool is asked nearly the same again and finds nothing it had not found before.

    Fires when the same query brought back the same documents `min_identical_calls` times (severity low), and
    again when `min_calls` queries with a word overlap of at least `similarity` fall into `window_seconds`
    of event time and none brought back a new document (severity high; medium where other calls bring something new
    in between, where code asks the same once more for the next thing that it has a model write, where the answers of a
    search tool differ in what may be technical alone, see `tool_loop`, and where its queries have a word in place of
    another: that may be another question, to which the same is found). And when a model has asked for twice as many
    searches in one turn, in other words each time, and they and all else brought nothing new since the first (severity
    medium).

    Does not fire on: queries that differ in a name, number, date or filter; similar queries that bring back
    something new; queries that have a word in place of another and get the same short answer (`nothing found`);
    several wordings that code asks before a model is asked again; what code asks in words of its own, one question
    after the other, or in a model's words where a model says something else of each, as row after row; paging.

    Wasted: the model turn that asked for the repeated search, or worded it: where RAG is written as nodes, a node asks
    what a model has said (its answer, a line of it, a field of its structured output). A retriever that the app asks
    in its own words has no such turn; then calls and seconds are counted, and no tokens.
    """

    name = "retrieval_thrash"
    specificity = 50
    kinds: ClassVar[frozenset[Kind]] = frozenset({"tool", "retriever", "model"})
    suggestion = "Give the model the documents it already has, cache the search, or stop the run."
    thresholds: ClassVar[Mapping[str, str]] = {"min_calls": "calls", "min_identical_calls": "calls"}
    verb = "asked"

    class Settings(RepeatRule.Settings):
        """Settings of retrieval_thrash."""

        window_seconds: PositiveFloat = Field(
            120, description="Event time in which `min_calls` queries must fall to be called thrash."
        )
        similarity: float = Field(
            0.65, ge=0, le=1, description="Word-set similarity from which two queries count as the same."
        )

    settings: Settings

    def new_state(self) -> Repeats:
        return Searches()

    def shrink(self, state: Repeats) -> None:
        super().shrink(state)
        cast("Searches", state).wandering = ()

    def observe(self, call: Call, state: Repeats) -> Finding | None:
        news = state.news
        finding = super().observe(call, state)
        if finding is not None or call.kind == "model":
            return finding
        return self._wanders(call, cast("Searches", state), news)

    def _wanders(self, call: Call, state: Searches, news: int) -> Finding | None:
        """The finding, where words are changed and what comes back is not."""
        arguments = call.arguments
        if arguments is None or arguments.free_text is None or call.status != "ok":
            return None
        if (call.answer_chars <= PAGE_CHARS and not call.items) or not self._concerns.get(call.name):
            return None
        own, fixed, query = state.wander(call.turn), hash(arguments.fixed), hash(arguments.fingerprint)
        asked_by = call.requested_by or ""
        if call.tool_call_id is None:  # code asks for all between two answers at once
            asked_by = str(state.asks)
            own.written += state.told_since(own.told, call) > 0
        known = own.news == news == state.news and own.fixed == fixed
        if not known or call.requested_by is None or own.written > VERDICTS:
            own.begin(fixed, query)
        elif query not in own.asked and asked_by != own.asked_by:
            own.asked.append(query)
            del own.asked[:-MAX_ASKED]
            seconds = call.ended_at - call.started_at
            turn = Turn(call.id, call.requested_by, call.tool_call_id or call.id, call.siblings, seconds)
            own.unclaimed = (*own.unclaimed, turn)[-MAX_UNCLAIMED:]
        own.news, own.told, own.asked_by = state.news, state.told, asked_by
        if not own.unclaimed or len(own.asked) < self.settings.min_calls * WANDERS:
            return None
        turns, own.unclaimed = own.unclaimed, ()
        return Finding(
            mix(fixed, call.turn),
            f"{call.name} was asked {len(own.asked)} times in other words and nothing new came back.",
            claims=tuple(Claim(t.requested_by, "turn", unit=t.unit, units=t.units) for t in turns if t.requested_by),
            calls=tuple(t.call_id for t in turns),
            seconds=sum(t.seconds for t in turns),
            severity="medium",
            confidence=0.7,
            evidence={"tool": call.name, "calls": len(own.asked), "answer_chars": call.answer_chars},
        )

    def concerns(self, kind: Kind, name: str) -> bool:
        if "rerank_thrash" in self.context.active and is_rerank(name):
            return False
        if kind == "tool" and "handoff_loop" in self.context.active and is_handoff(name):
            return False  # `transfer_to_research_agent`
        return kind == "retriever" or is_retrieval(name)
