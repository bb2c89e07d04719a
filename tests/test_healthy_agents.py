"""Agents at work as they should be: whatever looks like a loop and is none raises nothing, in block mode neither."""

from __future__ import annotations

import contextlib
import itertools
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import before_model
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import InjectedToolCallId, ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState
from langgraph.types import Command, Send, interrupt

from ts_langchain import TokenSentinelHandler, WasteBlocked
from ts_langchain.testing import ScriptedChatModel, call_tool

pytestmark = pytest.mark.usefixtures("calm_collector")

DONE = AIMessage("That is all, and this is what came of it.")
WORDS = ("costs", "time", "risks", "people", "law", "taxes", "travel", "tools")


@tool
def edit_file(path: str, old: str, new: str) -> str:
    """Edits."""
    return f"Edited {path}"


@tool
def run_tests() -> str:
    """Tests."""
    return "1 failed, 41 passed"


def _fail() -> str:
    """Tests."""
    raise ToolException("1 failed, 41 passed")


failing_tests = tool("failing_tests")(_fail)
failing_tests.handle_tool_error = True


@tool
def bash(command: str) -> str:
    """Runs a command."""
    return "1 failed" if "pytest" in command else ""


@tool
def browser_click(ref: str) -> str:
    """Clicks."""
    return "clicked"


@tool
def browser_snapshot() -> str:
    """Looks."""
    return "a page with a form"


@tool
def browser_wait_for(time: int) -> str:
    """Waits."""
    return f"waited {time} s"


@tool
def list_items(cursor: str = "") -> str:
    """Lists."""
    return f"items after {cursor}"


@tool
def guess(n: int) -> str:
    """Guesses."""
    return "too low" if n < 90 else "right"


@tool
def think(thought: str) -> str:
    """Thinks."""
    return "Your thought has been logged."


@tool
def do_task(task: str) -> str:
    """Works."""
    return "ok"


@tool
def process(item: str) -> str:
    """Works."""
    return "done"


@tool
def write_todos(todos: list[str]) -> str:
    """Plans."""
    return "Updated the list."


@tool
def send_email(to: str, body: str) -> str:
    """Sends."""
    return "sent"


@tool
def send_message(text: str) -> str:
    """Sends."""
    return "sent"


@tool
def ask_user(question: str) -> str:
    """Asks."""
    return "yes"


@tool
def run_sql(query: str) -> str:
    """Asks a database."""
    return "[]"


@tool
def get_order(number: str) -> str:
    """Looks an order up."""
    return f"order {number} is on its way"


pages = itertools.count()


@tool
def browser_read() -> str:
    """Looks."""
    return f"rows {next(pages)}0 to {next(pages)}9"


@tool
def refurbish(part: str) -> str:
    """Nobody can say what it does."""
    return "done"


@tool
def search_flights(query: str) -> str:
    """Searches."""
    return "No results."


@tool
def sql_query(query: str) -> str:
    """Asks a database."""
    return ""


@tool
def moderate(text: str) -> str:
    """Judges a text."""
    return "ok"


@tool
def notify(recipient: str, text: str) -> str:
    """Tells somebody."""
    return "ok"


@tool
def get_job(job: str) -> list[dict[str, str]]:
    """Looks a job up; answers in blocks."""
    return [{"type": "text", "text": "Job j1: in_progress"}]


@tool
def get_policy(topic: str) -> str:
    """Reads the policy."""
    return "Refunds within 30 days of delivery, in the original packaging."


@tool
def wait_minutes(minutes: int) -> str:
    """Waits."""
    return f"Waited {minutes} minutes."


@tool("waitSeconds")
def wait_seconds(seconds: int) -> str:
    """Waits."""
    return "ok"


coins = itertools.count()


