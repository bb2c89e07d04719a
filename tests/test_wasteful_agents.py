"""Agents that waste in ways that are easily missed."""

from __future__ import annotations

import itertools
import json
import operator
import random
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    LLMToolSelectorMiddleware,
    SummarizationMiddleware,
    TodoListMiddleware,
    ToolErrorMiddleware,
    before_model,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import ToolException, create_retriever_tool, tool
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from recorder import Wire, replay_of
from typing_extensions import TypedDict

from ts_importers.langsmith_rows import run_from_row
from ts_langchain import Policy, Sentinel, TokenSentinelHandler, TokenSentinelMiddleware, WasteBlocked, guard
from ts_langchain.capture.tools import read_tool_output
from ts_langchain.replay import Run
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Callable

    from ts_langchain.call import Call

pytestmark = pytest.mark.usefixtures("calm_collector")

HANDBOOK = "Clause: the supplier shall deliver the goods in good order and at the agreed place. " * 300


@pytest.mark.parametrize(
    "answer",
    [
        "Getting started with Acme: contact sales.",
        "It is still raining in Berlin.",
        "Best running shoes of 2024: Nike, Asics.",
        "404. We are building something new.",
    ],
)
def test_words_that_sound_like_waiting_hide_no_loop(answer: str) -> None:
    @tool
    def fetch_page(url: str) -> str:
        """Fetches."""
        return answer

    model = ScriptedChatModel(script=[call_tool("fetch_page", url="https://example.com")] * 9)
    with pytest.raises(WasteBlocked):
        create_agent(model, [fetch_page]).invoke(
            {"messages": [HumanMessage("go")]}, {"callbacks": [TokenSentinelHandler(mode="block")]}
        )
    assert model.calls == 3


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_ids_of_requests_and_times_they_took_are_no_news(blocks: int) -> None:
    @tool
    def web_search(query: str) -> Any:
        """Searches, and says which request it was and how long it took, as Tavily does."""
        text = json.dumps(
            {"query": query, "results": [{"url": "u", "content": "c"}], "response_time": random.random(),
             "request_id": str(uuid.uuid4()), "took_ms": random.randrange(99)}
        )  # fmt: skip
        return [{"type": "text", "text": "Found:"}, {"type": "text", "text": text}][-blocks:] if blocks else text

    model = ScriptedChatModel(script=[call_tool("web_search", query="which plan has SSO")] * 9)
    with pytest.raises(WasteBlocked):
        create_agent(model, [web_search]).invoke(
            {"messages": [HumanMessage("go")]}, {"callbacks": [TokenSentinelHandler(mode="block")]}
        )
    assert model.calls == 3


@pytest.mark.parametrize(
    ("says", "calls"),
    [
        ("Error code: 529 - {{'type': 'error', 'error': {{'type': 'overloaded_error'}}, 'request_id': 'req_{0}'}}", 6),
        ("Access denied (Service: S3, Status Code: 403, Request ID: {0})", 3),
        ("The server had an error. Please include the request ID {0} in your message.", 3),
    ],
)
@pytest.mark.parametrize("handled", ["by middleware", "by the tool", "in blocks"])
def test_an_error_is_the_same_whatever_request_it_names(says: str, calls: int, handled: str) -> None:
    """An exception, or what says of itself that it is one: so MCP's adapters have it. The overloaded get 6 tries."""

    @tool
    def read_bucket(name: str) -> str:
        """Reads a bucket."""
        raise ToolException(says.format(uuid.uuid4().hex))

    if handled != "by middleware":
        blocks: Any = lambda error: [{"type": "text", "text": str(error), "id": str(uuid.uuid4())}]  # noqa: E731
        read_bucket.handle_tool_error = blocks if handled == "in blocks" else True

    model = ScriptedChatModel(script=[call_tool("read_bucket", name="a")] * 9)
    handler = TokenSentinelHandler(mode="block")
    tell = ToolErrorMiddleware(on_error=lambda error, _: f"It failed: {error}")
    with pytest.raises(WasteBlocked):
        create_agent(model, [read_bucket], middleware=[tell]).invoke(
            {"messages": [HumanMessage("go")]}, {"callbacks": [handler]}
        )
    assert model.calls == calls


@pytest.mark.parametrize(
    ("heeds", "rows", "pages", "told"),
    [
        (False, 20, 3, ["medium"]),  # the API ignores the offset
        (False, 20, 2, []),
        (True, 20, 9, []),
        (False, 0, 20, []),  # there is nothing on any of the pages
    ],
)
@pytest.mark.parametrize("part", ["offset", "page", "pageToken", "start_cursor"])
def test_another_page_that_is_the_same(part: str, heeds: bool, rows: int, pages: int, told: list[str]) -> None:
    @tool
    def list_orders(state: str, offset: Any = 0, page: Any = 0, pageToken: Any = 0, start_cursor: Any = 0) -> str:  # noqa: N803
        """Lists."""
        first = int(offset or page or pageToken or start_cursor) if heeds else 0
        return json.dumps([{"order": first + n, "state": state, "total": 12.5} for n in range(rows)])

    script = [call_tool("list_orders", state="open", **{part: n * 20}) for n in range(1, pages + 1)]
    handler = TokenSentinelHandler()
    create_agent(ScriptedChatModel(script=[*script, AIMessage("That is all.")]), [list_orders]).invoke(
        {"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99}
    )
    found = [i for i in handler.sentinel.incidents() if i.rule == "tool_loop"]
    assert [i.severity for i in found] == told
    assert [(i.calls, i.findings) for i in found] == [(2, 1) for _ in told]


@pytest.mark.parametrize("first", [{}, {"page": 1}])
def test_the_same_between_other_pages(first: dict[str, Any]) -> None:
    """What asks for no part is no other part, and is not forgotten for one."""

    @tool
    def list_orders(state: str, page: int = 1) -> str:
        """Lists."""
        return json.dumps([{"order": page * 20 + n, "state": state, "total": 12.5} for n in range(20)])

    pages = [call_tool("list_orders", state="open", **given) for n in range(2, 6) for given in (first, {"page": n})]
    handler = TokenSentinelHandler()
    create_agent(ScriptedChatModel(script=[*pages, AIMessage("That is all.")]), [list_orders]).invoke(
        {"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99}
    )
    assert [(i.rule, i.calls) for i in handler.sentinel.incidents()] == [("tool_loop", 3)]


@pytest.mark.parametrize(("between", "rule", "calls"), [(0, "tool_loop", 6), (1, "ping_pong", 6)])
def test_a_list_of_things_to_do_is_under_way_by_nature(between: int, rule: str, calls: int) -> None:
    """The tool repeats what it is given: `status: in_progress`. Whoever writes it again waits for nothing."""
    todos = [{"content": "Find the price", "status": "in_progress"}, {"content": "Answer", "status": "pending"}]
    turn = [call_tool("write_todos", todos=todos), *[call_tool("get_order", number="o1")] * between]
    model = ScriptedChatModel(script=turn * 9)
    handler = TokenSentinelHandler(mode="block")
    agent = create_agent(model, [get_order], middleware=[TodoListMiddleware()])
    with pytest.raises(WasteBlocked):
        agent.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler]})
    assert ([i.rule for i in handler.sentinel.incidents() if i.severity == "high"], model.calls) == ([rule], calls)


