"""What a tool brought: what the tools of its agent gave, however a model words it; and no ids and times of its own."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from pydantic import Field
from recorder import Wire, recorded, replay_of

from ts_importers.langsmith_rows import run_from_row
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

pytestmark = pytest.mark.usefixtures("calm_collector")

GO: Any = {"messages": [HumanMessage("go")]}


@tool
def get_stock(item: str) -> str:
    """Looks."""
    return f"There are 3 of {item}."


@tool
def get_day() -> str:
    """Looks."""
    return "Monday"


class Staff:
    """A worker who looks something up and words it differently each time, as a tool for a boss.

    Args:
        items: What the worker looks up, one each time; with nothing to look up it only talks.
    """

    def __init__(self, items: Sequence[str]) -> None:
        self.count = itertools.count()
        self.items = items
        tools = [get_stock] if items else []
        self.worker = create_agent(ScriptedChatModel(script=[self.works]), tools)

        @tool
        def ask_worker(task: str) -> str:
            """Has somebody do it."""
            return str(self.worker.invoke({"messages": [HumanMessage(task)]})["messages"][-1].content)

        self.tool = ask_worker

    def works(self, messages: Sequence[BaseMessage]) -> AIMessage:
        number = next(self.count)
        if self.items and messages[-1].type == "human":
            return call_tool("get_stock", item=self.items[number // 2 % len(self.items)])
        return AIMessage(f"As I see it for the {number}th time, there are some.")


def graph(model: ScriptedChatModel, tools: Sequence[Any]) -> Any:
    """A loop whose tool calls run in one task."""
    builder = StateGraph(MessagesState)
    builder.add_node("think", lambda s: {"messages": [model.invoke(s["messages"])]})
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda s: "tools" if s["messages"][-1].tool_calls else END, ["tools", END])
    builder.add_edge("tools", "think")
    return builder.compile()


ASKS = call_tool("ask_worker", task="How many pens?")


def found(sentinel: Any, name: str) -> list[tuple[str, str, int]]:
    return [(i.rule, i.severity, i.calls) for i in sentinel.incidents() if i.evidence.get("tool") == name]


@pytest.mark.parametrize("build", [create_agent, graph])
def test_asking_the_same_again_is_told_though_the_words_differ(build: Any) -> None:
    recorder, handler = recorded()
    tracer = LangChainTracer(client=(wire := Wire()))
    app = build(ScriptedChatModel(script=[ASKS] * 4 + [AIMessage("done")]), [Staff(["pens"]).tool])
    app.invoke(GO, {"callbacks": [handler, tracer]})
    tracer.wait_for_futures()
    assert found(recorder, "ask_worker") == [("tool_loop", "medium", 3)]
    assert len({c.answer for c in recorder.seen if c.name == "ask_worker"}) == 4
    (incident,) = (i for i in recorder.incidents() if i.evidence.get("tool") == "ask_worker")
    assert incident.summary.endswith("only words, ids or times in the answers differed.")
    assert replay_of(*filter(None, map(run_from_row, wire.sent()))).known() == recorder.known()


@pytest.mark.parametrize(
    "items",
    [
        ["pens", "ink", "paper", "glue"],  # something else is found each time
        [],  # words are all that is asked for
    ],
)
def test_other_findings_are_progress(items: list[str]) -> None:
    recorder, handler = recorded()
    app = create_agent(ScriptedChatModel(script=[ASKS] * 4 + [AIMessage("done")]), [Staff(items).tool])
    app.invoke(GO, {"callbacks": [handler]})
    assert found(recorder, "ask_worker") == []


def test_twice_is_not_enough() -> None:
    recorder, handler = recorded()
    app = create_agent(ScriptedChatModel(script=[ASKS] * 2 + [AIMessage("done")]), [Staff(["pens"]).tool])
    app.invoke(GO, {"callbacks": [handler]})
    assert found(recorder, "ask_worker") == []


def test_of_calls_side_by_side_in_one_task_nobody_knows_who_found_what() -> None:
    staff, together = Staff(["pens"]), threading.Barrier(3)

    @tool
    def ask_worker(task: str) -> str:
        """Has somebody do it."""
        together.wait(timeout=30)
        answer = str(staff.worker.invoke({"messages": [HumanMessage(task)]})["messages"][-1].content)
        together.wait(timeout=30)
        return answer

    recorder, handler = recorded()
    three = AIMessage("", tool_calls=ASKS.tool_calls * 3)
    app = graph(ScriptedChatModel(script=[three] * 3 + [AIMessage("done")]), [ask_worker])
    app.invoke(GO, {"callbacks": [handler]})
    outer = [c for c in recorder.seen if c.name == "ask_worker"]
    assert len(outer) == 9
    assert {c.findings for c in outer} == {0}


def test_what_an_agent_inside_an_agent_found() -> None:
    """The boss's boss is told by what the worker's tools gave, two levels below."""
    staff = Staff(["pens"])
    boss = create_agent(
        ScriptedChatModel(script=[ASKS, AIMessage("one"), ASKS, AIMessage("two"), ASKS, AIMessage("three")]),
        [staff.tool],
    )

    @tool
    def subagent(task: str) -> str:
        """Has somebody have it done."""
        return str(boss.invoke({"messages": [HumanMessage(task)]})["messages"][-1].content)

    recorder, handler = recorded()
    asks = call_tool("subagent", task="Pens?")
    app = create_agent(ScriptedChatModel(script=[asks] * 3 + [AIMessage("done")]), [subagent])
    app.invoke(GO, {"callbacks": [handler]})
    assert found(recorder, "subagent") == [("tool_loop", "medium", 2)]


def test_a_failure_has_found_nothing() -> None:
    staff = Staff(["pens"])

    @tool
    def ask_worker(task: str) -> str:
        """Has somebody do it."""
        raise ValueError(staff.tool.invoke({"task": task}))

    recorder, handler = recorded()
    app = graph(ScriptedChatModel(script=[ASKS, AIMessage("done")]), [ask_worker])
    with pytest.raises(ValueError, match="As I see it"):
        app.invoke(GO, {"callbacks": [handler]})
    assert [c.findings for c in recorder.seen if c.name == "ask_worker" and c.status == "error"] == [0]


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [
        ("get_news_page", "Nothing to report. Generated at {now}.", [("tool_loop", "medium", 3)]),
        ("save_memory", "Created memory {id}.", [("tool_loop", "medium", 3)]),
        ("get_current_time", "It is {now}.", []),
        ("next_job", "Job {id}, size 3.", []),
        ("get_stock", "3 pens, sold {n} on {now}.", []),
    ],
)
def test_answers_that_differ_in_an_id_or_the_time_they_were_made_at(
    name: str, answer: str, told: list[tuple[str, str, int]]
) -> None:
    count = itertools.count()

    @tool(name)
    def asked(item: str) -> str:
        """Gives something else each time."""
        return answer.format(now=datetime.now(UTC).isoformat(), id=uuid4(), n=next(count))

    recorder, handler = recorded()
    tracer = LangChainTracer(client=(wire := Wire()))
    script = [call_tool(name, item="pens")] * 4
    create_agent(ScriptedChatModel(script=[*script, AIMessage("done")]), [asked]).invoke(
        GO, {"callbacks": [handler, tracer]}
    )
    tracer.wait_for_futures()
    assert found(recorder, name) == told
    assert replay_of(*filter(None, map(run_from_row, wire.sent()))).known() == recorder.known()


class Bosses:
    """A boss who has the same asked four times, of a worker made of this graph.

    Args:
        worker: The graph.
        tasks: What is asked each time.
    """

    def __init__(self, worker: Any, tasks: Sequence[str] = ("News?",) * 4) -> None:
        @tool
        def ask_worker(task: str) -> str:
            """Has somebody do it."""
            return str(worker.invoke({"messages": [HumanMessage(task)]})["messages"][-1].content)

        asks = [call_tool("ask_worker", task=task) for task in tasks]
        self.app = create_agent(ScriptedChatModel(script=[*asks, AIMessage("done")]), [ask_worker])

    def run(self, mode: Any = "observe") -> list[tuple[str, str, int]]:
        recorder, handler = recorded(mode=mode)
        self.app.invoke(GO, {"callbacks": [handler]})
        assert recorder.health().ok
        return found(recorder, "ask_worker")


def numbered(name: str) -> Any:
    """A tool that gives something else each time."""
    count = itertools.count()

    @tool(name)
    def counts() -> str:
        """Looks."""
        return f"number {next(count)}"

    return counts


def asks_once(name: str, answer: str) -> Any:
    """A step that asks for a tool, and then says how often it was asked."""
    count = itertools.count()

    def step(messages: Sequence[BaseMessage]) -> AIMessage:
        return AIMessage(answer.format(next(count))) if messages[-1].type == "tool" else call_tool(name)

    return step


def test_who_says_done_of_other_things_each_time_is_not_stopped() -> None:
    worker = create_agent(
        ScriptedChatModel(script=[asks_once("get_next_invoice", "Done.")]), [numbered("get_next_invoice")]
    )
    assert Bosses(worker).run("block") == [("tool_loop", "medium", 3)]


def test_another_task_that_is_done_out_of_the_same_file() -> None:
    """Nearly the same words, and the same read: what is written of it is what was wanted."""

    @tool
    def read_outline() -> str:
        """Reads."""
        return "the outline"

    told = "Read the outline, and write the part about {} in clear and friendly words, for customers of ours."
    worker = create_agent(
        ScriptedChatModel(script=[asks_once("read_outline", "Part {}: " + "word " * 40)]), [read_outline]
    )
    assert Bosses(worker, [told.format(t) for t in ("pricing", "security", "support", "setup")]).run() == []


class News(BaseRetriever):
    """Finds something else each time."""

    numbers: Any = Field(default_factory=itertools.count)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(f"news {next(self.numbers)}")]


def test_what_a_retriever_finds_is_found_too() -> None:
    retriever, model = News(), ScriptedChatModel(script=[asks_once("get_day", "Summary {}.")])
    builder = StateGraph(MessagesState)
    builder.add_node("retrieve", lambda _: {"messages": [HumanMessage(retriever.invoke("news")[0].page_content)]})
    builder.add_node("think", create_agent(model, [get_day]))
    builder.add_edge(START, "retrieve")
    builder.add_edge("retrieve", "think")
    assert Bosses(builder.compile()).run() == []


@pytest.mark.parametrize("steps", [2, 12])
def test_what_was_found_many_steps_ago_is_not_forgotten(steps: int) -> None:
    """Each step is a graph of its own; only the first one finds something else each time."""
    count = itertools.count()
    talks = create_agent(ScriptedChatModel(script=[lambda _: AIMessage(f"thought {next(count)}")]), [])
    first = create_agent(ScriptedChatModel(script=[asks_once("get_news", "read {}")]), [numbered("get_news")])
    last = create_agent(ScriptedChatModel(script=[asks_once("get_day", "Answer {}.")]), [get_day])
    builder = StateGraph(MessagesState)
    graphs = {"first": first, **{f"step{n}": talks for n in range(steps)}, "last": last}
    for name, inner in graphs.items():
        builder.add_node(name, inner)
    for before, after in itertools.pairwise([START, *graphs, END]):
        builder.add_edge(before, after)
    assert Bosses(builder.compile()).run() == []


def test_a_tool_that_is_called_by_hand_inside_another_takes_nothing_away() -> None:
    """Only its agent's words differ; the helper runs in the same task, and ends first."""

    @tool
    def load_prompt() -> str:
        """Loads."""
        return "You count pens."

    staff = Staff(["pens"])

    @tool
    def ask_worker(task: str) -> str:
        """Has somebody do it."""
        return str(
            staff.worker.invoke({"messages": [HumanMessage(f"{load_prompt.invoke({})} {task}")]})["messages"][
                -1
            ].content
        )

    recorder, handler = recorded()
    app = create_agent(ScriptedChatModel(script=[ASKS] * 4 + [AIMessage("done")]), [ask_worker])
    app.invoke(GO, {"callbacks": [handler]})
    assert found(recorder, "ask_worker") == [("tool_loop", "medium", 3)]


