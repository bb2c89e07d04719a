"""The guard around graphs of all kinds: what they did before, they still do."""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from agents import ASK, DONE, LOOP, count_up, fetch_page, graph
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import RunnableConfig, RunnableGenerator, RunnableLambda
from langchain_core.runnables.utils import AddableDict
from langchain_core.tools import tool
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph, add_messages
from langgraph.prebuilt import ToolNode, create_react_agent
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, interrupt
from pydantic import BaseModel

from ts_langchain import Sentinel, TokenSentinelHandler, guard, guard_model, guard_node
from ts_langchain.errors import ConfigurationError, WasteBlocked
from ts_langchain.intervene.actions import MARK
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

STOP = {"rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "stop"}]}}}


def looping(
    state_schema: Any = MessagesState, **kwargs: Any
) -> tuple[StateGraph[Any, Any, Any, Any], ScriptedChatModel]:
    """A graph whose model loops."""
    model = ScriptedChatModel(script=[LOOP])
    bound = model.bind_tools([fetch_page])

    def messages(state: Any) -> Any:
        return state["messages"] if isinstance(state, dict) else state.messages

    builder = StateGraph(state_schema)
    builder.add_node("think", lambda state: {"messages": [bound.invoke(messages(state))]})
    builder.add_node("tools", ToolNode([fetch_page]))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda s: "tools" if messages(s)[-1].tool_calls else END, ["tools", END])
    builder.add_edge("tools", "think")
    return builder, model


class Pydantic(BaseModel):
    messages: Annotated[list[AnyMessage], add_messages]
    kept: int = 7


@dataclass
class Plain:
    messages: Annotated[list[AnyMessage], add_messages] = field(default_factory=list)
    kept: int = 7


class Typed(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    kept: int


@pytest.mark.parametrize("schema", [Pydantic, Plain, Typed])
@pytest.mark.parametrize("action", ["stop", "steer", "trim"])
def test_states_of_all_kinds(schema: Any, action: str) -> None:
    policy = {
        "rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": action}, {"at": 3, "do": "stop"}]}}
    }
    builder, model = looping(schema)
    sentinel = Sentinel(policy=policy)
    out = guard(builder, sentinel).compile().invoke({**ASK, "kept": 7})
    assert model.calls == (3 if action == "stop" else 5)
    assert out["kept"] == 7
    assert sentinel.health().faults == {}
    assert builder.compile().nodes["think"].bound is not None  # the builder itself is not guarded
    assert "Guarded" not in type(builder.compile().nodes["think"].bound).__name__


def test_subgraphs_are_guarded_and_still_visible() -> None:
    inner, model = looping()
    outer = StateGraph(MessagesState)
    outer.add_node("research", inner.compile())
    outer.add_edge(START, "research")
    outer.add_edge("research", END)
    sentinel = Sentinel(policy=STOP)
    app = guard(outer, sentinel).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    spaces = {space for space, _ in app.stream(ASK, config, subgraphs=True)}
    assert model.calls == 3
    assert any(space and space[0].startswith("research:") for space in spaces)
    assert [name for name, _ in app.get_subgraphs()] == ["research"]
    assert app.get_graph().nodes.keys() == outer.compile().get_graph().nodes.keys()
    assert {c.session_id for c in sentinel.incidents()} == {"t"}


def test_send_runs_side_by_side() -> None:
    class Work(TypedDict):
        n: int

    class Results(TypedDict):
        results: Annotated[list[str], operator.add]

    model = ScriptedChatModel(script=[AIMessage("result")])

    def worker(state: Work) -> dict[str, Any]:
        return {"results": [str(model.invoke(f"task {state['n']}").content)]}

    builder = StateGraph(Results)
    builder.add_node("worker", worker)
    builder.add_conditional_edges(START, lambda _: [Send("worker", {"n": n}) for n in range(20)], ["worker"])
    builder.add_edge("worker", END)
    sentinel = Sentinel(policy=STOP)
    assert guard(builder, sentinel).compile().invoke({"results": []}) == {"results": ["result"] * 20}
    assert sentinel.health().calls == 20
    assert len({s.id for s in sentinel.states()}) == 1
    assert sentinel.health().faults == {}