@tool
def get_order(number: str) -> str:
    """Looks an order up."""
    return f"order {number} is on its way"


@pytest.mark.parametrize("tools", ["by id", "by arguments", "unseen"])
@pytest.mark.parametrize("window", [99, 3])
def test_a_loop_written_by_hand(tools: str, window: int) -> None:
    """Each model call is a run of its own, under a system message with a clock; the history may be cut to a window."""
    handler = TokenSentinelHandler(mode="block")
    config: Any = {"callbacks": [handler], "metadata": {"thread_id": "t"}}
    model = ScriptedChatModel(script=[call_tool("get_order", number="o1")] * 9)
    messages: list[Any] = [HumanMessage("Where is o1?")]

    def go_round(number: int) -> None:
        answer = model.invoke([SystemMessage(f"It is {number} o'clock."), *messages[-window:]], config)
        [call] = answer.tool_calls
        if tools == "by id":
            result = get_order.invoke({**call, "type": "tool_call"}, config)
        else:
            said = get_order.invoke(call["args"], config if tools == "by arguments" else None)
            result = ToolMessage(said, tool_call_id=call["id"])
        messages.extend((answer, result))

    for number in range(3):
        go_round(number)
    with pytest.raises(WasteBlocked):
        go_round(3)
    assert model.calls == 3
    model = ScriptedChatModel(script=[call_tool("get_order", number="o1"), AIMessage("On its way.")])
    messages = [HumanMessage("And now?")]
    for _ in range(2):  # the next turn of the same conversation
        answer = model.invoke(messages, config)
        messages += [answer, *(get_order.invoke({**c, "type": "tool_call"}, config) for c in answer.tool_calls)]
    assert model.calls == 2


@tool
def read_page(number: int) -> str:
    """Reads."""
    return f"page {number}"


@pytest.mark.parametrize("pages", [10, 11, 20])
def test_a_circle_of_many_pages(pages: int) -> None:
    """There are more loops than incidents are kept of: they are extended, and their dollars counted."""
    script = [*(call_tool("read_page", number=n % pages) for n in range(pages * 5)), AIMessage("done")]
    handler = TokenSentinelHandler()
    config: Any = {"callbacks": [handler], "recursion_limit": 900}
    create_agent(ScriptedChatModel(script=script), [read_page]).invoke({"messages": [HumanMessage("go")]}, config)
    found = handler.sentinel.incidents()
    assert len(found) == 10
    assert sum(i.calls for i in found) == pages * 4
    wasted, avoidable = (sum(getattr(i, name) for i in found) for name in ("wasted_nano", "avoidable_nano"))
    assert avoidable > 0.8 * wasted > 0


def test_a_policy_stops_a_circle_of_many_pages() -> None:
    steps = [{"at": 1, "do": "warn"}, {"at": 3, "do": "stop"}]
    middleware = TokenSentinelMiddleware(policy={"rules": {"tool_loop": {"min_severity": "low", "steps": steps}}})
    script = [*(call_tool("read_page", number=n % 12) for n in range(72)), AIMessage("done")]
    model = ScriptedChatModel(script=script)
    create_agent(model, [read_page], middleware=[middleware]).invoke(
        {"messages": [HumanMessage("go")]}, {"recursion_limit": 900}
    )
    assert model.calls < 36


def test_rows_under_one_long_system_message_that_nobody_caches() -> None:
    model = ScriptedChatModel(
        script=[lambda _: AIMessage("positive")], model_name="claude-sonnet-4-5", provider="anthropic"
    )
    handler = TokenSentinelHandler()
    with handler.sentinel.session("batch"):
        for number in range(20):
            messages = [SystemMessage(f"You label reviews. {HANDBOOK}"), HumanMessage(f"Review {number}: fine")]
            model.invoke(messages, {"callbacks": [handler]})
    [found] = handler.sentinel.incidents()
    assert (found.rule, found.severity, found.calls) == ("cache_miss", "low", 19)
    totals = handler.sentinel.totals("batch")
    assert totals is not None
    assert 0.8 * totals.nano < found.wasted_nano < totals.nano


class Notes(TypedDict, total=False):
    notes: str
    rounds: int


def test_a_loop_that_keeps_its_notes_in_the_prompt() -> None:
    """No message history: each prompt is the question with all that was found behind it."""
    model = ScriptedChatModel(script=[call_tool("get_order", number="o1")] * 9)

    def think(state: Notes) -> Notes:
        question = f"Find out where order o1 is, and say when it will come. Notes so far:\n{state.get('notes', '')}"
        [call] = model.invoke([SystemMessage("You look orders up."), HumanMessage(question)]).tool_calls
        found = get_order.invoke({**call, "type": "tool_call"})
        notes = f"{state.get('notes', '')}{call['args']}: {found.content}\n"
        return {"notes": notes, "rounds": state.get("rounds", 0) + 1}

    builder = StateGraph(Notes)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda s: END if s["rounds"] >= 9 else "think")
    handler = TokenSentinelHandler(mode="block")
    with pytest.raises(WasteBlocked):
        builder.compile().invoke({}, {"callbacks": [handler], "recursion_limit": 99})
    assert model.calls == 3
    [found] = handler.sentinel.incidents()
    assert (found.rule, found.severity, found.calls) == ("tool_loop", "high", 2)
    assert found.wasted_tokens > 0


class Work(TypedDict):
    number: int
    rounds: Annotated[int, operator.add]


