"""`retrieval_thrash`: overlapping queries that bring back what was already there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.rules.effects import named_effect
from ts_langchain.rules.handoff_loop import is_handoff
from ts_langchain.rules.repeats import RepeatRule
from ts_langchain.rules.rerank_thrash import is_rerank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Kind

_RETRIEVAL = re.compile(r"search|retriev|query|lookup|look_up|^rag_|_rag$", re.IGNORECASE)


def is_retrieval(name: str) -> bool:
    """True for a tool whose name says that it looks something up."""
    return _RETRIEVAL.search(name) is not None and named_effect(name) != "changes"


class RetrievalThrash(RepeatRule):
    """A retriever or search tool is asked nearly the same again and finds nothing it had not found before.

    Fires when the same query brought back the same documents `min_identical_calls` times (severity low), and
    again when `min_calls` queries with a word overlap of at least `similarity` fall into `window_seconds`
    of event time and none brought back a new document (severity high; medium where other calls bring something new
    in between, where code asks the same once more for the next thing that it has a model write, where the answers of a
    search tool differ in what may be technical alone, see `tool_loop`, and where its queries have a word in place of
    another: that may be another question, to which the same is found).

    Does not fire on: queries that differ in a name, number, date or filter; similar queries that bring back
    something new; queries that have a word in place of another and get the same short answer (`nothing found`);
    several wordings that code asks before a model is asked again; paging.

    Wasted: the model turn that asked for the repeated search. A retriever that the app calls by itself has
    no such turn; then calls and seconds are counted, and no tokens.
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

    def concerns(self, kind: Kind, name: str) -> bool:
        if "rerank_thrash" in self.context.active and is_rerank(name):
            return False
        if kind == "tool" and "handoff_loop" in self.context.active and is_handoff(name):
            return False  # `transfer_to_research_agent`
        return kind == "retriever" or is_retrieval(name)
