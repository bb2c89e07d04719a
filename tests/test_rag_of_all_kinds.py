"""RAG that is well: models word what code looks up, and each finds the same few pages of a small corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.graph import START, StateGraph
from recorder import Wire, replay_of
from typing_extensions import TypedDict

from ts_importers.langsmith_rows import run_from_row
from ts_langchain import TokenSentinelHandler
from ts_langchain.replay import Run
from ts_langchain.testing import ScriptedChatModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.usefixtures("calm_collector")

OTHER_WORDS = [
    "what does the contract say about late delivery",
    "penalty clauses for suppliers who deliver too slowly",
    "which fee is due when goods arrive after the deadline",
    "consequences of missing the agreed shipping date",
    "liquidated damages if shipment is overdue",
    "how are delays by the vendor compensated",
    "remedies of a buyer whose order comes behind schedule",
    "sanctions against sluggish suppliers in this agreement",
]
SIMILAR = [
    "late delivery penalty clauses in supplier contract terms",
    "supplier contract terms penalty clauses late delivery",
    "penalty clauses late delivery supplier contract terms explained",
    "contract terms late delivery penalty clauses supplier",
    "terms supplier contract penalty clauses late delivery",
]


class Clauses(BaseRetriever):
    """All there is."""

    def _get_relevant_documents(self, query: str, **kwargs: Any) -> list[Document]:
        return [Document(page_content=f"Clause {n}: the buyer pays within {n} days.") for n in range(4)]


class State(TypedDict, total=False):
    """Nothing."""

    n: int


def told(work: Callable[[], object]) -> list[tuple[str, str, int, int]]:
    """What is told of a node that does this, live and replayed: rule, severity, calls, wasted tokens."""
    handler, wire = TokenSentinelHandler(), Wire()
    flow = StateGraph(State)
    flow.add_node("work", lambda _: {"n": len(str(work()))})
    flow.add_edge(START, "work")
    flow.compile().invoke({}, {"callbacks": [handler, LangChainTracer(client=wire)]})
    assert handler.sentinel.health().ok
    runs = [r for row in wire.sent() if isinstance(r := run_from_row(row), Run)]
    found = [
        [(i.rule, i.severity, i.calls, i.wasted_tokens) for i in sentinel.incidents()]
        for sentinel in (handler.sentinel, replay_of(*runs))
    ]
    assert found[0] == found[1]
    return found[0]


def model(says: Sequence[str]) -> ScriptedChatModel:
    """Says these."""
    return ScriptedChatModel(script=[AIMessage(text) for text in says])


def say(of: ScriptedChatModel, asked: str) -> str:
    """What it says, as most code takes it."""
    return of.invoke([HumanMessage(asked)]).text


@pytest.mark.parametrize("wordings", [OTHER_WORDS, SIMILAR])
def test_wordings_of_several_models_are_asked_together(wordings: list[str]) -> None:
    """Fusion: each wording is a call of its own, and all are looked up before a model is asked again."""

    def fuse() -> None:
        rewriter, clauses = model(wordings), Clauses()
        clauses.invoke("what the user has asked")
        queries = [say(rewriter, f"Reword it, {n}") for n in range(len(wordings))]
        for query in queries:
            clauses.invoke(query)
        say(model(["Late deliveries cost a fee."]), "Answer from these.")

    assert told(fuse) == []


def test_rows_that_are_each_answered_in_other_words() -> None:
    """HyDE, or questions put in other words, row by row: the same clauses, another answer."""

    def answer() -> None:
        rewriter, clauses = model(OTHER_WORDS), Clauses()
        writer = model([f"Answer {n} says w{n} and z{n}." for n in range(9)])
        clauses.invoke("what the user has asked")
        for n in range(len(OTHER_WORDS)):
            say(writer, f"Row {n}: {clauses.invoke(say(rewriter, f'Write a passage that answers row {n}'))}")

    assert told(answer) == []


def test_sections_whose_queries_are_alike_are_stopped_by_nobody() -> None:
    def write() -> None:
        rewriter, clauses = model(SIMILAR), Clauses()
        writer = model([f"Section {n} says w{n} and z{n}." for n in range(9)])
        clauses.invoke("what the user has asked")
        for n in range(len(SIMILAR)):
            say(writer, f"Section {n}: {clauses.invoke(say(rewriter, f'What to look up for section {n}?'))}")

    assert [(rule, severity) for rule, severity, _, _ in told(write)] == [("retrieval_thrash", "medium")]


def test_a_wording_that_code_asks_again_has_cost_nothing_again() -> None:
    """The model that worded it was needed once."""

    def ask() -> None:
        clauses, writer = Clauses(), model([f"Section {n} says w{n} and z{n}." for n in range(9)])
        clauses.invoke("what the user has asked")
        query = say(model(SIMILAR), "What to look up?")
        for n in range(5):
            say(writer, f"Section {n}: {clauses.invoke(query)}")

    assert told(ask) == [("retrieval_thrash", "medium", 4, 0)]


def test_the_text_of_a_message_is_a_text() -> None:
    """LangChain gives it as a class of its own, and a tracer writes it down as what it is."""

    def ask() -> None:
        rewriter, clauses = model(SIMILAR), Clauses()
        for n in range(len(SIMILAR)):
            clauses.invoke(say(rewriter, f"Reword it, {n}"))

    assert [(rule, severity) for rule, severity, _, _ in told(ask)] == [("retrieval_thrash", "high")]