@tool
def flip_coin() -> str:
    """Leaves it to chance."""
    return ("heads", "tails")[next(coins) // 3 % 2]


@tool
def tail_log(path: str) -> str:
    """Looks."""
    return "started\n" * 20_000 + f"event {next(pages):07}"


@tool
def listen() -> str:
    """Waits for somebody to speak."""
    return ""


@tool
def get_time() -> str:
    """Looks at the clock."""
    return "10:00"


@tool
def heartbeat(run: str) -> str:
    """Says that it is alive."""
    return "ok"


@tool
def report_progress(text: str) -> str:
    """Nobody can say what it does."""
    return "ok"


@tool
def check_link(url: str) -> str:
    """Judges."""
    return "200 OK"


def _weather(city: str) -> str:
    """Looks."""
    raise ToolException("weather service unavailable")


weather = tool("get_weather")(_weather)
weather.handle_tool_error = True


def _geocode(address: str) -> str:
    """Looks."""
    raise ToolException("address not found")


geocode = tool("geocode")(_geocode)
geocode.handle_tool_error = True


@tool
def review(text: str) -> str:
    """Shows it to a human."""
    return str(interrupt(text))


@tool
def request_payment(to: str) -> str:
    """Pays once a human has said yes."""
    return f"{interrupt('Pay?')}: paid"


def _python_repl(code: str) -> str:
    """Runs code."""
    raise ToolException("SyntaxError: invalid syntax")


python_repl = tool("python_repl")(_python_repl)
python_repl.handle_tool_error = True


def side_by_side(name: str, *given: dict[str, Any]) -> AIMessage:
    """Calls of one tool in one message."""
    calls: Any = [{"name": name, "args": g, "id": f"{name}{n}", "type": "tool_call"} for n, g in enumerate(given)]
    return AIMessage("", tool_calls=calls)


def edited(n: int) -> AIMessage:
    return call_tool("edit_file", path="a.py", old=f"x{n}", new=f"x{n + 1}")


SCRIPTS: dict[str, tuple[list[AIMessage], list[Any]]] = {
    "edits, and the same test fails": (
        [step for n in range(6) for step in (edited(n), call_tool("run_tests"))],
        [edit_file, run_tests],
    ),
    "edits, and the same error comes": (
        [step for n in range(6) for step in (edited(n), call_tool("failing_tests"))],
        [edit_file, failing_tests],
    ),
    "commands, and the same test fails": (
        [
            call_tool("bash", command=command)
            for n in range(6)
            for command in (f"sed -i s/x{n}/x{n + 1}/ a.py", "pytest -q")
        ],
        [bash],
    ),
    "a form is filled in": (
        [s for n in range(6) for s in (call_tool("browser_click", ref=f"field {n}"), call_tool("browser_snapshot"))],
        [browser_click, browser_snapshot],
    ),
    "one document after the other": (
        [step for w in WORDS for step in (call_tool("process", item=w), call_tool("do_task", task=f"file {w}"))],
        [process, do_task],
    ),
    "waiting for a page": (
        [step for _ in range(6) for step in (call_tool("browser_wait_for", time=3), call_tool("browser_snapshot"))],
        [browser_wait_for, browser_snapshot],
    ),
    "pages of a list": ([call_tool("list_items", cursor=f"c{n}") for n in range(8)], [list_items]),
    "guesses": ([call_tool("guess", n=n * 10) for n in range(1, 10)], [guess]),
    "thoughts": ([call_tool("think", thought=f"Now I weigh the {w} of this plan.") for w in WORDS], [think]),
    "tasks and plans": (
        [
            step
            for n, word in enumerate(WORDS)
            for step in (call_tool("do_task", task=word), call_tool("write_todos", todos=list(WORDS[:n])))
        ],
        [do_task, write_todos],
    ),
    "a message to each of many": (
        [call_tool("send_message", text=f"Dear {w} team, the meeting is moved to Monday at ten.") for w in WORDS],
        [send_message],
    ),
    "questions to a person": ([call_tool("ask_user", question="Shall I go on?") for _ in range(6)], [ask_user]),
    "one mail to many": (
        [call_tool("send_email", to=f"{w}@example.org", body="The meeting is moved to Monday at ten.") for w in WORDS],
        [send_email],
    ),
    "the next page, again and again": (
        [s for _ in range(6) for s in (call_tool("browser_click", ref="next"), call_tool("browser_read"))],
        [browser_click, browser_read],
    ),
    "flights to one city and another": (
        [
            call_tool("search_flights", query=f"cheap direct flights from Berlin to {city} next weekend")
            for city in ("Rome", "Oslo", "Madrid", "Porto")
        ],
        [search_flights],
    ),
    "one table and another": (
        [
            call_tool(
                "sql_query",
                query=f"SELECT id, name FROM {table} WHERE gone IS NULL AND plan IS NOT NULL",  # noqa: S608
            )
            for table in ("customers", "suppliers", "partners", "people")
        ],
        [sql_query],
    ),
    "texts that are alike": (
        [call_tool("moderate", text=f"This is a really great {word} and I love it") for word in WORDS],
        [moderate],
    ),
    "one person and another": (
        [
            call_tool("notify", recipient=f"{first} von Lovelace", text="Moved to ten")
            for first in ("Ada", "Ida", "Karl")
        ],
        [notify],
    ),
    "a job under way": ([call_tool("get_job", job="j1")] * 8, [get_job]),
    "an outage, asked about in one message": (
        [side_by_side("get_weather", *({"city": city} for city in "abcdef"))],
        [weather],
    ),
    "waiting, and nothing else": ([call_tool("wait_minutes", minutes=2)] * 8, [wait_minutes]),
    "waiting for what is not there yet": (
        [s for _ in range(8) for s in (call_tool("waitSeconds", seconds=30), call_tool("get_order", number="o1"))],
        [wait_seconds, get_order],
    ),
    "coins": ([call_tool("flip_coin")] * 20, [flip_coin]),
    "hotels near one thing and another": (
        [call_tool("search_flights", query=f"cheap hotels near the {w}") for w in ("harbour", "airport", "station")],
        [search_flights],
    ),
    "the weather here and there, in Japanese": (
        [call_tool("search_flights", query=f"{city}の天気について教えて") for city in ("東京", "大阪", "京都", "札幌")],
        [search_flights],
    ),
    "rows that are mended, and counted by the same query": (
        [
            call_tool("sql_query", query=query)
            for n in range(6)
            for query in (f"UPDATE t SET a = 1 WHERE id = {n}", "SELECT count(*) FROM t WHERE a IS NULL")  # noqa: S608
        ],
        [sql_query],
    ),
    "a command that waits first": ([call_tool("bash", command="sleep 10 && kubectl get pods")] * 6, [bash]),
    "silence": ([call_tool("listen")] * 6, [listen]),
    "a sign of life": (
        [s for n in range(8) for s in (call_tool("heartbeat", run="r"), call_tool("get_order", number=f"o{n}"))],
        [heartbeat, get_order],
    ),
    "queries that find nothing": (
        [call_tool("run_sql", query=f"open orders of customer {n} please") for n in range(8)],
        [run_sql],
    ),
}


@pytest.mark.parametrize("mode", ["observe", "block"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_an_agent(name: str, mode: Any) -> None:
    script, tools = SCRIPTS[name]
    model = ScriptedChatModel(script=[*script, DONE])
    handler = TokenSentinelHandler(mode=mode)
    app = create_agent(model, tools)
    out = app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 200})
    assert out["messages"][-1].content == DONE.content
    assert model.calls == len(script) + 1
    assert handler.sentinel.incidents() == []
    assert handler.sentinel.health().ok


def test_a_writer_and_a_critic() -> None:
    """A supervisor gives the task to one and to the other, until the text is good."""

    def handoff(to: str) -> Any:
        def transfer(
            state: Annotated[dict[str, Any], InjectedState], tool_call_id: Annotated[str, InjectedToolCallId]
        ) -> Command[Any]:
            """Gives the task to an agent."""
            done = ToolMessage(f"Successfully transferred to {to}", tool_call_id=tool_call_id)
            return Command(goto=to, graph=Command.PARENT, update={"messages": [*state["messages"], done]})

        return tool(f"transfer_to_{to}")(transfer)

    turns = [call_tool("transfer_to_writer"), call_tool("transfer_to_critic")] * 4
    boss = ScriptedChatModel(script=[*turns, DONE])
    writer = ScriptedChatModel(script=[AIMessage(f"Of the sea and its {w}, verse {n}") for n, w in enumerate(WORDS)])
    critic = ScriptedChatModel(script=[AIMessage(f"It lacks {w}; say more of them.") for w in WORDS])
    builder = StateGraph(MessagesState)
    tools = [handoff("writer"), handoff("critic")]
    builder.add_node("boss", create_agent(boss, tools), destinations=("writer", "critic"))
    for name, model in (("writer", writer), ("critic", critic)):
        builder.add_node(name, create_agent(model, []))
        builder.add_edge(name, "boss")
    builder.add_edge(START, "boss")
    handler = TokenSentinelHandler(mode="block")
    config: Any = {"callbacks": [handler], "recursion_limit": 200}
    out = builder.compile().invoke({"messages": [HumanMessage("Write a poem.")]}, config)
    assert out["messages"][-1].content == DONE.content
    assert (boss.calls, writer.calls, critic.calls) == (9, 4, 4)
    assert handler.sentinel.incidents() == []


def test_a_worker_that_takes_the_next_one_each_time() -> None:
    """It closes what is open, says so, and is sent again."""

    @tool
    def transfer_to_worker(
        state: Annotated[dict[str, Any], InjectedState], tool_call_id: Annotated[str, InjectedToolCallId]
    ) -> Command[Any]:
        """Gives the task to the worker."""
        done = ToolMessage("ok", tool_call_id=tool_call_id)
        return Command(goto="worker", graph=Command.PARENT, update={"messages": [*state["messages"], done]})

    @tool
    def close_ticket() -> str:
        """Closes the oldest."""
        return "closed"

    boss = ScriptedChatModel(script=[*[call_tool("transfer_to_worker")] * 6, DONE])
    worker = ScriptedChatModel(script=[call_tool("close_ticket"), AIMessage("Done.")] * 6)
    builder = StateGraph(MessagesState)
    builder.add_node("boss", create_agent(boss, [transfer_to_worker]), destinations=("worker",))
    builder.add_node("worker", create_agent(worker, [close_ticket]))
    builder.add_edge(START, "boss")
    builder.add_edge("worker", "boss")
    handler = TokenSentinelHandler(mode="block")
    config: Any = {"callbacks": [handler], "recursion_limit": 99}
    out = builder.compile().invoke({"messages": [HumanMessage("Close all tickets.")]}, config)
    assert out["messages"][-1].content == DONE.content
    assert [(i.rule, i.severity) for i in handler.sentinel.incidents()] == [("handoff_loop", "medium")]


def test_a_chat_in_which_the_user_asks_the_same_again() -> None:
    """What was looked up again is told, as small waste; nothing is stopped."""
    script = [step for n in range(12) for step in (call_tool("get_order", number=f"o{n % 3}"), AIMessage(f"Yes. {n}"))]
    app = create_agent(ScriptedChatModel(script=script), [get_order], checkpointer=InMemorySaver())
    handler = TokenSentinelHandler(mode="block")
    config: Any = {"callbacks": [handler], "configurable": {"thread_id": "t"}}
    for n in range(12):
        app.invoke({"messages": [HumanMessage(f"Where is my order o{n % 3}?")]}, config)
    found = handler.sentinel.incidents()
    assert [(i.rule, i.severity, i.calls) for i in found] == [("tool_loop", "low", 3)] * 3


@tool
def out_of_order(part: str) -> str:
    """Fails."""
    raise ValueError(part)


def worker(ticket: object) -> str:
    """An agent of its own: it looks at the policy once."""
    script = [call_tool("get_policy", topic="refunds"), AIMessage(f"Ticket {ticket}: yes, for reason {ticket}.")]
    app = create_agent(ScriptedChatModel(script=script), [get_policy])
    return str(app.invoke({"messages": [HumanMessage(f"Ticket {ticket}: may I return it?")]})["messages"][-1].content)


class Tickets(TypedDict):
    tickets: list[int]
    answers: Annotated[list[str], operator.add]


def mapped() -> Any:
    """Workers side by side."""
    builder = StateGraph(Tickets)
    builder.add_node("work", lambda state: {"answers": [worker(state["tickets"][0])]})
    builder.add_conditional_edges(
        START, lambda state: [Send("work", {"tickets": [ticket]}) for ticket in state["tickets"]], ["work"]
    )
    builder.add_edge("work", END)
    return builder.compile()


def test_workers_that_look_at_the_same_each_in_a_conversation_of_its_own() -> None:
    """Told as what a cache would save; whoever has not been told had to ask, so that no token is waste."""
    one_by_one = RunnableLambda(lambda tickets: [worker(ticket) for ticket in tickets])
    for app, given in ((mapped(), {"tickets": list(range(6)), "answers": []}), (one_by_one, list(range(6)))):
        handler = TokenSentinelHandler(mode="block")
        app.invoke(given, {"callbacks": [handler]})
        [found] = handler.sentinel.incidents()
        assert (found.rule, found.severity, found.calls, found.wasted_tokens) == ("tool_loop", "low", 5, 0)


@pytest.mark.parametrize("width", [1, None])
def test_tasks_of_one_superstep_do_not_know_of_each_other(width: int | None) -> None:
    """Nor where they run one after the other."""
    model = ScriptedChatModel(script=["yes"], temperature=0.0)
    asks = ScriptedChatModel(script=[call_tool("get_order", number="o2")])

    def work(state: Tickets) -> dict[str, Any]:
        ticket = state["tickets"][0]
        get_policy.invoke({"topic": "refunds"})
        get_order.invoke({"number": "o1"})
        get_order.invoke(asks.invoke(f"Is it {ticket % 2}?").tool_calls[0])
        for _ in range(2):
            with contextlib.suppress(ValueError):
                out_of_order.invoke({"part": "door"})
        return {"answers": [str(model.invoke(f"Is it {ticket % 2}?").content)]}

    builder = StateGraph(Tickets)
    builder.add_node("work", work)
    builder.add_conditional_edges(
        START, lambda state: [Send("work", {"tickets": [ticket]}) for ticket in state["tickets"]], ["work"]
    )
    handler = TokenSentinelHandler(mode="block")
    app = builder.compile()
    app.invoke({"tickets": list(range(24)), "answers": []}, {"callbacks": [handler], "max_concurrency": width})
    found = {(i.rule, i.severity) for i in handler.sentinel.incidents()}
    assert found >= {("tool_loop", "low"), ("error_loop", "medium")}
    assert all(severity != "high" for _, severity in found)


@pytest.mark.parametrize("width", [1, 5])
def test_rows_of_one_session(width: int) -> None:
    def answer(messages: list[Any]) -> AIMessage:
        asked = messages[-1].type == "human"
        return call_tool("get_policy", topic="refunds") if asked else AIMessage(f"Covered: {messages[0].content}")

    app = create_agent(ScriptedChatModel(script=[answer]), [get_policy])
    handler = TokenSentinelHandler(mode="block")
    rows: list[Any] = [{"messages": [HumanMessage(f"Ticket {n}")]} for n in range(30)]
    with handler.sentinel.session("nightly"):
        app.batch(rows, {"callbacks": [handler], "max_concurrency": width})
    [found] = handler.sentinel.incidents()
    assert (found.severity, found.wasted_tokens) == ("low", 0)


def test_forks_of_a_checkpoint_and_nodes_that_are_run_again() -> None:
    handler = TokenSentinelHandler(mode="block")
    script = [call_tool("get_policy", topic="refunds"), *(AIMessage(f"Covered, version {n}.") for n in range(9))]
    app = create_agent(ScriptedChatModel(script=script), [get_policy], checkpointer=InMemorySaver())
    config: Any = {"callbacks": [handler], "configurable": {"thread_id": "t"}}
    app.invoke({"messages": [HumanMessage("Refund?")]}, config)
    before = next(s for s in app.get_state_history(config) if s.next == ("tools",))
    for _ in range(4):
        app.invoke(None, {**before.config, "callbacks": [handler]})

    def node(_state: Any) -> dict[str, Any]:
        text = get_policy.invoke({"topic": "x"})
        for number in range(4):
            interrupt(f"question {number}")
        return {"messages": [AIMessage(text)]}

    builder = StateGraph(MessagesState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    graph = builder.compile(checkpointer=InMemorySaver())
    config = {"callbacks": [handler], "configurable": {"thread_id": "u"}}
    graph.invoke({"messages": []}, config)
    for _ in range(4):
        graph.invoke(Command(resume="yes"), config)
    assert {i.severity for i in handler.sentinel.incidents()} == {"low"}


def test_a_loop_in_one_turn_leaves_the_next_ones_alone() -> None:
    now = [1_790_000_000.0]
    handler = TokenSentinelHandler(mode="block", clock=lambda: now[0])
    looks = [call_tool("get_order", number="o1")]
    config: Any = {"callbacks": [handler], "metadata": {"thread_id": "t"}}
    with pytest.raises(WasteBlocked):
        create_agent(ScriptedChatModel(script=looks * 4), [get_order]).invoke(
            {"messages": [HumanMessage("Where is o1?")]}, config
        )
    for number in range(2):
        now[0] += 300
        script = [*looks, AIMessage(f"On its way, {number}.")]
        out = create_agent(ScriptedChatModel(script=script), [get_order]).invoke(
            {"messages": [HumanMessage(f"And now, again? {number}")]}, config
        )
        assert out["messages"][-1].content == f"On its way, {number}."


def test_after_an_outage_the_request_goes_through() -> None:
    now, down = [1_790_000_000.0], [True]
    handler = TokenSentinelHandler(mode="block", clock=lambda: now[0])

    def answer(_messages: list[Any]) -> AIMessage:
        if down[0]:
            raise ConnectionError("503")
        return AIMessage("The report of today.")

    model = ScriptedChatModel(script=[answer])
    config: Any = {"callbacks": [handler], "metadata": {"thread_id": "daily"}}

    def ask(after: float) -> str:
        now[0] += after
        try:
            return str(model.invoke("Write the report.", config).content)
        except (ConnectionError, WasteBlocked) as error:
            return type(error).__name__

    assert [ask(1) for _ in range(7)] == ["ConnectionError"] * 5 + ["WasteBlocked"] * 2
    assert [ask(31), ask(1), ask(31)] == ["ConnectionError", "WasteBlocked", "ConnectionError"]  # one try each time
    down[0] = False
    assert ask(10) == "WasteBlocked"
    assert [ask(31), ask(86_400), ask(86_400)] == ["The report of today."] * 3


def test_answers_of_a_cache_cost_nothing() -> None:
    handler = TokenSentinelHandler(mode="block")
    model = ScriptedChatModel(script=["friendly"], temperature=0.0, cache=InMemoryCache())
    with handler.sentinel.session("s"):
        for _ in range(9):
            model.invoke("Is 'thank you' friendly?", {"callbacks": [handler]})
    assert model.calls == 1
    assert handler.sentinel.incidents() == []


def test_rows_of_a_batch_that_are_alike() -> None:
    handler = TokenSentinelHandler(mode="block")
    model = ScriptedChatModel(script=[lambda _: AIMessage("positive")], temperature=0.0)
    with handler.sentinel.session("rows"):
        for number in range(40):
            model.invoke(f"Label this review: {('fine', 'great', 'thanks')[number % 3]}", {"callbacks": [handler]})
    assert model.calls == 40
    assert {(i.rule, i.severity) for i in handler.sentinel.incidents()} == {("retry_storm", "low")}


@pytest.mark.parametrize("last", [HumanMessage("Is it friendly?"), AIMessage('{"friendly": ')])
def test_rows_of_one_length_between_an_instruction_and_a_question(last: Any) -> None:
    """Or words that the model is to go on with, which it has not said."""
    model = ScriptedChatModel(script=["true"], temperature=0.0)
    handler = TokenSentinelHandler(mode="block")
    judge = RunnableLambda(
        lambda rows: [model.invoke([HumanMessage("You judge reviews."), HumanMessage(row), last]) for row in rows]
    )
    judge.invoke([f"Review number {n}" for n in range(10, 30)], {"callbacks": [handler]})
    assert handler.sentinel.incidents() == []


def test_rows_that_are_judged_one_by_one_for_minutes() -> None:
    now = [1_790_000_000.0]

    def clock() -> float:
        now[0] += 3  # a model takes its time
        return now[0]

    judge = ScriptedChatModel(script=["yes", "no"] * 50)
    handler = TokenSentinelHandler(mode="block", clock=clock)
    rows = RunnableLambda(lambda given: [judge.invoke(f"Is row {n} complete?").content for n in given])
    rows.invoke(list(range(100)), {"callbacks": [handler]})
    assert "zombie" not in {i.rule for i in handler.sentinel.incidents()}


def test_samples_at_the_default_temperature() -> None:
    handler = TokenSentinelHandler(mode="block")
    model = ScriptedChatModel(script=[f"The answer is {40 + n}, for reason {n}." for n in range(10)])
    model.batch(["Solve step by step: " + "a long problem statement " * 50] * 10, {"callbacks": [handler]})
    assert handler.sentinel.incidents() == []


@pytest.mark.parametrize("look", ["get_order", "browser_snapshot"])
def test_what_an_unknown_tool_may_have_changed_is_looked_at_again(look: str) -> None:
    given = {"number": "o1"} if look == "get_order" else {}
    script = [s for n in range(5) for s in (call_tool("refurbish", part=f"part {n}"), call_tool(look, **given))]
    handler = TokenSentinelHandler(mode="block")
    app = create_agent(ScriptedChatModel(script=[*script, DONE]), [refurbish, get_order, browser_snapshot])
    app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99})
    assert {i.severity for i in handler.sentinel.incidents()} == {"low"}