def test_commands_and_configs_reach_and_leave_the_node() -> None:
    def first(state: MessagesState, config: RunnableConfig) -> Command[Any]:
        assert config["configurable"]["colour"] == "blue"
        return Command(goto="second", update={"messages": [AIMessage("one")]})

    async def second(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("two")]}

    builder = StateGraph(MessagesState)
    builder.add_node("first", first, destinations=("second",))
    builder.add_node("second", second)
    builder.add_edge(START, "first")
    import asyncio

    app = guard(builder, Sentinel(policy=STOP)).compile()
    out = asyncio.run(app.ainvoke(ASK, {"configurable": {"colour": "blue"}}))
    assert [m.content for m in out["messages"]] == ["go", "one", "two"]


@pytest.mark.parametrize("door", ["guard", "handler"])
def test_what_blocks_a_node_is_not_retried(door: str) -> None:
    model = ScriptedChatModel(script=[LOOP])
    bound, tries = model.bind_tools([fetch_page]), []

    def think(state: MessagesState) -> dict[str, Any]:
        tries.append(1)
        return {"messages": [bound.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think, retry_policy=RetryPolicy(initial_interval=0.01))
    builder.add_node("tools", ToolNode([fetch_page]))
    builder.add_edge(START, "think")
    builder.add_edge("think", "tools")
    builder.add_edge("tools", "think")
    sentinel = Sentinel(policy={"rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "block"}]}}})
    app: Any = guard(builder, sentinel).compile() if door == "guard" else builder.compile()
    callbacks = [TokenSentinelHandler(sentinel, mode="block")] if door == "handler" else []
    with pytest.raises(WasteBlocked):
        app.invoke(ASK, {"callbacks": callbacks, "recursion_limit": 20})
    assert (model.calls, len(tries)) == (3, 3 + (door == "handler"))


def test_nodes_of_one_name_share_no_cached_results() -> None:
    cache: InMemoryCache[Any] = InMemoryCache()

    def first(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("first")]}

    def second(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("second")]}

    for answer in (first, second, first):
        builder = StateGraph(MessagesState)
        builder.add_node("answer", answer, cache_policy=CachePolicy())
        builder.add_edge(START, "answer")
        result = guard(builder, policy=STOP).compile(cache=cache).invoke({"messages": [HumanMessage("go", id="1")]})
        assert result["messages"][-1].content == answer.__name__


def test_retries_and_the_users_own_interrupts() -> None:
    tries = []
    model = ScriptedChatModel(script=[AIMessage("well")])

    def flaky(state: MessagesState) -> dict[str, Any]:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError
        answer = interrupt("may I?")
        return {"messages": [model.invoke(f"{answer}")]}

    builder = StateGraph(MessagesState)
    builder.add_node("flaky", flaky, retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=4))
    builder.add_edge(START, "flaky")
    sentinel = Sentinel(policy=STOP)
    app = guard(builder, sentinel).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    app.invoke(ASK, config)
    assert len(tries) == 3
    assert [i.value for i in app.get_state(config).interrupts] == ["may I?"]
    out = app.invoke(Command(resume="yes"), config)
    assert out["messages"][-1].content == "well"
    assert sentinel.health().faults == {}


def test_some_tool_calls_reused_some_run() -> None:
    both = AIMessage(
        "",
        tool_calls=[
            {"name": "fetch_page", "args": {"url": "https://example.com/a"}, "id": "a", "type": "tool_call"},
            {"name": "count_up", "args": {"n": 1}, "id": "b", "type": "tool_call"},
        ],
    )
    app, model = graph([LOOP, LOOP, LOOP, both, DONE])
    policy = {
        "rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "reuse"}]}},
        "safe_tools": ["fetch_page"],
    }
    sentinel = Sentinel(policy=policy)
    out = guard(app, sentinel).invoke(ASK, {"callbacks": []})
    asked = out["messages"][-4]
    answers = {m.tool_call_id: m.content for m in out["messages"][-3:-1]}
    assert set(answers) == {c["id"] for c in asked.tool_calls}
    assert sorted(a[:20] for a in answers.values()) == ["The same call was ma", "now 1"]
    assert sentinel.health().faults == {}
    assert model.calls == 5