@pytest.mark.parametrize(("times", "rounds"), [(9, 1), (1, 9)])
def test_a_loop_of_workers(times: int, rounds: int) -> None:
    """In one worker of a superstep, or over many supersteps, each with several workers."""
    model = ScriptedChatModel(script=["yes"], temperature=0.0)

    def work(state: Work) -> dict[str, Any]:
        for _ in range(times if state["number"] == 5 else 1):
            get_order.invoke({"number": "o1"})
            model.invoke("Is it?")
        return {}

    builder = StateGraph(Work)
    builder.add_node("plan", lambda _: {"rounds": 1})
    builder.add_node("work", work)
    builder.add_node("join", lambda _: {})
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", lambda _: [Send("work", {"number": n}) for n in range(12)], ["work"])
    builder.add_edge("work", "join")
    builder.add_conditional_edges("join", lambda s: "plan" if s["rounds"] < rounds else END, ["plan", END])
    handler, client = TokenSentinelHandler(), Wire()
    config: Any = {"callbacks": [handler, LangChainTracer(client=client)], "max_concurrency": 1}
    builder.compile().invoke({"rounds": 0}, {**config, "recursion_limit": 99})
    found = [(i.rule, i.severity, i.calls) for i in handler.sentinel.incidents()]
    calls = 12 * rounds + times - 2
    assert found == [("tool_loop", "high", calls), ("retry_storm", "high", calls)]
    replayed = replay_of(*(run for row in client.sent() if isinstance(run := run_from_row(row), Run)))
    assert [(i.rule, i.severity, i.calls) for i in replayed.incidents()] == found


class Draft(TypedDict, total=False):
    draft: str
    verdict: str
    rounds: int


@pytest.mark.parametrize(("temperature", "calls"), [(0.0, 5), (None, 8)])
def test_a_writer_and_a_judge_who_say_the_same_for_ever(temperature: float | None, calls: int) -> None:
    writer = ScriptedChatModel(script=["The capital is Paris, the city on the Seine."], temperature=temperature)
    judge = ScriptedChatModel(script=["Rejected. It lacks sources; add them and try again."], temperature=temperature)
    now = [1_790_000_000.0]

    def clock() -> float:
        now[0] += 2  # a model takes its time
        return now[0]

    builder = StateGraph(Draft)
    builder.add_node("write", lambda s: {"draft": writer.invoke(f"Write. Feedback: {s.get('verdict', '')}").content})
    builder.add_node(
        "judge", lambda s: {"verdict": judge.invoke(f"Judge: {s['draft']}").content, "rounds": s.get("rounds", 0) + 1}
    )
    builder.add_edge(START, "write")
    builder.add_edge("write", "judge")
    builder.add_conditional_edges("judge", lambda s: END if s["rounds"] >= 30 else "write")
    handler = TokenSentinelHandler(mode="block", clock=clock)
    with pytest.raises(WasteBlocked):
        builder.compile().invoke({}, {"callbacks": [handler], "recursion_limit": 99})
    assert judge.calls == calls


QUESTIONS = [
    "which plan includes single sign-on",
    "SAML support in the enterprise edition",
    "how do customers log in with Okta",
    "identity provider integration for business users",
    "authentication options and their prices",
    "login security features by tier",
    "federated access for large teams",
    "directory sync and provisioning guide",
]