@pytest.mark.parametrize(
    "name",
    [
        "press_key",
        "add_to_cart",
        "undo",
        "scroll",
        "sell_shares",
        "siguiente",
        "volume_up",
        "show_next_card",
        "load_more",
        "check_in_guest",
    ],
)
def test_what_is_done_again_may_be_meant(name: str) -> None:
    act = tool(name)(do_task.func)  # type: ignore[attr-defined]
    handler = TokenSentinelHandler(mode="block")
    app = create_agent(ScriptedChatModel(script=[*[call_tool(name, task="a")] * 5, DONE]), [act])
    app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99})
    assert [i.severity for i in handler.sentinel.incidents()] == ["medium"]


@pytest.mark.parametrize("name", ["press_key", "undo", "scroll_down", "next_slide", "volume_up", "suivant_page_down"])
@pytest.mark.parametrize(("times", "severity"), [(11, "medium"), (12, "high")])
def test_steps_from_where_one_is(name: str, times: int, severity: str) -> None:
    """Eleven times the arrow key is how one gets down a menu; for ever it is a loop all the same."""
    act = tool(name)(do_task.func)  # type: ignore[attr-defined]
    handler = TokenSentinelHandler()
    app = create_agent(ScriptedChatModel(script=[*[call_tool(name, task="a")] * times, DONE]), [act])
    app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99})
    assert [i.severity for i in handler.sentinel.incidents()] == [severity]


