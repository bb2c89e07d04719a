"""RAG written as nodes: a model words the query, and code asks the retriever."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.graph import END, START, StateGraph
from recorder import Wire, replay_of
from typing_extensions import TypedDict

from ts_importers.langsmith_rows import run_from_row
from ts_langchain import TokenSentinelHandler
from ts_langchain.capture.worded import MAX_CHARS, MAX_WORDED, Worded, WordedBy
from ts_langchain.replay import Run
from ts_langchain.testing import ScriptedChatModel, call_tool

pytestmark = pytest.mark.usefixtures("calm_collector")

QUESTIONS = [
    "what does the contract say about late delivery",
    "penalty clauses for suppliers who deliver too late",
    "which fee is due when goods arrive after the deadline",
    "consequences of missing the agreed shipping date",
    "liquidated damages if shipment is overdue",
    "how are delays by the vendor compensated",
    "remedies of a buyer whose order comes late",
    "sanctions against slow suppliers in this agreement",
]

SECTIONS = [AIMessage(f"Section {n} says something that the others do not say, about {n}.") for n in range(6)]


class Contracts(BaseRetriever):
    """Finds the same few pages whatever is asked, or others each time."""

    heeds: bool = False

    def _get_relevant_documents(self, query: str, **kwargs: Any) -> list[Document]:
        about = query if self.heeds else "payment"
        pages = [Document(page_content=f"Clause {n}, of {about}: the buyer pays within {n} days.") for n in range(4)]
        return pages[::-1] if len(query) % 2 else pages  # the ranking differs


class State(TypedDict, total=False):
    """Of the graph."""

    question: str
    tries: int


def as_text(question: str) -> AIMessage:
    """The whole answer."""
    return AIMessage(f"{question}\n")


def as_padded(question: str) -> AIMessage:
    """With blanks around."""
    return AIMessage(f"  {question} ")


def as_lines(question: str) -> AIMessage:
    """One line of several."""
    return AIMessage(f"Here it is, in other words:\n{question}")


def as_json(question: str) -> AIMessage:
    """A field of structured output."""
    return AIMessage(json.dumps({"reason": "The pages say nothing of it at all.", "question": question}))


def as_call(question: str) -> AIMessage:
    """The same, by a tool that nobody runs."""
    return call_tool("Rewritten", queries=[question])


def corrective_rag(rewritten: list[AIMessage], look_up: Any, seen: list[int]) -> Any:
    """Retrieve, grade, rewrite, and again, until the grader is content."""
    grader = ScriptedChatModel(script=[AIMessage('{"relevant": "no"}')] * 20)
    rewriter = ScriptedChatModel(script=rewritten)

    def retrieve(state: State) -> State:
        seen.append(len(look_up(state["question"])))
        return {}

    def grade(state: State) -> State:
        grader.invoke([HumanMessage(f"Are these {seen[-1]} pages about it: {state['question']}?")])
        return {}

    def rewrite(state: State) -> State:
        tries = state.get("tries", 0)
        rewriter.invoke([HumanMessage(f"Put it in other words, try {tries}: {QUESTIONS[0]}")])
        return {"question": QUESTIONS[tries + 1], "tries": tries + 1}

    flow = StateGraph(State)
    flow.add_node("retrieve", retrieve)
    flow.add_node("grade", grade)
    flow.add_node("rewrite", rewrite)
    flow.add_edge(START, "retrieve")
    flow.add_edge("retrieve", "grade")
    flow.add_conditional_edges("grade", lambda s: END if s.get("tries", 0) >= len(QUESTIONS) - 1 else "rewrite")
    flow.add_edge("rewrite", "retrieve")
    return flow.compile()


def told(app: Any, state: Any) -> list[tuple[str, str, int, bool]]:
    """What is told of a run, live and replayed: rule, severity, calls, and whether it has cost tokens."""
    handler, wire = TokenSentinelHandler(), Wire()
    app.invoke(state, {"callbacks": [handler, LangChainTracer(client=wire)], "recursion_limit": 99})
    assert handler.sentinel.health().ok
    runs = sorted((r for row in wire.sent() if isinstance(r := run_from_row(row), Run)), key=lambda r: r.started_at)
    found = [
        [(i.rule, i.severity, i.calls, i.wasted_tokens > 0) for i in sentinel.incidents()]
        for sentinel in (handler.sentinel, replay_of(*runs))
    ]
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("form", [as_text, as_padded, as_lines, as_json, as_call])
def test_rewriting_that_finds_the_same_pages_is_told(form: Any) -> None:
    seen: list[int] = []
    app = corrective_rag([form(q) for q in QUESTIONS[1:]], Contracts().invoke, seen)
    assert told(app, {"question": QUESTIONS[0]}) == [("retrieval_thrash", "medium", 7, True)]
    assert len(seen) == len(QUESTIONS)


def test_so_it_is_of_a_search_tool() -> None:
    @tool
    def web_search(query: str) -> str:
        """Searches."""
        return "The same page about paying suppliers, whatever is asked of it. " * 5

    app = corrective_rag([as_text(q) for q in QUESTIONS[1:]], lambda q: web_search.invoke({"query": q}), [])
    assert told(app, {"question": QUESTIONS[0]}) == [("retrieval_thrash", "medium", 7, True)]


def test_rewriting_that_finds_other_pages_gets_on() -> None:
    app = corrective_rag([as_text(q) for q in QUESTIONS[1:]], Contracts(heeds=True).invoke, [])
    assert told(app, {"question": QUESTIONS[0]}) == []


def test_questions_of_a_form_may_all_find_the_same_pages() -> None:
    """Code asks them, one after the other; a model answers each from what is a short document."""
    model, contracts = ScriptedChatModel(script=[AIMessage(f"{n} days") for n in range(20)]), Contracts()

    def fill(_: State) -> State:
        for question in QUESTIONS:
            pages = contracts.invoke(question)
            model.invoke([HumanMessage(f"{question}? {pages}")])
        return {}

    flow = StateGraph(State)
    flow.add_node("fill", fill)
    flow.add_edge(START, "fill")
    assert told(flow.compile(), {"question": ""}) == []


def test_the_same_words_again_are_a_loop() -> None:
    """The rewriter is stuck, and so is the graph."""
    model, contracts = ScriptedChatModel(script=[as_text(QUESTIONS[1])] * 6), Contracts()

    def rewrite(_: State) -> State:
        for n in range(6):
            answer = model.invoke([HumanMessage(f"Put it in other words, try {n}")])
            contracts.invoke(str(answer.content).strip())
        return {}

    flow = StateGraph(State)
    flow.add_node("rewrite", rewrite)
    flow.add_edge(START, "rewrite")
    found = told(flow.compile(), {"question": ""})
    assert [f for f in found if f[0] == "retrieval_thrash"] == [("retrieval_thrash", "high", 5, True)]


def test_the_same_words_for_the_next_section_are_told() -> None:
    """A model words the query, and another one writes something else from the same pages each time."""
    model, writer = ScriptedChatModel(script=[as_text(QUESTIONS[1])] * 6), ScriptedChatModel(script=SECTIONS)
    contracts = Contracts()

    def write(_: State) -> State:
        for n in range(6):
            answer = model.invoke([HumanMessage(f"What to look up for section {n}?")])
            pages = contracts.invoke(str(answer.content).strip())
            writer.invoke([HumanMessage(f"Write section {n}. {pages}")])
        return {}

    flow = StateGraph(State)
    flow.add_node("write", write)
    flow.add_edge(START, "write")
    found = told(flow.compile(), {"question": ""})
    assert [f for f in found if f[0] == "retrieval_thrash"] == [("retrieval_thrash", "medium", 5, True)]


def test_what_is_kept_of_an_answer() -> None:
    worded, (first, second) = Worded(), QUESTIONS[:2]
    worded.note("a", AIMessage(f"1 of 2:\n{first}\n{second}"), ())
    worded.note("b", AIMessage("Yes."), ())
    worded.note("c", AIMessage(first * MAX_CHARS), ())
    assert worded.by([first]) == worded.by(["other", f" {second}\n"]) == WordedBy("a", 3)
    assert (
        worded.by(["Yes."]) is worded.by([first * MAX_CHARS]) is worded.by([None, 7, "other words altogether"]) is None
    )
    assert first not in pickle.dumps(worded).decode("latin-1")
    for n in range(MAX_WORDED):
        worded.note(f"d{n}", AIMessage(f"a question about number {n}"), ())
    assert worded.by([first]) is None
    assert worded.by(["a question about number 0"]) == WordedBy("d0", 1)