def _finds(
    questions: list[str], documents: Callable[[int], list[str]], *, also: bool = False, at_once: bool = False
) -> list[tuple[str, str]]:
    """Asks a retriever, as a tool, these questions, `at_once` or not; `also` reads a page after each."""
    asked = iter(range(99))

    class Documents(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [Document(text) for text in documents(next(asked))]

    script: list[Any] = []
    for number, question in enumerate(questions):
        script.append(call_tool("search_handbook", query=question))
        script += [call_tool("read_page", number=number)] if also else []
    if at_once:
        script = [AIMessage("", tool_calls=[call for message in script for call in message.tool_calls])]
    search = create_retriever_tool(Documents(), "search_handbook", "Searches the handbook.")
    handler = TokenSentinelHandler()
    app = create_agent(ScriptedChatModel(script=[*script, "done"]), [search, read_page])
    app.invoke({"messages": [("user", "Which plan has SSO?")]}, {"callbacks": [handler], "recursion_limit": 99})
    assert handler.sentinel.health().ok
    found = handler.sentinel.incidents()
    assert all(i.wasted_tokens > 0 for i in found)
    return [(i.rule, i.severity) for i in found]


def test_other_words_that_find_the_same_documents() -> None:
    plans = [f"Plan {n} of Acme comes with support by mail, a wiki and a calendar. " * 3 for n in range(4)]
    assert _finds(QUESTIONS[:5], lambda _: plans) == []
    assert _finds(QUESTIONS, lambda _: plans) == [("retrieval_thrash", "medium")]


def test_other_words_that_find_other_documents() -> None:
    plans = [f"Plan {n} of Acme comes with support by mail, a wiki and a calendar. " * 3 for n in range(9)]
    assert _finds(QUESTIONS, lambda n: plans[n : n + 2]) == []
    assert _finds(QUESTIONS, lambda n: plans[n // 4 : n // 4 + 2]) == []
    assert _finds(QUESTIONS, lambda _: plans[:2], also=True) == []
    assert _finds(QUESTIONS, lambda _: ["nothing found"]) == []
    assert _finds(QUESTIONS, lambda _: plans[:2], at_once=True) == []


def test_time_outs_are_a_storm() -> None:
    now = [1_790_000_000.0]

    def time_out(_messages: list[Any]) -> AIMessage:
        now[0] += 60
        raise TimeoutError

    model = ScriptedChatModel(script=[time_out])
    handler = TokenSentinelHandler(clock=lambda: now[0])
    with handler.sentinel.session("s"):
        for _ in range(5):
            with pytest.raises(TimeoutError):
                model.invoke("hi", {"callbacks": [handler]})
            now[0] += 1
    [found] = handler.sentinel.incidents()
    assert (found.rule, found.severity) == ("retry_storm", "high")


@tool
def read_handbook(path: str) -> str:
    """Reads."""
    return HANDBOOK


class Person(BaseModel):
    """A person."""

    age: int


def _reads(config: Any) -> ScriptedChatModel:
    model = ScriptedChatModel(script=[call_tool("read_handbook", path="a.md")] * 12)
    create_agent(model, [read_handbook]).invoke({"messages": [HumanMessage("go")]}, config)
    return model


def _streams(config: Any) -> ScriptedChatModel:
    model = ScriptedChatModel(script=[call_tool("get_order", number="o1")] * 12)
    app = create_agent(model, [get_order])
    list(app.stream({"messages": [HumanMessage("go")]}, config, stream_mode="messages"))
    return model


def _takes_turns(config: Any) -> ScriptedChatModel:
    turns = [call_tool("get_order", number="o1"), call_tool("read_page", number=1)] * 9
    model = ScriptedChatModel(script=turns)
    create_agent(model, [get_order, read_page]).invoke({"messages": [HumanMessage("go")]}, config)
    return model


def _thinks_first(config: Any) -> ScriptedChatModel:
    """Thoughts are no news: nothing comes back."""

    @tool
    def think(thought: str) -> str:
        """Thinks."""
        return "ok"

    turns = [s for n in range(9) for s in (call_tool("think", thought=f"Try {n}"), call_tool("get_order", number="o1"))]
    model = ScriptedChatModel(script=turns)
    create_agent(model, [get_order, think]).invoke({"messages": [HumanMessage("go")]}, config)
    return model


def _is_never_valid(config: Any) -> ScriptedChatModel:
    model = ScriptedChatModel(script=[call_tool("Person", age="young")] * 12)
    app = create_agent(model, [], response_format=ToolStrategy(Person))
    app.invoke({"messages": [HumanMessage("go")]}, config)
    return model


def _answers_through_a_tool_that_is_none(config: Any) -> ScriptedChatModel:
    """The schema goes along as the answer's format; create_agent answers no call to it, and asks the model again."""
    model = ScriptedChatModel(script=[call_tool("Person", age=3)] * 12)
    create_agent(model, [], response_format=Person).invoke({"messages": [HumanMessage("go")]}, config)
    return model


def _says_nothing(config: Any) -> ScriptedChatModel:
    """A graph that asks again until the model says something."""
    model = ScriptedChatModel(script=[AIMessage("")])
    builder = StateGraph(MessagesState)
    builder.add_node("ask", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", lambda s: END if s["messages"][-1].content else "ask", ["ask", END])
    builder.compile().invoke({"messages": [HumanMessage("go")]}, config)
    return model


def _chain_in_a_session(config: Any) -> ScriptedChatModel:
    model = ScriptedChatModel(script=[call_tool("get_order", number="o1")] * 12)
    chain = ChatPromptTemplate.from_messages([("system", "Look orders up."), ("placeholder", "{said}")]) | model
    config = {**config, "metadata": {"session_id": "s"}}
    said: list[Any] = [HumanMessage("Where is o1?")]
    for _ in range(12):
        answer = chain.invoke({"said": said}, config)
        said += [answer, get_order.invoke({**answer.tool_calls[0], "type": "tool_call"}, config)]
    return model


def _an_agent_asked_again(config: Any) -> ScriptedChatModel:
    """A check sends its answer back each time."""
    model = ScriptedChatModel(script=[call_tool("get_order", number="o1"), "I do not know when it will come."] * 12)
    builder = StateGraph(MessagesState)
    builder.add_node("work", create_agent(model, [get_order]))
    builder.add_node("check", lambda _: {"messages": [HumanMessage("That is not good enough, try again.")]})
    builder.add_edge(START, "work")
    builder.add_edge("work", "check")
    builder.add_conditional_edges("check", lambda _: END if model.calls >= 20 else "work", [END, "work"])
    builder.compile().invoke({"messages": [HumanMessage("go")]}, config)
    return model


@pytest.mark.parametrize(
    ("program", "calls"),
    [
        (_reads, 3),
        (_streams, 3),
        (_takes_turns, 5),
        (_thinks_first, 6),
        (_is_never_valid, 3),
        (_answers_through_a_tool_that_is_none, 3),
        (_says_nothing, 3),
        (_chain_in_a_session, 3),
        (_an_agent_asked_again, 5),
    ],
)
def test_is_stopped_at_the_third_time(program: Callable[[Any], ScriptedChatModel], calls: int) -> None:
    handler = TokenSentinelHandler(mode="block")
    with pytest.raises(WasteBlocked):
        program({"callbacks": [handler], "recursion_limit": 99})
    totals = [handler.sentinel.totals(i.session_id) for i in handler.sentinel.incidents()]
    assert {t.model_calls if t is not None else 0 for t in totals} == {calls}
    assert "high" in {i.severity for i in handler.sentinel.incidents()}


def test_a_graph_that_tells_the_model_to_go_on_for_ever() -> None:
    """It may be a person who says so, so nothing is stopped."""
    model = ScriptedChatModel(script=[AIMessage("I will now look it up.")])
    builder = StateGraph(MessagesState)
    builder.add_node("ask", lambda s: {"messages": [model.invoke(s["messages"]), HumanMessage("Please continue.")]})
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", lambda _: END if model.calls >= 9 else "ask", ["ask", END])
    handler = TokenSentinelHandler(mode="block")
    builder.compile().invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler]})
    (found,) = handler.sentinel.incidents()
    assert (found.rule, found.severity, found.calls) == ("monologue", "medium", 7)


def _talk(first: list[str], second: list[str], handler: TokenSentinelHandler, *, as_users: bool) -> None:
    """Two personas, each of which sees what the other says as a user's words, or as a model's."""
    models = {"seller": ScriptedChatModel(script=first), "buyer": ScriptedChatModel(script=second)}

    def persona(name: str) -> Callable[[MessagesState], Any]:
        def speak(state: MessagesState) -> Any:
            said = [HumanMessage(m.text) if as_users and m.name not in (None, name) else m for m in state["messages"]]
            answer = models[name].invoke([SystemMessage(f"You are the {name}."), *said])
            return {"messages": [AIMessage(answer.text, name=name)]}

        return speak

    builder = StateGraph(MessagesState)
    builder.add_node("seller", persona("seller"))
    builder.add_node("buyer", persona("buyer"))
    builder.add_edge(START, "seller")
    builder.add_edge("seller", "buyer")
    over = len(first)
    builder.add_conditional_edges("buyer", lambda _: END if models["buyer"].calls >= over else "seller")
    builder.compile().invoke(
        {"messages": [HumanMessage("A red car.")]}, {"callbacks": [handler], "recursion_limit": 99}
    )


@pytest.mark.parametrize("as_users", [True, False])
@pytest.mark.parametrize(
    ("thanks", "welcome"), [("Thank you so much, goodbye!", "It was a pleasure."), ("Bye!", "Bye.")]
)
def test_two_who_never_stop_saying_goodbye(thanks: str, welcome: str, as_users: bool) -> None:
    handler = TokenSentinelHandler(mode="block")
    _talk(["Nine thousand.", "Deal.", *[thanks] * 6], ["Eight?", "Deal.", *[welcome] * 6], handler, as_users=as_users)
    found = [i for i in handler.sentinel.incidents() if i.rule == "monologue"]
    assert sorted((i.severity, i.calls) for i in found) == [("medium", 4), ("medium", 5)]


@pytest.mark.parametrize("as_users", [True, False])
def test_who_repeats_himself_to_one_who_does_not_is_no_monologue(as_users: bool) -> None:
    asked = [f"What about {number} thousand, then?" for number in range(8)]
    handler = TokenSentinelHandler(mode="block")
    _talk(["That is not enough, I am afraid."] * 8, asked, handler, as_users=as_users)
    assert [i for i in handler.sentinel.incidents() if i.rule == "monologue"] == []


def _supervised(routes: list[str], say: dict[str, list[str]], handler: TokenSentinelHandler) -> None:
    """A supervisor whose answer says whose turn it is, and is not among the messages; workers write as users do."""
    router = ScriptedChatModel(script=[call_tool("Router", next=name) for name in routes])
    workers = {name: ScriptedChatModel(script=list(said)) for name, said in say.items()}

    def route(state: MessagesState) -> Command[Any]:
        answer = router.invoke([SystemMessage("You lead. Who is next?"), *state["messages"]])
        return Command(goto=END if router.calls == len(routes) else answer.tool_calls[0]["args"]["next"])

    def work(name: str) -> Callable[[MessagesState], Any]:
        def speak(state: MessagesState) -> Command[Any]:
            said = workers[name].invoke([SystemMessage(f"You are the {name}."), *state["messages"]])
            return Command(update={"messages": [HumanMessage(said.text, name=name)]}, goto="route")

        return speak

    builder = StateGraph(MessagesState)
    builder.add_node("route", route, destinations=(*say, END))
    for name in say:
        builder.add_node(name, work(name), destinations=("route",))
    builder.add_edge(START, "route")
    builder.compile().invoke({"messages": [HumanMessage("A report on Acme.")]}, {"callbacks": [handler]})


NO_FINDINGS = "I could not find anything about Acme in the sources that I have."
NO_REPORT = "I cannot write a report without findings; please let the researcher find some."


@pytest.mark.parametrize(
    ("say", "calls"),
    [
        ({"researcher": [NO_FINDINGS]}, [7, 7]),
        ({"researcher": [NO_FINDINGS], "writer": [NO_REPORT]}, [3, 3, 6]),
        ({"researcher": [f"Acme has {n} stores in region {n}." for n in range(9)]}, []),
        ({"researcher": [f"Acme has {n} stores in region {n}." for n in range(9)], "writer": ["Noted."]}, []),
    ],
)
def test_a_supervisor_whose_workers_say_the_same_again(say: dict[str, list[str]], calls: list[int]) -> None:
    """Told of after three rounds, and not stopped: it may be code that does something each time."""
    handler = TokenSentinelHandler(mode="block")
    _supervised([*itertools.islice(itertools.cycle(say), 9), "over"], say, handler)
    found = [i for i in handler.sentinel.incidents() if i.severity != "low"]
    assert {i.rule for i in found} == ({"monologue"} if calls else set())
    assert sorted(i.calls for i in found) == calls


@pytest.mark.parametrize(("kind", "told"), [(AIMessage, ["medium"]), (HumanMessage, [])])
def test_a_worker_that_is_code_and_says_the_same_each_time_is_let_go_on(
    kind: type[AIMessage | HumanMessage], told: list[str]
) -> None:
    """It may have taken the next file each time; of the supervisor's answers there is nothing among the messages."""
    router = ScriptedChatModel(script=[call_tool("Router", next="work")] * 8)
    builder = StateGraph(MessagesState)
    builder.add_node("route", lambda state: (router.invoke(state["messages"]), {})[1])
    builder.add_node("work", lambda _: {"messages": [kind("Processed the next file.", name="work")]})
    builder.add_edge(START, "route")
    builder.add_conditional_edges("route", lambda _: END if router.calls >= 8 else "work", ["work", END])
    builder.add_edge("work", "route")
    handler = TokenSentinelHandler(mode="block")
    builder.compile().invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler]})
    assert [i.severity for i in handler.sentinel.incidents() if i.rule == "monologue"] == told