@pytest.mark.parametrize(
    "names",
    [("move_forward", "turn_left"), ("turn_on", "turn_off"), ("avancer", "tourner"), ("press_key", "process_item")],
)
def test_steps_in_turn_may_be_meant(names: tuple[str, str]) -> None:
    """A robot goes round in a square; `ok` is all it is told."""
    acts = [tool(name)(do_task.func) for name in names]  # type: ignore[attr-defined]
    script = [call_tool(name, task="a") for _ in range(4) for name in names]
    handler = TokenSentinelHandler(mode="block")
    app = create_agent(ScriptedChatModel(script=[*script, DONE]), acts)
    app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99})
    assert "high" not in {i.severity for i in handler.sentinel.incidents()}


@pytest.mark.parametrize("together", [False, True])
def test_people_that_are_on_neither_list(together: bool) -> None:
    """It is told, since nothing was found, and may go on: each time it is somebody else."""
    lists = [tool(name)(_on_no_list) for name in ("check_sanctions", "find_lead")]
    script: list[AIMessage] = []
    for n in range(8):
        asked = [call_tool(each.name, person=f"p{n}") for each in lists]
        calls = [call for message in asked for call in message.tool_calls]
        script += [AIMessage("", tool_calls=calls)] if together else asked
    handler = TokenSentinelHandler(mode="block")
    app = create_agent(ScriptedChatModel(script=[*script, DONE]), lists)
    app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99})
    assert [(i.rule, i.severity) for i in handler.sentinel.incidents()] == [("ping_pong", "medium")]