PAUSE = {"rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "pause"}]}}}
THREAD: Any = {"configurable": {"thread_id": "t"}}


def answered(app: Any, answer: Any) -> list[AnyMessage]:
    """Gives the same answer to all that wait for one."""
    waiting = [i for task in app.get_state(THREAD).tasks for i in task.interrupts]
    return list(app.invoke(Command(resume={i.id: answer for i in waiting}), THREAD)["messages"])


@pytest.mark.parametrize(("answer", "calls"), [("stop", 3), ("approve", 6)])
def test_each_branch_that_waits_for_a_human_takes_the_answer(answer: str, calls: int) -> None:
    model, sentinel = ScriptedChatModel(script=[LOOP, LOOP, LOOP, DONE]), Sentinel(policy=PAUSE)

    def route(state: MessagesState) -> Any:
        if sum(isinstance(m, ToolMessage) for m in state["messages"]) < 3:
            return "think"
        return [Send("think", {"messages": [HumanMessage(f"part {n}")]}) for n in range(3)]

    builder = StateGraph(MessagesState)
    builder.add_node("think", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_node("tools", ToolNode([fetch_page]))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda s: "tools" if s["messages"][-1].tool_calls else END)
    builder.add_conditional_edges("tools", route, ["think"])
    app = guard(builder, sentinel).compile(checkpointer=InMemorySaver())
    app.invoke(ASK, THREAD)
    assert model.calls == 3
    said = [m.content for m in answered(app, answer)[-3:]]
    assert model.calls == calls
    assert sum(str(text).startswith("I stopped here") for text in said) == (3 if answer == "stop" else 0)
    assert [(d.outcome, d.why) for d in sentinel.decisions()] == [("done", answer)]


def test_an_answer_is_not_taken_for_that_to_the_users_own_question() -> None:
    """LangGraph does a node again for each answer, and gives the answers out in order."""
    model, sentinel = ScriptedChatModel(script=[LOOP, LOOP, LOOP, DONE]), Sentinel(policy=PAUSE)
    guarded = guard_model(model, sentinel).bind_tools([fetch_page])
    approved: list[Any] = []

    def think(state: MessagesState) -> dict[str, Any]:
        answer = guarded.invoke(state["messages"])
        if not answer.tool_calls:
            approved.append(interrupt("publish?"))
        return {"messages": [answer]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_node("tools", ToolNode([fetch_page]))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda s: "tools" if s["messages"][-1].tool_calls else END)
    builder.add_edge("tools", "think")
    app = builder.compile(checkpointer=InMemorySaver())
    app.invoke(ASK, THREAD)
    answered(app, "approve")
    assert approved == []
    answered(app, "no, wait")
    assert approved == ["no, wait"]
    assert sentinel.health().ok


@pytest.mark.parametrize("door", ["graph", "model"])
@pytest.mark.parametrize(("answer", "calls"), [("stop", 1), ("approve", 2)])
def test_an_answer_counts_though_the_budget_has_room_by_then(door: str, answer: str, calls: int) -> None:
    sentinel = Sentinel(policy={"budgets": [{"tokens_per_minute": 2000, "do": "pause"}]})
    usage = UsageMetadata(input_tokens=1500, output_tokens=1, total_tokens=1501)
    model = ScriptedChatModel(script=[AIMessage("done", usage_metadata=usage)])
    guarded: Any = guard_model(model, sentinel) if door == "model" else model
    builder = StateGraph(MessagesState)
    builder.add_node("think", lambda state: {"messages": [guarded.invoke(state["messages"])]})
    builder.add_edge(START, "think")
    app: Any = builder.compile(checkpointer=InMemorySaver())
    app = app if door == "model" else guard(app, sentinel)
    app.invoke(ASK, THREAD)
    app.invoke(ASK, THREAD)
    assert model.calls == 1
    assert sentinel.governor.budgets is not None
    sentinel.governor.budgets = type(sentinel.governor.budgets)(
        sentinel.governor.budgets.policy, sentinel.prices, sentinel.faults
    )  # an hour later
    assert str(answered(app, answer)[-1].content).startswith("I stopped here") == (answer == "stop")
    assert model.calls == calls
    assert sentinel.health().ok


@pytest.mark.parametrize("inlined", [False, True])
def test_tool_calls_sent_one_by_one_are_reused_too(inlined: bool) -> None:
    """`create_agent` sends each tool call to a task of its own; earlier versions sent the state along."""
    runs: list[str] = []

    @tool
    def fetch_page(url: str) -> str:
        """Fetches a web page."""
        runs.append(url)
        return "the same page, as ever"

    policy = {
        "rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "reuse"}]}},
        "safe_tools": ["fetch_page"],
    }
    model, sentinel = ScriptedChatModel(script=[LOOP] * 6 + [DONE]), Sentinel(policy=policy)
    if inlined:
        bound = model.bind_tools([fetch_page])

        def route(state: MessagesState) -> Any:
            calls = getattr(state["messages"][-1], "tool_calls", ())
            sent = [{"__type": "tool_call_with_context", "tool_call": c, "state": state} for c in calls]
            return [Send("tools", s) for s in sent] or END

        builder = StateGraph(MessagesState)
        builder.add_node("think", lambda state: {"messages": [bound.invoke(state["messages"])]})
        builder.add_node("tools", ToolNode([fetch_page]))
        builder.add_edge(START, "think")
        builder.add_conditional_edges("think", route, ["tools", END])
        builder.add_edge("tools", "think")
        app: Any = builder.compile()
    else:
        app = create_agent(model, [fetch_page])
    messages = guard(app, sentinel).invoke(ASK)["messages"]
    assert (len(runs), model.calls) == (3, 7)
    assert [m.response_metadata.get("ts_langchain") for m in messages if isinstance(m, ToolMessage)][3:] == [
        "reuse"
    ] * 3
    assert sentinel.health().ok


def test_a_guarded_node_alone() -> None:
    sentinel = Sentinel(policy=STOP)
    model = ScriptedChatModel(script=[LOOP])
    bound = model.bind_tools([fetch_page, count_up])

    @guard_node(sentinel)
    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [bound.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_node("tools", ToolNode([fetch_page]))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda s: "tools" if s["messages"][-1].tool_calls else END, ["tools", END])
    builder.add_edge("tools", "think")
    out = builder.compile().invoke(ASK, {"configurable": {"thread_id": "t"}, "metadata": {"session_id": "t"}})
    assert "I stopped here" in out["messages"][-1].content
    assert model.calls <= 4


@pytest.mark.parametrize("config", [{"metadata": {"session_id": "s"}}, {}], ids=["named", "nameless"])
def test_a_guarded_model_on_its_own(config: Any) -> None:
    policy = {"rules": {"retry_storm": {"steps": [{"at": 1, "do": "stop"}]}}}
    model = ScriptedChatModel(script=[ConnectionError("down")])
    guarded = guard_model(model, policy=policy)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            guarded.invoke("hi", config)
    assert "I stopped here" in guarded.invoke("hi", config).content
    assert model.calls == 5
    chunks = list(guard_model(ScriptedChatModel(script=[AIMessage("a b c")]), guarded.sentinel).stream("x"))
    assert "".join(str(c.content) for c in chunks) == "a b c"


@pytest.mark.parametrize("door", ["model", "node"])
def test_a_guard_inside_a_graph_that_nobody_watches_knows_its_runs(door: str) -> None:
    """With no thread and no handler: what comes in one run is one conversation, and what comes in the next is none."""
    policy = {
        "rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "stop"}]}},
        "budgets": [{"per": "run", "calls": 5, "do": "block"}],
    }
    model, sentinel = ScriptedChatModel(script=[*[LOOP] * 2, "done", *[LOOP] * 9]), Sentinel(policy=policy)
    bound = (guard_model(model, sentinel) if door == "model" else model).bind_tools([fetch_page])

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [bound.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", guard_node(sentinel)(think) if door == "node" else think)
    builder.add_node("tools", ToolNode([fetch_page]))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda s: "tools" if s["messages"][-1].tool_calls else END)
    builder.add_edge("tools", "think")
    app = builder.compile()
    assert app.invoke(ASK)["messages"][-1].content == "done"
    assert sentinel.decisions() == []
    assert "I stopped here" in app.invoke(ASK)["messages"][-1].content
    assert model.calls < 3 + 5
    assert [(d.action, d.outcome) for d in sentinel.decisions()[-1:]] == [("stop", "done")]
    assert sentinel.health().sessions == 2
    assert sentinel.health().faults == {}


@pytest.mark.filterwarnings("ignore:create_react_agent")
@pytest.mark.parametrize("do", ["steer", "trim"])
def test_what_a_hook_has_sent_is_what_is_changed(do: str) -> None:
    """Prebuilt agents send what their `pre_model_hook` gives, not the state's messages."""
    sent: list[list[AnyMessage]] = []

    @tool
    def fetch_page(url: str) -> str:
        """Fetches."""
        return "the same page " * 50

    def answers(messages: Any) -> AIMessage:
        sent.append(list(messages))
        return LOOP if len(sent) < 5 else DONE

    policy = {"rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": do}]}}}
    agent = create_react_agent(
        ScriptedChatModel(script=[answers]),
        [fetch_page],
        pre_model_hook=lambda state: {"llm_input_messages": state["messages"]},
    )
    app = guard(agent, policy=policy)
    messages = app.invoke(ASK)["messages"]
    assert messages[-1].content == DONE.content
    assert not any(MARK in m.additional_kwargs or MARK in m.response_metadata for m in messages)
    marked = [any(MARK in m.additional_kwargs or MARK in m.response_metadata for m in asked) for asked in sent]
    assert marked == [False] * 3 + [True] * 2