def test_a_graph_without_a_model_says_what_it_means() -> None:
    """Nobody words its answer: that it is another one is news."""
    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode([get_stock]))
    builder.add_edge(START, "tools")
    looks, count = builder.compile(), itertools.count()

    @tool
    def audit(item: str) -> str:
        """Looks, and counts."""
        looks.invoke({"messages": [call_tool("get_stock", item=item)]})
        return f"{next(count)} are broken."

    recorder, handler = recorded()
    script = [call_tool("audit", item="pens")] * 4
    create_agent(ScriptedChatModel(script=[*script, AIMessage("done")]), [audit]).invoke(GO, {"callbacks": [handler]})
    assert found(recorder, "audit") == []
    assert {c.findings for c in recorder.seen if c.name == "audit"} == {0}


def test_who_says_done_of_the_same_thing_each_time_is_stuck() -> None:
    """It was something else only once."""
    things = iter(["a letter", *["an invoice"] * 9])

    @tool
    def get_day() -> str:
        """Looks."""
        return next(things)

    worker = create_agent(ScriptedChatModel(script=[asks_once("get_day", "Done.")]), [get_day])
    assert Bosses(worker, ["News?"] * 9).run() == [("tool_loop", "high", 8)]


def test_of_more_agents_at_once_than_there_is_room_for_nothing_is_said() -> None:
    """Twelve workers begin, and then each finds the same as ever, and something else."""
    together, count = threading.Barrier(12), itertools.count()

    @tool
    def get_stock_twice(first: bool) -> str:
        """Looks."""
        together.wait(timeout=30)
        return f"number {next(count)}" if first else "as ever"

    def works(messages: Sequence[BaseMessage]) -> AIMessage:
        seen = sum(m.type == "tool" for m in messages)
        return AIMessage("Done.") if seen == 2 else call_tool("get_stock_twice", first=seen == 0)

    staff = create_agent(ScriptedChatModel(script=[works]), [get_stock_twice])

    @tool
    def ask_worker(task: str) -> str:
        """Has somebody do it."""
        return f"{staff.invoke({'messages': [HumanMessage(task)]})['messages'][-1].content} {next(count)}"

    recorder, handler = recorded()
    asks = AIMessage(
        "", tool_calls=[call for n in range(12) for call in call_tool("ask_worker", task=f"t{n}").tool_calls]
    )
    app = create_agent(ScriptedChatModel(script=[asks] * 4 + [AIMessage("done")]), [ask_worker])
    app.invoke(GO, {"callbacks": [handler], "max_concurrency": 12})
    assert found(recorder, "ask_worker") == []