def _on_no_list(person: str) -> str:
    """Looks somebody up."""
    return "no match"


def test_places_that_are_not_on_the_map() -> None:
    handler = TokenSentinelHandler(mode="block")
    script = [*(call_tool("geocode", address=w) for w in WORDS[:5]), DONE]
    create_agent(ScriptedChatModel(script=script), [geocode]).invoke(
        {"messages": [HumanMessage("go")]}, {"callbacks": [handler]}
    )
    assert [(i.rule, i.severity) for i in handler.sentinel.incidents()] == [("error_loop", "medium")]


@pytest.mark.parametrize(("name", "given"), [("get_time", {}), ("report_progress", {"text": "Still working on it."})])
def test_an_agent_that_gets_on_is_not_stuck(name: str, given: dict[str, Any]) -> None:
    """It does the same before each step, which is told; each step brings something new."""
    script = [s for n in range(8) for s in (call_tool(name, **given), call_tool("get_order", number=f"o{n}"))]
    handler = TokenSentinelHandler(mode="block")
    app = create_agent(ScriptedChatModel(script=[*script, DONE]), [get_time, report_progress, get_order])
    config: Any = {"callbacks": [handler], "recursion_limit": 99}
    assert app.invoke({"messages": [HumanMessage("go")]}, config)["messages"][-1].content == DONE.content
    [found] = handler.sentinel.incidents()
    assert (found.rule, found.severity, found.calls) == ("tool_loop", "medium", 7)