def test_strangers_share_a_guarded_model_and_nothing_else() -> None:
    """Nothing names their conversations: each is told by its prompts, and has a budget of its own."""
    model = ScriptedChatModel(script=[LOOP])
    guarded = guard_model(model, policy={**STOP, "budgets": [{"per": "session", "calls": 6}]})

    def talk(question: str, longest: int) -> list[Any]:
        messages: list[Any] = [HumanMessage(question)]
        for _ in range(longest):
            messages.append(guarded.invoke(messages))
            if not messages[-1].tool_calls:
                break
            messages.append(fetch_page.invoke(messages[-1].tool_calls[0]))
        return messages

    assert "I stopped here" in talk("Which plan has SSO?", 20)[-1].content
    assert model.calls == 4
    for n in range(9):
        assert len(talk(f"Question {n}?", 2)) == 5
    assert model.calls == 4 + 9 * 2
    assert guarded.sentinel.health().sessions == 10


def test_the_user_of_a_context_comes_first_at_a_guarded_model() -> None:
    model = ScriptedChatModel(script=[ConnectionError("down")])
    guarded = guard_model(model, policy={"rules": {"retry_storm": {"steps": [{"at": 1, "do": "stop"}]}}})
    with guarded.sentinel.session(user_id="ada"):
        for _ in range(5):
            with pytest.raises(ConnectionError):
                guarded.invoke("hi", {"metadata": {"user_id": "bob"}})
        assert "I stopped here" in guarded.invoke("hi", {"metadata": {"user_id": "bob"}}).content