def _hands_work_out(config: Any) -> None:
    """A supervisor whose answers go nowhere but to the graph, and a worker who writes as a model does."""
    model = ScriptedChatModel(script=[call_tool("Person", age=3)] * 6)
    builder = StateGraph(MessagesState)
    builder.add_node("route", lambda s: (model.invoke(s["messages"]), {})[1])
    builder.add_node("work", lambda _: {"messages": [AIMessage(f"I have read page {model.calls}.", name="worker")]})
    builder.add_edge(START, "route")
    builder.add_conditional_edges("route", lambda _: END if model.calls >= 6 else "work", ["work", END])
    builder.add_edge("work", "route")
    builder.compile().invoke({"messages": [HumanMessage("go")]}, config)


def _hands_work_to_an_agent(config: Any) -> None:
    """The same words go back and forth, and each time the worker does something else in between."""

    @tool
    def clean(room: int) -> str:
        """Cleans a room."""
        return f"room {room} is clean"

    steps = [said for room in range(6) for said in (call_tool("clean", room=room), "Done with that one.")]
    worker = create_agent(ScriptedChatModel(script=steps), [clean], system_prompt="You clean.")
    model = ScriptedChatModel(script=["Please clean the next room."] * 6)

    def work(said: MessagesState) -> Any:
        return {"messages": [AIMessage(worker.invoke({"messages": said["messages"]})["messages"][-1].text)]}

    builder = StateGraph(MessagesState)
    builder.add_node("route", lambda s: {"messages": [model.invoke([SystemMessage("You lead."), *s["messages"]])]})
    builder.add_node("work", work)
    builder.add_edge(START, "route")
    builder.add_edge("route", "work")
    builder.add_conditional_edges("work", lambda _: END if model.calls >= 6 else "route")
    builder.compile().invoke({"messages": [HumanMessage("Clean the hotel.")]}, config)