def test_a_long_log_of_which_only_the_end_is_new() -> None:
    handler = TokenSentinelHandler(mode="block")
    script = [*[call_tool("tail_log", path="app.log")] * 6, DONE]
    create_agent(ScriptedChatModel(script=script), [tail_log]).invoke(
        {"messages": [HumanMessage("go")]}, {"callbacks": [handler]}
    )
    assert {i.rule for i in handler.sentinel.incidents()} == {"cache_miss", "context_bloat"}


def test_each_file_is_loaded_and_judged() -> None:
    """Nothing tells the answers apart; it gets on."""
    acts = [tool(name)(do_task.func) for name in ("load_file", "count_errors")]  # type: ignore[attr-defined]
    script = [s for w in WORDS for s in (call_tool("load_file", task=w), call_tool("count_errors", task="current"))]
    handler = TokenSentinelHandler(mode="block")
    app = create_agent(ScriptedChatModel(script=[*script, DONE]), acts)
    app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99})
    assert {i.severity for i in handler.sentinel.incidents()} == {"medium"}


def test_what_is_there_already() -> None:
    """One account after the other; whoever has one keeps it."""

    def create(name: str) -> str:
        """Creates an account."""
        raise ToolException("409: already exists")

    account = tool("create_user")(create)
    account.handle_tool_error = True
    script = [*(call_tool("create_user", name=f"u{n}") for n in range(5)), DONE]
    handler = TokenSentinelHandler(mode="block")
    create_agent(ScriptedChatModel(script=script), [account]).invoke(
        {"messages": [HumanMessage("go")]}, {"callbacks": [handler]}
    )
    assert [(i.rule, i.severity) for i in handler.sentinel.incidents()] == [("error_loop", "medium")]