@pytest.mark.parametrize("config", [{"metadata": {"session_id": "s"}}, {}], ids=["named", "nameless"])
def test_what_a_user_asks_again_is_no_loop_of_a_guarded_model(config: Any) -> None:
    """The session stands for the run; each request is a turn of its own nevertheless."""
    model = ScriptedChatModel(script=[LOOP, DONE] * 5)
    guarded = guard_model(model, policy=STOP)
    messages: list[Any] = []
    for _ in range(5):
        messages.append(HumanMessage("And now?"))
        messages.append(guarded.invoke(messages, config))
        messages.append(fetch_page.invoke(messages[-1].tool_calls[0]))
        messages.append(guarded.invoke(messages, config))
    assert model.calls == 10
    assert {i.severity for i in guarded.sentinel.incidents()} <= {"low", "medium"}


class Answer(BaseModel):
    """An answer."""

    text: str


def test_structured_output_of_a_guarded_model() -> None:
    model = ScriptedChatModel(script=[call_tool("Answer", text="forty-two")])
    guarded = guard_model(model, policy=STOP)
    assert guarded.with_structured_output(Answer).invoke([HumanMessage("?")]) == Answer(text="forty-two")
    assert guarded.sentinel.health().calls == 1


@pytest.mark.parametrize("include_raw", [False, True])
def test_structured_output_is_streamed_as_without_a_guard(include_raw: bool) -> None:
    model = ScriptedChatModel(script=[call_tool("Answer", text="forty-two")])

    def pieces(model: Any) -> list[Any]:
        chunks = list(model.with_structured_output(Answer, include_raw=include_raw).stream("?"))
        return [sorted(c) if isinstance(c, dict) else c for c in chunks]

    assert pieces(guard_model(model, Sentinel(policy={}))) == pieces(model) != []