def _votes(config: Any) -> None:
    """The beginning of the answer is given, and the request sent several times."""
    model = ScriptedChatModel(script=["the answer is 42"])
    ask = RunnableLambda(lambda said: [model.invoke(said) for _ in range(5)])
    ask.invoke([HumanMessage("What?"), AIMessage("I think that")], config)


def _asks_the_same_of_each_page(config: Any) -> None:
    model = ScriptedChatModel(script=["No, there is nothing suspicious on this page."])

    def ask(said: MessagesState) -> Any:
        new = [HumanMessage(f"Page {model.calls}"), HumanMessage("Is anything on this page suspicious?")]
        return {"messages": [*new, model.invoke([*said["messages"], *new])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", lambda _: END if model.calls >= 6 else "ask", ["ask", END])
    builder.compile().invoke({"messages": [HumanMessage("go")]}, config)


def _searches_at_the_provider(config: Any) -> None:
    """Claude pauses after searches of its own, and is sent what it has said to go on."""

    def searches(number: int) -> AIMessage:
        asked = {"type": "server_tool_use", "id": f"s{number}", "name": "web_search", "input": {"query": f"q{number}"}}
        said = {"type": "text", "text": "Let me search for that."}
        return AIMessage([said, asked], response_metadata={"stop_reason": "pause_turn", "finish_reason": None})

    model = ScriptedChatModel(script=[*map(searches, range(4)), "Done."])
    builder = StateGraph(MessagesState)
    builder.add_node("ask", lambda s: {"messages": [model.invoke(s["messages"])]})
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", lambda _: END if model.calls >= 5 else "ask", ["ask", END])
    builder.compile().invoke({"messages": [HumanMessage("go")]}, config)


@pytest.mark.parametrize(
    "program",
    [_hands_work_out, _hands_work_to_an_agent, _votes, _asks_the_same_of_each_page, _searches_at_the_provider],
)
def test_who_says_the_same_to_something_new_is_no_monologue(program: Callable[[Any], None]) -> None:
    handler = TokenSentinelHandler(mode="block")
    program({"callbacks": [handler]})
    assert [i.rule for i in handler.sentinel.incidents() if i.rule == "monologue"] == []


@pytest.mark.parametrize(("trigger", "summaries"), [(4_000, 11), (30_000, 0)])
def test_a_history_that_is_summed_up_before_each_step(trigger: int, summaries: int) -> None:
    """As the documentation of LangChain's middleware shows it: what is kept is more than what triggers."""
    middleware = SummarizationMiddleware(
        model=(summing := ScriptedChatModel(script=["what was read"])),
        trigger=("tokens", trigger),
        keep=("messages", 20),
    )
    pages = [call_tool("read_page", number=n) for n in range(20)]
    model = ScriptedChatModel(script=[*pages, AIMessage("done")])
    handler, tracer = TokenSentinelHandler(), LangChainTracer(client=(wire := Wire()))

    @tool
    def read_page(number: int) -> str:
        """Reads."""
        return f"{number}: " + "word " * 400

    agent = create_agent(model, [read_page], middleware=[middleware])
    agent.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler, tracer]})
    tracer.wait_for_futures()
    assert (model.calls, summing.calls) == (21, summaries)
    replayed = replay_of(*(run for row in wire.sent() if isinstance(run := run_from_row(row), Run)))
    for sentinel in (handler.sentinel, replayed):
        found = [i for i in sentinel.incidents() if i.rule == "compaction_thrash"]
        assert [(i.severity, i.calls) for i in found] == [("medium", summaries - 1)] * (summaries > 0)


def test_what_reading_again_wastes() -> None:
    """Each of nine needless turns carries what was read before: one handbook, two, and so on."""
    handler = TokenSentinelHandler()
    model = ScriptedChatModel(script=[*[call_tool("read_handbook", path="a.md")] * 10, AIMessage("done")])
    create_agent(model, [read_handbook]).invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler]})
    [found] = [i for i in handler.sentinel.incidents() if i.rule == "tool_loop"]
    handbook = len(HANDBOOK) / 4
    assert found.wasted_tokens == pytest.approx(sum(range(1, 10)) * handbook, rel=0.01)
    assert found.avoidable_tokens == pytest.approx(sum(range(2, 10)) * handbook, rel=0.01)


def test_reading_again_between_other_work_is_told_in_full() -> None:
    """Nothing is stopped, since the agent gets on; what it wastes is told."""
    script = [s for n in range(8) for s in (call_tool("read_handbook", path="a.md"), call_tool("read_page", number=n))]
    handler = TokenSentinelHandler(mode="block")
    model = ScriptedChatModel(script=[*script, AIMessage("done")])
    config: Any = {"callbacks": [handler], "recursion_limit": 99}
    create_agent(model, [read_handbook, read_page]).invoke({"messages": [HumanMessage("go")]}, config)
    [found] = [i for i in handler.sentinel.incidents() if i.rule == "tool_loop"]
    assert (found.severity, found.calls) == ("medium", 7)
    assert found.wasted_tokens == pytest.approx(sum(range(1, 8)) * len(HANDBOOK) / 4, rel=0.01)


def test_a_loop_of_a_model_that_langchain_does_not_call() -> None:
    """The provider's own client makes the answers; only tools are seen, and that somebody asked for them."""
    builder = StateGraph(MessagesState)
    asked = itertools.count()

    def think(state: Any) -> dict[str, Any]:
        number = next(asked)
        call = {"name": "get_order", "args": {"number": "o1"}, "id": f"c{number}"}
        return {"messages": [AIMessage("", tool_calls=[call] if number < 5 else [])]}

    builder.add_node("think", think)
    builder.add_node("tools", ToolNode([get_order]))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda s: "tools" if s["messages"][-1].tool_calls else END)
    builder.add_edge("tools", "think")
    handler = TokenSentinelHandler()
    builder.compile().invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler]})
    [found] = handler.sentinel.incidents()
    assert (found.rule, found.severity, found.calls, found.wasted_tokens) == ("tool_loop", "high", 4, 0)


