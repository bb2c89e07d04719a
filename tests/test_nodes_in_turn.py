"""Nodes of a graph that have models speak in turn: a writer and its critic that get nowhere, and others that do."""

from __future__ import annotations

import operator
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send
from recorder import Wire, replay_of
from typing_extensions import TypedDict

from ts_importers.langsmith_rows import run_from_row
from ts_langchain import TokenSentinelHandler
from ts_langchain.replay import Run
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("calm_collector")

DRAFT = "The quarterly report shows that revenue grew by twelve percent while costs stayed flat across all regions."
FEEDBACK = "The draft lacks figures for the third quarter, and a table by region, before it can be accepted by us."
ROUNDS = 6


class State(TypedDict, total=False):
    """Of the graphs."""

    draft: str
    feedback: str
    round: int
    rows: Annotated[list[str], operator.add]


def always(says: Any) -> Callable[[int], Any]:
    """The same each time."""
    return lambda _: says


NOTHING = always("")


def told(app: Any, state: Any = None) -> list[tuple[str, str, int]]:
    """What is told of a run, live and replayed: rule, severity, calls."""
    handler, wire = TokenSentinelHandler(), Wire()
    app.invoke(state or {}, {"callbacks": [handler, LangChainTracer(client=wire)], "recursion_limit": 99})
    assert handler.sentinel.health().ok
    runs = sorted((r for row in wire.sent() if isinstance(r := run_from_row(row), Run)), key=lambda r: r.started_at)
    found = [
        [(i.rule, i.severity, i.calls) for i in sentinel.incidents()]
        for sentinel in (handler.sentinel, replay_of(*runs))
    ]
    assert found[0] == found[1]
    return found[0]


def in_turn(
    writes: Callable[[int], str | AIMessage],
    judges: Callable[[int], str | AIMessage],
    *,
    between: Callable[[int], object] = NOTHING,
    row: Callable[[int], str] = NOTHING,
) -> Any:
    """A writer and a critic, for a few rounds."""
    model: dict[str, Any] = {
        name: ScriptedChatModel(script=[s if isinstance(s := says(n), AIMessage) else AIMessage(s) for n in range(99)])
        for name, says in (("writer", writes), ("critic", judges))
    }

    def write(state: State) -> State:
        n = state.get("round", 0)
        between(n)
        draft, feedback = state.get("draft", ""), state.get("feedback", "")
        asked = f"Attempt {n}. {row(n)} Draft so far: {draft}. Feedback: {feedback}"
        answer = model["writer"].invoke([SystemMessage("You write."), HumanMessage(asked)])
        return {"draft": str(answer.text), "round": n + 1}

    def judge(state: State) -> State:
        n = state["round"]
        answer = model["critic"].invoke(
            [SystemMessage("You judge."), HumanMessage(f"Draft {n}. {row(n)} {state['draft']}")]
        )
        return {"feedback": str(answer.text)}

    flow = StateGraph(State)
    flow.add_node("write", write)
    flow.add_node("judge", judge)
    flow.add_edge(START, "write")
    flow.add_edge("write", "judge")
    flow.add_conditional_edges("judge", lambda s: END if s["round"] >= ROUNDS else "write")
    return flow.compile()


REPEATS = 2 * (ROUNDS - 1)
STUCK = {
    "word for word": (always(DRAFT), always(FEEDBACK)),
    "nearly": (lambda n: f"{DRAFT} {'x' * n}", always(FEEDBACK)),
    "with a verdict": (always(DRAFT), always("Rejected.")),
    "in a structured answer": (always(DRAFT), always(call_tool("Verdict", accepted=False, why=FEEDBACK))),
}


@pytest.mark.parametrize("how", STUCK)
def test_a_writer_and_a_critic_that_get_nowhere(how: str) -> None:
    assert told(in_turn(*STUCK[how])) == [("ping_pong", "medium", REPEATS)]


def test_what_a_tool_finds_again_changes_nothing() -> None:
    @tool
    def look_up(topic: str) -> str:
        """Looks up."""
        return "The same page as before."

    app = in_turn(always(DRAFT), always(FEEDBACK), between=lambda n: look_up.invoke({"topic": f"t{n}"}))
    assert ("ping_pong", "medium", REPEATS) in told(app)


@tool
def read_sensor(number: int) -> str:
    """Reads."""
    return f"{number * 7 % 11} degrees"


HEALTHY: dict[str, dict[str, Any]] = {
    "each draft is another": {"writes": lambda n: f"{DRAFT} {' '.join(f'w{n}{i}' for i in range(9))}"},
    "each judgement is another": {"judges": lambda n: f"Point {n}: {' '.join(f'w{n}{i}' for i in range(9))}"},
    "verdicts alone": {"writes": always("Not spam."), "judges": always("Correct.")},
    "another row each time": {"row": lambda n: "Row: " + "lorem ipsum " * (n * 37 % 100)},
    "a tool finds something new": {"between": lambda n: read_sensor.invoke({"number": n})},
}


@pytest.mark.parametrize("why", HEALTHY)
def test_those_that_get_on(why: str) -> None:
    assert told(in_turn(**{"writes": always(DRAFT), "judges": always(FEEDBACK), **HEALTHY[why]})) == []


def test_it_is_told_of_once_it_begins() -> None:
    """Two good rounds, then none."""
    app = in_turn(lambda n: DRAFT if n > 1 else f"Draft {n} is about something else.", always(FEEDBACK))
    assert told(app) == [("ping_pong", "medium", REPEATS - 3)]


def test_agents_as_nodes() -> None:
    """The model of each is asked in a node of the same name."""
    agents = {
        "writer": create_agent(ScriptedChatModel(script=[AIMessage(DRAFT)] * 9), [], name="writer"),
        "critic": create_agent(ScriptedChatModel(script=[AIMessage(FEEDBACK)] * 9), [], name="critic"),
    }
    flow = StateGraph(MessagesState)
    for name, agent in agents.items():
        flow.add_node(name, agent)
    flow.add_edge(START, "writer")
    flow.add_edge("writer", "critic")
    flow.add_conditional_edges("critic", lambda s: END if len(s["messages"]) > 2 * ROUNDS else "writer")
    assert told(flow.compile(), {"messages": [HumanMessage("Write it.")]}) == [("ping_pong", "medium", REPEATS)]


def test_rows_side_by_side_hear_nothing_of_each_other() -> None:
    model, number = ScriptedChatModel(script=[AIMessage(DRAFT), AIMessage(FEEDBACK)] * 20), count()

    def draft(state: State) -> State:
        return {"rows": [str(model.invoke([HumanMessage(f"Row {next(number)} {state}")]).text)]}

    flow = StateGraph(State)
    for name in ("write", "judge"):
        flow.add_node(name, draft)
    flow.add_conditional_edges(START, lambda _: [Send(n, {}) for _ in range(6) for n in ("write", "judge")])
    assert told(flow.compile()) == []


def test_other_runs_are_other_rounds() -> None:
    handler = TokenSentinelHandler(session_id="s")
    for n in range(ROUNDS):
        app = in_turn(always(DRAFT), always(FEEDBACK))
        app.invoke({"round": ROUNDS - 1, "draft": f"{n}"}, {"callbacks": [handler]})
    assert not [i for i in handler.sentinel.incidents() if i.rule == "ping_pong"]