@pytest.mark.parametrize("include_raw", [False, True])
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_after_a_stop_there_is_no_structured_answer(way: str, include_raw: bool) -> None:
    model = ScriptedChatModel(script=[call_tool("Answer", text="forty-two")])
    guarded = guard_model(model, policy={"budgets": [{"calls": 1}]})
    chain = guarded.with_structured_output(Answer, include_raw=include_raw)
    config: Any = {"metadata": {"thread_id": "t"}}

    async def ask() -> Any:
        if way == "invoke":
            return chain.invoke("?", config)
        if way == "ainvoke":
            return await chain.ainvoke("?", config)
        if way == "stream":
            return list(chain.stream("?", config))[-1]
        return [chunk async for chunk in chain.astream("?", config)][-1]

    asyncio.run(ask())
    said = asyncio.run(ask())
    assert model.calls == 1
    if include_raw:
        assert said["parsed"] is None
        assert said["raw"].content.startswith("I stopped here")
    else:
        assert said is None


@pytest.mark.parametrize("include_raw", [False, True])
def test_a_downgrade_keeps_the_schema(include_raw: bool) -> None:
    class Binding(ScriptedChatModel):
        """Answers in the schema it is given."""

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
            bound.append([t["function"]["name"] for t in kwargs.get("tools", ())])
            return super()._generate(messages, stop, run_manager)

    bound: list[list[str]] = []
    script = [call_tool("Answer", text="forty-two")]
    cheap = Binding(script=script, model_name="gpt-4o-mini")
    policy = {"budgets": [{"calls": 1, "do": "downgrade"}], "downgrade": {"gpt-4o-20*": "cheap"}}
    guarded = guard_model(ScriptedChatModel(script=script), policy=policy, models={"cheap": cheap})
    chain = guarded.bind_tools([fetch_page]).with_structured_output(Answer, include_raw=include_raw)
    for _ in range(2):
        said = chain.invoke("?", {"metadata": {"thread_id": "t"}})
    assert (said["parsed"] if include_raw else said) == Answer(text="forty-two")
    assert bound == [["Answer"]]


def test_a_structured_call_is_one_of_its_run() -> None:
    """The chain around the model and its parser is the run, also for budgets."""
    sentinel = Sentinel(policy={"budgets": [{"per": "run", "calls": 2}]})
    chain = guard_model(ScriptedChatModel(script=[call_tool("Answer", text="x")]), sentinel)
    said: list[Any] = [HumanMessage("?")]
    for _ in range(4):
        answer = chain.with_structured_output(Answer, include_raw=True).invoke(said)["raw"]
        if not answer.tool_calls:
            break
        said += [answer, ToolMessage("no", tool_call_id=answer.tool_calls[0]["id"])]
    assert answer.content.startswith("I stopped here")
    assert sentinel.health().calls == 3  # two of the model, and the tool call between them
    assert sentinel.in_flight.reservations == {}


def test_what_is_no_graph_or_has_no_policy_is_refused() -> None:
    model = ScriptedChatModel(script=["done"])
    for given in ("gpt-4o", None, ScriptedChatModel, model.with_retry(), guard_model(model)):
        with pytest.raises(TypeError, match="guard_model takes a chat model"):
            guard_model(given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"with_fallbacks\(\[guard_model"):
        guard_model(model.with_fallbacks([model]))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="guard takes a StateGraph"):
        guard(object())
    with pytest.raises(ConfigurationError, match="policy is needed"):
        guard(looping()[0], Sentinel())
    with pytest.raises(ConfigurationError, match="not to both"):
        guard(looping()[0], Sentinel(policy=STOP), policy=STOP)


# --- nodes in pieces ---------------------------------------------------------------------------


def in_pieces(model: Any) -> StateGraph[Any, Any, Any, Any]:
    """A graph whose node is a chain that gives its output in pieces."""

    async def told(pieces: AsyncIterator[Any]) -> AsyncIterator[dict[str, Any]]:
        async for piece in pieces:
            yield AddableDict(messages=[piece])

    def told_at_once(pieces: Iterator[Any]) -> Iterator[dict[str, Any]]:
        for piece in pieces:
            yield AddableDict(messages=[piece])

    chain = RunnableLambda(lambda state: state["messages"]) | model | RunnableGenerator(told_at_once, told)
    builder = StateGraph(MessagesState)
    builder.add_node("think", chain)
    builder.add_edge(START, "think")
    builder.add_edge("think", END)
    return builder


def events(app: Any) -> list[tuple[str, str]]:
    async def seen() -> list[tuple[str, str]]:
        return [(e["event"], e["name"]) async for e in app.astream_events(ASK, version="v2")]

    return asyncio.run(seen())