def test_a_loop_of_an_agent_inside_a_graph_that_waits_for_a_human_in_between() -> None:
    """The second half is another run, and the same turn."""

    @tool
    def approve(text: str) -> str:
        """Asks."""
        return str(interrupt(text))

    def twice() -> list[Any]:
        return [call_tool("get_order", number="o1")] * 2

    model = ScriptedChatModel(script=[*twice(), call_tool("approve", text="?"), *twice(), *twice()])
    builder = StateGraph(MessagesState)
    builder.add_node("work", create_agent(model, [get_order, approve]))
    builder.add_edge(START, "work")
    app = builder.compile(checkpointer=InMemorySaver())
    handler = TokenSentinelHandler(mode="block")
    config: Any = {"callbacks": [handler], "configurable": {"thread_id": "t"}}
    app.invoke({"messages": [HumanMessage("go")]}, config)
    with pytest.raises(WasteBlocked):
        app.invoke(Command(resume="yes"), config)
    assert model.calls == 6
    assert len({i.turn for i in handler.sentinel.incidents()}) == 1


STEER_THEN_STOP = {
    "tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "steer"}, {"at": 2, "do": "stop"}]},
}


@pytest.mark.parametrize("beside", ["summary", "selector"])
def test_what_middleware_asks_a_model_in_between_is_no_turn_of_the_agent(beside: str) -> None:
    """Nor of the note that `steer` puts behind a result."""
    if beside == "summary":
        asked = ScriptedChatModel(script=["a summary"])
        other: Any = SummarizationMiddleware(model=asked, trigger=("messages", 4), keep=("messages", 2))
    else:
        other = LLMToolSelectorMiddleware(
            model=ScriptedChatModel(script=[call_tool("ToolSelectionResponse", tools=["read_page"])])
        )
    model = ScriptedChatModel(script=[call_tool("read_page", number=1)] * 12)
    middleware = TokenSentinelMiddleware(policy={"rules": STEER_THEN_STOP, "mode": "enforce"})
    agent = create_agent(model, [read_page], middleware=[middleware, other])
    handler = TokenSentinelHandler(middleware.sentinel)
    agent.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler]})
    decided = [(d.action, d.outcome) for d in middleware.sentinel.decisions() if d.rule == "tool_loop"]
    assert decided == [("steer", "done"), ("stop", "done")]
    assert model.calls == 4


def test_a_loop_whose_past_is_summed_up_before_each_step_is_one_turn() -> None:
    """The summaries say the same, and so do the prompts, up to the ids of the tool calls."""
    summary = ScriptedChatModel(script=["a summary"])
    summing_up = SummarizationMiddleware(model=summary, trigger=("messages", 4), keep=("messages", 2))
    model = ScriptedChatModel(script=[call_tool("read_page", number=1)] * 6 + ["done"])
    handler = TokenSentinelHandler()
    turns = set()
    observe = handler.sentinel.observe

    def note(call: Call) -> None:
        if call.kind == "tool":
            turns.add(call.turn)
        observe(call)

    handler.sentinel.observe = note  # type: ignore[method-assign]
    create_agent(model, [read_page], middleware=[summing_up]).invoke(
        {"messages": [HumanMessage("go")]}, {"callbacks": [handler]}
    )
    assert len(turns) == 1


def test_such_a_loop_is_paused_again_right_after_a_human_has_let_it_go_on() -> None:
    summary = ScriptedChatModel(script=["a summary"])
    summing_up = SummarizationMiddleware(model=summary, trigger=("messages", 4), keep=("messages", 2))
    model = ScriptedChatModel(script=[call_tool("read_page", number=1)] * 12)
    pause = {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "pause"}]}}
    middleware = TokenSentinelMiddleware(policy={"rules": pause, "mode": "enforce"})
    agent = create_agent(model, [read_page], middleware=[middleware, summing_up], checkpointer=InMemorySaver())
    config: Any = {"callbacks": [TokenSentinelHandler(middleware.sentinel)], "configurable": {"thread_id": "t"}}
    assert "__interrupt__" in agent.invoke({"messages": [HumanMessage("go")]}, config)
    assert model.calls == 3
    assert "__interrupt__" in agent.invoke(Command(resume="approve"), config)
    assert model.calls == 4


FAILURES = [
    "Failed to edit: String to replace not found in file.",
    "String to replace not found in file.",
    '{"error": "no such field", "code": 7}',
    '{"success": false, "error": "stale revision"}',
    "fatal: not a git repository (or any of the parent directories): .git",
    "Unable to update the record: it is locked.",
    "No replacement was performed, old_str `x` did not appear verbatim in /repo/a.py.",
    "old_string not found in file",
    "Old text could not be found.",
    "<tool_use_error>File has not been read yet.</tool_use_error>",
    "### Error\nError: Ref e12 not found in the current page snapshot.",
    "An error occurred (AccessDenied) when calling the PutObject operation: Access Denied",
    "An unexpected error occurred: the sheet is protected",
    "MCP error -32602: Invalid arguments for tool edit_file",
    "Request failed with status code 400",
    "Tool execution failed: the file is locked",
    '{"status": "error", "message": "no match"}',
    '{"type": "error", "error": {"type": "invalid_request", "message": "no match"}}',
    '{"result": null, "error": "no match"}',
    '{"status": 400, "error": "no match"}',
    "Command failed with exit code 1: no match",
    "NameError(\"name 'df' is not defined\")",
    "KeyError('price')",
    "❌ Failed: no match",
    "**Error**: no match",
    "Tool error: no match",
    "Fehler: Text nicht gefunden",
    "Erreur : texte introuvable",
    "Ошибка: текст не найден",
    "错误：未找到文本",
    "エラー: 見つかりません",
]


@pytest.mark.parametrize("said", FAILURES)
def test_a_change_that_fails_without_saying_error_first(said: str) -> None:
    """It has changed nothing, so that to look again is a repeat, too; other words each time do not help."""

    @tool
    def edit_file(path: str, old: str) -> str:
        """Edits."""
        return said

    @tool
    def read_file(path: str) -> str:
        """Reads."""
        return "the file as it is"

    script = [
        s for n in range(9) for s in (call_tool("edit_file", path="a", old=f"x{n}"), call_tool("read_file", path="a"))
    ]
    handler = TokenSentinelHandler(mode="block")
    model = ScriptedChatModel(script=script)
    with pytest.raises(WasteBlocked):
        create_agent(model, [edit_file, read_file]).invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler]})
    assert model.calls < len(script)
    assert {i.rule for i in handler.sentinel.incidents() if i.severity == "high"} & {"error_loop", "tool_loop"}


