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
from ts_langchain import Sentinel, TokenSentinelHandler
from ts_langchain.call import Call, Prompt, ToolCall
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
    "a part of each draft is another": {
        "writes": lambda n: f"{DRAFT} {' '.join(w * 3 for w in 'abcdefghijklmnopqrstuvwxyz'[n * 4 : n * 4 + 4])}"
    },
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


@pytest.mark.parametrize("asks", [0, 1])
def test_agents_as_nodes(asks: int) -> None:
    """The model of each is asked in a node of the same name."""

    @tool
    def look_up(topic: str) -> str:
        """Looks up."""
        return "A page."

    script = [m for _ in range(9) for m in (*[call_tool("look_up", topic="reports")] * asks, AIMessage(DRAFT))]
    agents = {
        "writer": create_agent(ScriptedChatModel(script=script), [look_up], name="writer"),
        "critic": create_agent(ScriptedChatModel(script=[AIMessage(FEEDBACK)] * 9), [], name="critic"),
    }
    flow = StateGraph(MessagesState)
    for name, agent in agents.items():
        flow.add_node(name, agent)
    flow.add_edge(START, "writer")
    flow.add_edge("writer", "critic")
    flow.add_conditional_edges("critic", lambda s: END if len(s["messages"]) > (2 + 2 * asks) * ROUNDS else "writer")
    # that the writer asks for tools is known once one has run
    assert ("ping_pong", "medium", REPEATS - asks) in told(flow.compile(), {"messages": [HumanMessage("Write it.")]})


def test_requests_may_grow_a_little() -> None:
    app = in_turn(always(DRAFT), always(FEEDBACK), row=lambda n: "!" * (n % 3 * 25))
    assert told(app) == [("ping_pong", "medium", REPEATS)]


def test_whoever_spoke_once_before_the_circle_is_no_part_of_it() -> None:
    planner, app = ScriptedChatModel(script=[AIMessage(f"The plan. {DRAFT}")]), in_turn(always(DRAFT), always(FEEDBACK))
    flow = app.builder
    flow.add_node("plan", lambda _: (planner.invoke([HumanMessage("Make a plan.")]), {})[1])
    flow.edges.remove((START, "write"))
    flow.add_edge(START, "plan")
    flow.add_edge("plan", "write")
    assert told(flow.compile()) == [("ping_pong", "medium", REPEATS)]


def test_nodes_that_speak_at_the_same_time() -> None:
    """Two judges and a writer."""
    model = ScriptedChatModel(script=[AIMessage(DRAFT)] * 99)

    def speaks(name: str) -> Any:
        return lambda s: (model.invoke([HumanMessage(f"{name}, round {s.get('round', 0)}: {DRAFT}")]), {})[1]

    flow = StateGraph(State)
    for name in ("first", "second"):
        flow.add_node(name, speaks(name))
    flow.add_node("write", lambda s: (speaks("write")(s), {"round": s.get("round", 0) + 1})[1])
    flow.add_edge(START, "write")
    flow.add_conditional_edges("write", lambda s: END if s["round"] > ROUNDS else ["first", "second"])
    flow.add_edge(["first", "second"], "write")
    assert told(flow.compile()) == [("ping_pong", "medium", 3 * ROUNDS - 2)]


def test_one_node_alone_is_no_circle() -> None:
    model = ScriptedChatModel(script=[AIMessage(DRAFT)] * 99)
    flow = StateGraph(State)
    flow.add_node(
        "write",
        lambda s: (
            model.invoke([HumanMessage(f"Round {s.get('round', 0)}")]), {"round": s.get("round", 0) + 1}
        )[1],
    )  # fmt: skip
    flow.add_edge(START, "write")
    flow.add_conditional_edges("write", lambda s: END if s["round"] > ROUNDS else "write")
    assert told(flow.compile()) == []


def test_what_tools_are_asked_for_is_not_said() -> None:
    """Nor is it news: what they bring may be."""

    @tool
    def look_up(topic: str) -> str:
        """Looks up."""
        return "The same page as before, about the same topic, in the same words. " * 3

    asks = call_tool("look_up", topic=FEEDBACK)
    worker, app = ScriptedChatModel(script=[asks] * 9), in_turn(always(DRAFT), always("Rejected."))
    app.builder.add_node(
        "research",
        lambda s: (look_up.invoke(worker.invoke([HumanMessage(f"Round {s['round']}")]).tool_calls[0]), {})[1],
    )
    app.builder.edges.remove(("write", "judge"))
    app.builder.add_edge("write", "research")
    app.builder.add_edge("research", "judge")
    assert ("ping_pong", "medium", REPEATS) in told(app.builder.compile())


def says(name: str, n: int, **changes: Any) -> Call:
    """A model answers in a node."""
    call = Call(f"{name}{n}", "model", "s", "run", name, n, n + 0.5, prompt=Prompt(n, 1, 1, 500), node=name)
    return call._replace(**{"answer": len(name), "answer_chars": 200, **changes})


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, 1),
        ({"purpose": "summarization"}, 0),
        ({"status": "error"}, 0),
        ({"root_id": "another run"}, 0),
        ({"answer_chars": 0}, 0),
        ({"prompt": None}, 0),
        ({"node": None}, 0),
    ],
)
def test_what_counts_as_said(changes: dict[str, Any], found: int) -> None:
    sentinel = Sentinel(rules=["ping_pong"])
    for n in range(0, 12, 2):
        sentinel.observe(says("write", n))
        sentinel.observe(says("judges", n + 1, **changes))
    assert len(sentinel.incidents()) == found


def test_who_speaks_beside_itself_is_asked_about_other_rows() -> None:
    sentinel = Sentinel(rules=["ping_pong"])
    for n in range(0, 12, 2):
        sentinel.observe(says("write", n, ended_at=n + 3.0))
        sentinel.observe(says("judges", n + 1))
    assert sentinel.incidents() == []


def test_what_was_said_before_does_not_count() -> None:
    sentinel = Sentinel(rules=["ping_pong"])
    for n in range(0, 8, 2):
        sentinel.observe(says("write", n, answer=min(n, 4)))
        sentinel.observe(says("judges", n + 1))
    assert sentinel.incidents() == []
    sentinel.observe(says("write", 8, answer=4))
    assert [i.evidence["rounds"] for i in sentinel.incidents()] == [3]


@pytest.mark.parametrize(("tool_call_id", "found"), [("c", 0), (None, 1)])
def test_what_code_looks_up_was_said(tool_call_id: str | None, found: int) -> None:
    """And a tool that runs was asked for."""
    sentinel = Sentinel(rules=["ping_pong"])
    for n in range(0, 18, 3):
        sentinel.observe(says("write", n))
        sentinel.observe(says("judges", n + 1, tool_calls=(ToolCall("c", "look_up", 1),)))
        ran = Call(f"t{n}", "tool", "s", "run", "look_up", n + 2, n + 2.5, answer=1, tool_call_id=tool_call_id)
        sentinel.observe(ran._replace(requested_by=f"judges{n + 1}"))
    assert len(sentinel.incidents()) == found


@pytest.mark.parametrize(("root_id", "found"), [("run", 0), ("another run", 1)])
def test_what_is_found_in_another_run_is_no_news(root_id: str, found: int) -> None:
    sentinel = Sentinel(rules=["ping_pong"])
    for n in range(0, 18, 3):
        sentinel.observe(says("write", n))
        sentinel.observe(says("judges", n + 1))
        sentinel.observe(Call(f"t{n}", "tool", "s", root_id, "look_up", n + 2, n + 2.5, answer=n + 1))
    assert len(sentinel.incidents()) == found


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