def test_a_limit_that_is_waited_for() -> None:
    """It waits longer each time, as it should."""
    tries = itertools.count()

    def create(title: str) -> str:
        """Creates an issue."""
        if next(tries) < 5:
            raise ToolException("429: rate limit exceeded")
        return "created"

    @tool
    def sleep(seconds: int) -> str:
        """Waits."""
        return "ok"

    issue = tool("create_issue")(create)
    issue.handle_tool_error = True
    script = [s for n in range(6) for s in (call_tool("create_issue", title="a"), call_tool("sleep", seconds=2**n))]
    handler = TokenSentinelHandler(mode="block")
    app = create_agent(ScriptedChatModel(script=[*script[:-1], DONE]), [issue, sleep])
    app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99})
    assert {(i.rule, i.severity) for i in handler.sentinel.incidents()} == {
        ("error_loop", "medium"),
        ("tool_loop", "low"),
    }


def test_links_that_are_all_fine() -> None:
    """It takes more than five minutes, and each answer is the same."""
    now = [1_790_000_000.0]

    def clock() -> float:
        now[0] += 5
        return now[0]

    script = [*(call_tool("check_link", url=f"https://example.com/{n}") for n in range(40)), DONE]
    handler = TokenSentinelHandler(mode="block", clock=clock)
    app = create_agent(ScriptedChatModel(script=script), [check_link])
    app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99})
    assert handler.sentinel.incidents() == []