@pytest.mark.parametrize(
    "said",
    [
        "No customer of that name.",
        '{"error": null, "rows": []}',
        "Could not find it.",
        "Erroneous zones: 3",
        "0 failed",
        '{"errors": 0, "passed": 3}',
        '{"error": "none"}',
        '{"error": 0, "id": 7}',
        '{"error_message": " "}',
        '{"success": false}',
        "errors.py\nmain.py",
        '{"ok": false, "reason": "above the limit"}',
        "Failed to connect: common causes\nThe first one is the cable.",
        "Exception: see list",
        "Could not be better! 5 stars",
        "Can't process payments? Here is how",
        "# Error handling\nRaise what the caller can do something about.",
        "Operations failed by region: 3 in the north",
        "Search text: not given, so nothing was found",
        "An error occurred (NoSuchEntity) when calling the GetRole operation: The role cannot be found.",
        '{"status": "error budget at 90 %"}',
        '{"status": "error", "since": "noon"}',
        "Fehler: keine",
        "Fehler: 0, Warnungen: 2",
        "Erreurs possibles : le câble",
        "错误：无",
        "❌ Not in stock",
        "ValueError('x') is raised where x is negative.",
        '{"result": null, "error": null}',
        '{"status": 404, "message": "No such customer."}',
        '{"status": 200, "message": "done"}',
        '{"type": "error", "count": 3}',
    ],
)
def test_what_is_no_failure(said: str) -> None:
    assert not read_tool_output(ToolMessage(said, tool_call_id="c")).failed
    assert read_tool_output(ToolMessage(FAILURES[0], tool_call_id="c")).failed
    assert not read_tool_output(ToolMessage(f"{FAILURES[0]} {'x' * 600}", tool_call_id="c")).failed


@pytest.mark.parametrize("look", ["grep", "glob", "ls", "list_directory"])
def test_to_look_around_excuses_no_change_that_keeps_failing(look: str) -> None:
    @tool
    def edit_file(path: str) -> str:
        """Edits."""
        return "Error: String to replace not found in file."

    looked = itertools.count()
    around = tool(look, description="Looks around.")(lambda pattern: f"{next(looked)} matches of {pattern}")
    script = [s for n in range(9) for s in (call_tool("edit_file", path="a"), call_tool(look, pattern=f"{n}"))]
    with pytest.raises(WasteBlocked):
        create_agent(ScriptedChatModel(script=script), [edit_file, around]).invoke(
            {"messages": [HumanMessage("go")]}, {"callbacks": [TokenSentinelHandler(mode="block")]}
        )


@pytest.mark.parametrize(
    ("name", "asked", "calls"),
    [
        ("bash", [{"command": "git status"}, {"command": "git diff | head -50"}], 5),
        ("str_replace_editor", [{"command": "view", "path": "/a"}, {"command": "view", "path": "/b"}], 11),
    ],
)
def test_looks_through_one_tool_that_may_also_change_excuse_no_other(
    name: str, asked: list[dict[str, str]], calls: int
) -> None:
    look = tool(name, description="Acts.")(lambda command, path="": f"what {command} {path} shows, as it did before")
    model = ScriptedChatModel(script=[call_tool(name, **given) for given in asked] * 9)
    with pytest.raises(WasteBlocked):
        create_agent(model, [look]).invoke(
            {"messages": [HumanMessage("go")]}, {"callbacks": [TokenSentinelHandler(mode="block")]}
        )
    assert model.calls == calls


@pytest.mark.parametrize(
    ("name", "given", "why", "stopped"),
    [
        ("read_file", {"target_file": "a.py"}, "explanation", 3),
        ("codebase_search", {"query": "where are names made"}, "explanation", 3),
        ("run_terminal_cmd", {"command": "python -m build"}, "explanation", 3),
        ("Bash", {"command": "python -m build"}, "description", 3),
        ("report_bug", {"path": "a.py"}, "explanation", None),
        ("check_answer", {"answer": "42"}, "explanation", None),
        ("create_issue", {"title": "Names"}, "description", None),
        ("search_products", {"category": "shoes"}, "description", None),
    ],
)
def test_why_an_agent_looks_is_not_what_it_looks_for(
    name: str, given: dict[str, str], why: str, stopped: int | None
) -> None:
    """But it may be what an agent has to say."""
    words = (
        "Reading exports",
        "To see how naming works",
        "Let me check the helper once more",
        "Is it gone",
        "Red ones",
    )
    script = [call_tool(name, **given, **{why: said}) for said in words]
    does = tool(name, description="Does.", args_schema={"type": "object", "properties": {}})(
        lambda **_: "the same as ever, a line that says a bit"
    )
    model = ScriptedChatModel(script=[*script, AIMessage("done")])
    app = create_agent(model, [does])
    config: Any = {"callbacks": [TokenSentinelHandler(mode="block")]}
    if stopped is None:
        app.invoke({"messages": [HumanMessage("go")]}, config)
        return
    with pytest.raises(WasteBlocked):
        app.invoke({"messages": [HumanMessage("go")]}, config)
    assert model.calls == stopped


def test_the_recommended_policy_stops_a_model_that_talks_to_itself() -> None:
    model = ScriptedChatModel(script=["Sorry, I cannot do that without more about what you have in mind, can you say?"])
    builder = StateGraph(MessagesState)
    builder.add_node("talk", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "talk")
    builder.add_conditional_edges("talk", lambda state: "talk" if len(state["messages"]) < 40 else END)
    policy = Policy.recommended().model_copy(update={"mode": "enforce"})
    guarded = guard(builder, Sentinel(policy=policy)).compile()
    with pytest.raises(WasteBlocked):
        guarded.invoke({"messages": [HumanMessage("go")]}, {"recursion_limit": 99})
    assert model.calls <= 10


def test_a_counter_in_the_prompt_brings_nothing_new() -> None:
    """As middleware puts it there before each call; the tools bring what they brought before."""
    left = itertools.count()

    @before_model
    def count(state: Any, runtime: Any) -> dict[str, Any]:
        return {"messages": [HumanMessage(f"You have {99 - next(left)} steps left.")]}

    moments = itertools.count()
    sentinel = Sentinel(rules=["zombie"])
    handler = TokenSentinelHandler(sentinel, clock=lambda: 1_790_000_000.0 + 20 * next(moments))
    script = [*(call_tool("read_page", number=1) for _ in range(12)), AIMessage("done")]
    create_agent(ScriptedChatModel(script=script), [read_page], middleware=[count]).invoke(
        {"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99}
    )
    assert [(i.rule, i.severity) for i in sentinel.incidents()] == [("zombie", "high")]