def test_a_node_that_gives_pieces_gives_them_guarded() -> None:
    script = ["one two three"]
    plain = events(in_pieces(ScriptedChatModel(script=script)).compile())
    sentinel = Sentinel(policy={"mode": "enforce", "budgets": [{"per": "session", "usd": 1.0}]})
    app = guard(in_pieces(ScriptedChatModel(script=script)).compile(), sentinel)
    guarded = Counter(e for e in events(app) if e[1] != "RunnableSequence")  # a chain in a graph loses its own run
    assert guarded == Counter(plain)
    assert guarded["on_chain_stream", "told_at_once"] >= 3
    assert sentinel.health().calls == 1
    assert sentinel.in_flight.reservations == {}
    assert sentinel.health().ok


def test_a_node_that_gives_pieces_is_stopped() -> None:
    builder, model = looping()
    app = guard(builder.compile(), policy=STOP)
    assert ("on_chain_end", "LangGraph") in events(app)
    assert model.calls < 5


@pytest.mark.parametrize("mode", ["stream", "astream"])
def test_a_guarded_node_can_be_asked_for_pieces(mode: str) -> None:
    def more(given: Iterator[str]) -> Iterator[str]:
        yield from given
        yield "more"

    async def amore(given: AsyncIterator[str]) -> AsyncIterator[str]:
        async for piece in given:
            yield piece
        yield "more"

    node = guard_node(policy=STOP)(RunnableGenerator(more, amore))

    async def pieces() -> list[Any]:
        return [piece async for piece in node.astream("one")]

    assert (list(node.stream("one")) if mode == "stream" else asyncio.run(pieces())) == ["one", "more"]


def supervised(supervisor: ScriptedChatModel, expert: ScriptedChatModel) -> StateGraph[Any, Any, Any, Any]:
    """A supervisor that hands over to two experts, and is told what they say."""
    names = ("research", "math")
    bound = supervisor.bind_tools([{"name": f"transfer_to_{n}", "description": "Asks the expert."} for n in names])

    def transfer(state: MessagesState) -> Command[Any]:
        call = state["messages"][-1].tool_calls[0]  # type: ignore[union-attr]
        tool(call["name"], description="Asks the expert.")(lambda: "asked").invoke({**call, "type": "tool_call"})
        answer = ToolMessage("asked", tool_call_id=call["id"])
        return Command(goto=call["name"].removeprefix("transfer_to_"), update={"messages": [answer]})

    def route(state: MessagesState) -> str:
        return "transfer" if getattr(state["messages"][-1], "tool_calls", None) else END

    builder = StateGraph(MessagesState)
    builder.add_node("supervisor", lambda state: {"messages": [bound.invoke(state["messages"])]})
    builder.add_node("transfer", transfer, destinations=names)
    for name in names:
        builder.add_node(name, create_agent(expert, [], name=name))
        builder.add_edge(name, "supervisor")
    builder.add_edge(START, "supervisor")
    builder.add_conditional_edges("supervisor", route, ["transfer", END])
    return builder


@pytest.mark.parametrize("thread", ["t", None])
def test_a_circle_of_agents_is_stopped_for_all_of_them(thread: str | None) -> None:
    steps = [{"at": 1, "do": "steer"}, {"at": 2, "do": "stop"}]
    sentinel = Sentinel(policy={"rules": {"handoff_loop": {"steps": steps}}})
    turns = [call_tool("transfer_to_research"), call_tool("transfer_to_math")]
    supervisor = ScriptedChatModel(script=[*turns * 3, "Now I know."])
    expert = ScriptedChatModel(script=["Ask the other one."])
    app = guard(supervised(supervisor, expert).compile(checkpointer=InMemorySaver() if thread else None), sentinel)
    config: Any = {"configurable": {"thread_id": thread} if thread else {}, "recursion_limit": 100}
    said = app.invoke({"messages": [HumanMessage("How many?")]}, config)["messages"]
    assert said[-1].content.startswith("I stopped here")
    assert (supervisor.calls, expert.calls) == (
        6,
        5,
    )  # the experts' first answer was new; the sixth handover is the second strike
    assert [(d.action, d.outcome) for d in sentinel.decisions()] == [("steer", "done"), ("stop", "done")]
    again = app.invoke({"messages": [HumanMessage("And now?")]}, config)["messages"]  # the next run is its own
    assert again[-1].content == "Now I know."
    assert (supervisor.calls, expert.calls) == (7, 5)
    assert sentinel.health().ok