class Shelf(BaseRetriever):
    """Has two documents."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document("Refunds within 30 days.", id="1"), Document("Send it back first.", id="2")]


def test_several_wordings_of_one_question() -> None:
    """A model words the question anew, and code asks for the documents of each wording."""
    wordings = ["how do refunds work", "how does a refund work", "how do I get a refund", "how do refunds of it work"]
    model = ScriptedChatModel(script=["\n".join(wordings), "Send it back within 30 days."])
    shelf = Shelf()

    def answer(question: str) -> str:
        found = [d for wording in str(model.invoke(question).content).split("\n") for d in shelf.invoke(wording)]
        return str(model.invoke(f"{question} {found[:2]}").content)

    handler = TokenSentinelHandler(mode="block")
    assert RunnableLambda(answer).invoke("Refund?", {"callbacks": [handler]}) == "Send it back within 30 days."
    assert "high" not in {i.severity for i in handler.sentinel.incidents()}


@pytest.mark.parametrize("shelf", [Shelf(), get_policy])
def test_each_section_is_written_from_the_same_documents(shelf: Any) -> None:
    """They could be kept; each section is another one."""
    model = ScriptedChatModel(script=[f"Section {n} is about {word}." for n, word in enumerate(WORDS)])
    asked: Any = {"topic": "refunds"} if shelf is get_policy else "refunds"

    def write(words: tuple[str, ...]) -> list[Any]:
        return [model.invoke(f"Write about {word}: {shelf.invoke(asked)}").content for word in words]

    handler = TokenSentinelHandler(mode="block")
    assert len(RunnableLambda(write).invoke(WORDS, {"callbacks": [handler]})) == len(WORDS)
    assert [i.severity for i in handler.sentinel.incidents()] == ["medium"]


@pytest.mark.parametrize("before", [True, False])
def test_code_that_looks_the_same_up_for_each_row(before: bool) -> None:
    """No model has asked for it, nor heard of it."""
    model = ScriptedChatModel(script=["Let us see.", "The sum is 12."])

    def add_up(rows: list[int]) -> str:
        if before:
            model.invoke("What now?")
        found = [get_policy.invoke({"topic": "rates"}) for _ in rows]
        return str(model.invoke(f"Add up: {found}").content)

    handler = TokenSentinelHandler(mode="block")
    RunnableLambda(add_up).invoke(list(range(12)), {"callbacks": [handler]})
    assert model.calls == 1 + before
    assert {i.severity for i in handler.sentinel.incidents()} == {"low"}


def test_each_step_is_checked_by_the_same_question() -> None:
    """A cache would do; the agent gets on."""
    judge = ScriptedChatModel(script=["safe"], temperature=0.0)

    @before_model
    def check(state: Any, runtime: Any) -> None:
        judge.invoke(f"Is this safe? {state['messages'][0].content}")

    script = [*(call_tool("get_order", number=f"o{n}") for n in range(10)), DONE]
    handler = TokenSentinelHandler(mode="block")
    app = create_agent(ScriptedChatModel(script=script), [get_order], middleware=[check])
    app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99})
    assert judge.calls == 11
    assert [(i.rule, i.severity) for i in handler.sentinel.incidents()] == [("retry_storm", "low")]


def test_code_that_is_written_anew_each_time() -> None:
    """The same error is told; after three tries it may still work."""
    script = [*(call_tool("python_repl", code=f"1 + * {n}") for n in range(4)), DONE]
    handler = TokenSentinelHandler(mode="block")
    create_agent(ScriptedChatModel(script=script), [python_repl]).invoke(
        {"messages": [HumanMessage("go")]}, {"callbacks": [handler]}
    )
    assert [(i.rule, i.severity) for i in handler.sentinel.incidents()] == [("error_loop", "medium")]


def test_what_a_human_has_allowed_each_time() -> None:
    now = [1_790_000_000.0]
    handler = TokenSentinelHandler(mode="block", clock=lambda: now[0])
    model = ScriptedChatModel(script=[*[call_tool("request_payment", to="acme")] * 8, DONE])
    app = create_agent(model, [request_payment], checkpointer=InMemorySaver())
    config: Any = {"callbacks": [handler], "configurable": {"thread_id": "t"}}
    out = app.invoke({"messages": [HumanMessage("Pay the eight bills.")]}, config)
    while "__interrupt__" in out:
        now[0] += 10
        out = app.invoke(Command(resume="yes"), config)
    assert out["messages"][-1].content == DONE.content
    assert handler.sentinel.incidents() == []


@pytest.mark.parametrize("who", [review, ask_user])
def test_a_person_wants_it_looked_up_once_more(who: Any) -> None:
    given = {"text": "It is on its way."} if who is review else {"question": "Is that right?"}
    script = [s for _ in range(6) for s in (call_tool("get_order", number="o1"), call_tool(who.name, **given))]
    handler = TokenSentinelHandler(mode="block")
    model = ScriptedChatModel(script=[*script, DONE])
    app = create_agent(model, [get_order, who], checkpointer=InMemorySaver())
    config: Any = {"callbacks": [handler], "configurable": {"thread_id": "t"}}
    out = app.invoke({"messages": [HumanMessage("Where is o1?")]}, config)
    while "__interrupt__" in out:
        out = app.invoke(Command(resume="Look once more, please."), config)
    assert out["messages"][-1].content == DONE.content
    assert handler.sentinel.incidents() == []


@pytest.mark.parametrize("names", ["abcdef", "aaa"])
def test_agents_of_one_graph_that_look_at_the_same(names: str) -> None:
    """Each tells the others what it thinks, and not what it has read. One that comes again might remember."""

    def ask(name: str, number: int) -> Any:
        script = [call_tool("get_policy", topic="refunds"), AIMessage(f"As {name} I think {number}.")]
        app = create_agent(ScriptedChatModel(script=script), [get_policy], system_prompt=f"You are {name}.")
        return lambda state: {"messages": [app.invoke({"messages": state["messages"]})["messages"][-1]]}

    nodes = [ask(name, number) for number, name in enumerate(names)]
    builder = StateGraph(MessagesState)
    for name in dict.fromkeys(names):
        turns = iter([node for node, whose in zip(nodes, names, strict=True) if whose == name])
        builder.add_node(name, lambda state, turns=turns: next(turns)(state))
    builder.add_edge(START, names[0])
    places = itertools.count(1)
    for name in dict.fromkeys(names):
        builder.add_conditional_edges(name, lambda _: (*names, END)[next(places)], [*dict.fromkeys(names), END])
    handler = TokenSentinelHandler()
    builder.compile().invoke({"messages": [HumanMessage("Discuss refunds.")]}, {"callbacks": [handler]})
    [found] = handler.sentinel.incidents()
    assert (found.rule, found.severity) == ("tool_loop", "low" if names == "abcdef" else "high")
