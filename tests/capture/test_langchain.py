"""What the handler makes of what LangChain and LangGraph really do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypedDict
from uuid import UUID

import pytest
from agents import ASK, DONE, LOOP, agent, count_up, fetch_page, graph
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware
from langchain_core.documents import Document
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGenerationChunk, LLMResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import create_retriever_tool, tool
from langchain_core.tracers.langchain import LangChainTracer
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from recorder import Recorder, Wire, recorded, replay_of

from ts_importers.langsmith_rows import run_from_row
from ts_langchain import (
    Sentinel,
    SentinelEmbeddings,
    TokenSentinelHandler,
    TokenSentinelMiddleware,
    WasteBlocked,
    guard,
    guard_node,
    token_sentinel,
)
from ts_langchain.call import Usage
from ts_langchain.capture.answers import read_answer, read_usage
from ts_langchain.capture.tasks import begun_in
from ts_langchain.capture.tools import _TOOLSETS, read_toolset
from ts_langchain.replay import Run
from ts_langchain.testing import HashEmbeddings, ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from langchain_core.callbacks import CallbackManagerForRetrieverRun


def clean(recorder: Recorder, handler: TokenSentinelHandler) -> None:
    """Nothing went wrong, nothing is left over."""
    assert recorder.health().faults == {}
    assert handler.pending() == {}
    assert handler._roots == {}
    assert handler._reported == {}


def test_a_tool_call_is_one_call_joined_with_its_request() -> None:
    recorder, handler = recorded()
    app, _ = agent([call_tool("fetch_page", url="u"), DONE])
    app.invoke(ASK, {"callbacks": [handler], "tags": ["beta"], "configurable": {"thread_id": "t"}})
    assert recorder.kinds() == ["model", "tool", "model"]
    first, run, _ = recorder.seen
    assert run.requested_by == first.id
    assert run.tool_call_id == first.tool_calls[0].id
    assert {c.session_id for c in recorder.seen} == {"t"}
    assert len({c.root_id for c in recorder.seen}) == 1
    assert [c.node for c in recorder.seen] == ["model", "tools", "model"]
    assert all("beta" in c.tags for c in recorder.seen)
    clean(recorder, handler)


def test_parallel_tool_calls_are_siblings() -> None:
    recorder, handler = recorded()
    both = AIMessage(
        "",
        tool_calls=[{"name": "fetch_page", "args": {"url": u}, "id": u, "type": "tool_call"} for u in ("a", "b")],
    )
    app, _ = agent([both, DONE])
    app.invoke(ASK, {"callbacks": [handler]})
    tools = [c for c in recorder.seen if c.kind == "tool"]
    assert [c.siblings for c in tools] == [2, 2]
    assert {c.tool_call_id for c in tools} == {asked.id for asked in recorder.seen[0].tool_calls}
    clean(recorder, handler)


@pytest.mark.parametrize("build", [agent, graph])
def test_an_approved_tool_call_is_one_call(build: Any) -> None:
    """A call that waits for a human is no error, and is not counted when it waits."""

    @tool
    def pay(amount: int) -> str:
        """Pays."""
        return f"paid {amount}: {interrupt('may I?')}"

    recorder, handler = recorded(mode="block")
    model = ScriptedChatModel(script=[call_tool("pay", amount=5), DONE])
    app = create_agent(model, [pay], checkpointer=InMemorySaver())
    config: Any = {"callbacks": [handler], "configurable": {"thread_id": "t"}}
    app.invoke(ASK, config)
    assert recorder.kinds() == ["model"]
    app.invoke(Command(resume="yes"), config)
    assert recorder.kinds() == ["model", "tool", "model"]
    run = recorder.seen[1]
    assert (run.status, run.requested_by) == ("ok", recorder.seen[0].id)
    assert recorder.incidents() == []
    clean(recorder, handler)


def test_subgraphs_and_send() -> None:
    class Work(TypedDict):
        n: int

    recorder, handler = recorded()
    inner, _ = agent([DONE])

    def fan_out(state: MessagesState) -> list[Send]:
        return [Send("worker", {"n": n}) for n in range(5)]

    def worker(state: Work) -> dict[str, Any]:
        return {"messages": inner.invoke({"messages": [HumanMessage(f"task {state['n']}")]})["messages"][-1:]}

    builder = StateGraph(MessagesState)
    builder.add_node("worker", worker)
    builder.add_conditional_edges(START, fan_out, ["worker"])
    builder.add_edge("worker", END)
    builder.compile().invoke(ASK, {"callbacks": [handler], "configurable": {"thread_id": "t"}})
    assert recorder.kinds() == ["model"] * 5
    assert {(c.session_id) for c in recorder.seen} == {"t"}
    assert len({c.root_id for c in recorder.seen}) == 1
    assert recorder.incidents() == []
    clean(recorder, handler)


def test_without_a_thread_each_invocation_is_a_session() -> None:
    recorder, handler = recorded()
    app, _ = agent([call_tool("count_up", n=1), DONE])
    app.invoke(ASK, {"callbacks": [handler]})
    app.invoke(ASK, {"callbacks": [handler]})
    assert len({c.session_id for c in recorder.seen}) == 2
    assert all(c.session_id == c.root_id for c in recorder.seen)
    clean(recorder, handler)


@pytest.mark.parametrize("key", ["session_id", "thread_id", "conversation_id"])
def test_the_session_comes_from_metadata(key: str) -> None:
    recorder, handler = recorded()
    ScriptedChatModel(script=[DONE]).invoke("hi", {"callbacks": [handler], "metadata": {key: 42}})
    assert recorder.seen[0].session_id == "42"


def test_the_session_a_user_names_wins() -> None:
    recorder, handler = recorded()
    with recorder.session("mine", user_id="ada", tags=["x"]):
        ScriptedChatModel(script=[DONE]).invoke("hi", {"callbacks": [handler], "metadata": {"thread_id": "theirs"}})
    call = recorder.seen[0]
    assert (call.session_id, call.user_id, call.tags) == ("mine", "ada", ("x",))
    fixed, other = recorded(session_id="fixed")
    with fixed.session("mine"):
        ScriptedChatModel(script=[DONE]).invoke("hi", {"callbacks": [other]})
    assert fixed.seen[0].session_id == "fixed"


@pytest.mark.parametrize("session", [UUID(int=7), 7])
def test_ids_of_any_type_are_read_as_text(session: object) -> None:
    one, two = Sentinel(), Sentinel()
    agent([*[LOOP] * 4, DONE])[0].invoke(ASK, {"callbacks": [TokenSentinelHandler(one, session_id=session)]})
    with two.session(session, user_id=session):
        agent([*[LOOP] * 4, DONE])[0].invoke(ASK, {"callbacks": [TokenSentinelHandler(two)]})
    for sentinel in (one, two):
        assert sentinel.health().ok
        assert [i.session_id for i in sentinel.incidents(session)] == [str(session)]
        assert sentinel.totals(session) is not None


def test_contexts_nest() -> None:
    recorder, handler = recorded()
    with recorder.session("outer", user_id="ada", tags=["a"]), recorder.session("inner", tags=["b"]):
        ScriptedChatModel(script=[DONE]).invoke("hi", {"callbacks": [handler]})
    call = recorder.seen[0]
    assert (call.session_id, call.user_id, call.tags) == ("inner", "ada", ("a", "b"))


def test_text_is_one_tag() -> None:
    recorder, handler = recorded()
    with recorder.session("s", tags="prod"):
        ScriptedChatModel(script=[DONE]).invoke("hi", {"callbacks": [handler]})
    assert recorder.seen[0].tags == ("prod",)


def test_a_cancelled_stream_is_cancelled_and_estimated() -> None:
    recorder, handler = recorded()
    model = ScriptedChatModel(script=[AIMessage("one two three four five six")])
    stream = model.stream("x" * 400, {"callbacks": [handler]})
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    [call] = recorder.seen
    assert call.status == "cancelled"
    assert call.usage.estimated
    assert call.usage.input_tokens >= 100
    assert recorder.incidents() == []
    clean(recorder, handler)


def test_a_cancelled_task_is_cancelled() -> None:
    recorder, handler = recorded()

    async def left() -> None:
        stream = ScriptedChatModel(script=[AIMessage("one two three")]).astream("hi", {"callbacks": [handler]})
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(left())
    assert [c.status for c in recorder.seen] == ["cancelled"]
    clean(recorder, handler)


class Slow(ScriptedChatModel):
    """Never answers in time."""

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(60)
        raise AssertionError


@tool
async def slow_page(url: str) -> str:
    """Never answers in time."""
    await Slow(script=["page"]).ainvoke(url)
    return url


@pytest.mark.parametrize(("script", "seen"), [([], ["model"]), ([call_tool("slow_page", url="u")], ["model", "tool"])])
def test_an_agent_that_is_cancelled_leaves_no_call_behind(script: list[Any], seen: list[str]) -> None:
    recorder, handler = recorded()
    model: Any = ScriptedChatModel(script=script) if script else Slow(script=["done"])
    app = create_agent(model, [slow_page])

    async def timed_out() -> None:
        async with asyncio.timeout(0.2):
            await app.ainvoke(ASK, {"callbacks": [handler]})

    with pytest.raises(TimeoutError):
        asyncio.run(timed_out())
    late = recorder.seen[len(script) :]
    assert sorted(c.kind for c in late) == seen
    assert {(c.status, c.error) for c in late} == {("cancelled", "CancelledError")}
    assert all(c.usage.estimated and c.usage.input_tokens for c in late if c.kind == "model")
    clean(recorder, handler)


RETRY, FALLBACK = ModelRetryMiddleware(), ModelFallbackMiddleware(ScriptedChatModel(script=["-"]))


@pytest.mark.parametrize("hooks", [[], [RETRY], [RETRY, FALLBACK]])
def test_an_agent_whose_stream_is_left_leaves_no_call_behind(hooks: list[Any]) -> None:
    """With LangSmith's tracing on, hooks of middleware are parents of which no other handler is told."""

    class Dripping(ScriptedChatModel):
        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            for chunk in self._stream(*args, **kwargs):
                yield chunk
                await asyncio.sleep(0.01)

    recorder, handler = recorded()
    app = create_agent(Dripping(script=["one two three four five"]), [], middleware=hooks)

    async def left() -> None:
        config: Any = {"callbacks": [handler, LangChainTracer(client=Wire())]}
        stream = app.astream(ASK, config, stream_mode="messages")
        await anext(stream)
        await stream.aclose()

    asyncio.run(left())
    assert [(c.kind, c.status, c.error) for c in recorder.seen] == [("model", "cancelled", "CancelledError")]
    clean(recorder, handler)


async def given_up_in_a_node(config: Any) -> None:
    async def ask(state: MessagesState) -> dict[str, Any]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await Slow(script=["never"]).ainvoke(state["messages"])
        return {"messages": [await ScriptedChatModel(script=["instead"]).ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    await builder.compile().ainvoke(ASK, config)


async def given_up_by_itself(config: Any) -> None:
    await ScriptedChatModel(script=["yes"]).ainvoke("hi", config)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await Slow(script=["never"]).ainvoke("hi", config)


async def one_of_two(config: Any) -> None:
    both = [asyncio.create_task(m(script=["yes"]).ainvoke("hi", config)) for m in (Slow, ScriptedChatModel)]
    _, left = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()


async def never_awaited(config: Any) -> None:
    left = asyncio.create_task(Slow(script=["never"]).ainvoke("hi", config))
    await ScriptedChatModel(script=["yes"]).ainvoke("hi", config)
    assert not left.done()


@pytest.mark.parametrize("app", [given_up_in_a_node, given_up_by_itself, one_of_two, never_awaited])
def test_a_call_that_is_given_up_ends_with_its_task(app: Any) -> None:
    recorder, handler = recorded()
    asyncio.run(app({"callbacks": [handler]}))
    assert sorted(c.status for c in recorder.seen) == ["cancelled", "ok"]
    clean(recorder, handler)


def test_a_completion_ends_as_langchain_tells() -> None:
    """Its start is told in a task of its own, which is done long before it answers."""

    class SlowCompletion(FakeListLLM):
        async def _acall(self, *args: Any, **kwargs: Any) -> str:
            await asyncio.sleep(0.02)
            return "late"

    recorder, handler = recorded()
    config: Any = {"callbacks": [handler]}

    async def both() -> None:
        await SlowCompletion(responses=["-"]).abatch(["hi", "you"], config)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await SlowCompletion(responses=["-"]).ainvoke("hi", config)

    asyncio.run(both())
    assert [(c.status, c.answer_chars) for c in recorder.seen] == [("ok", 4), ("ok", 4), ("cancelled", 0)]
    clean(recorder, handler)


def test_what_goes_on_in_another_task_is_not_given_up() -> None:
    """A stream whose pieces are read in tasks of their own, and a call that outlives the chain it began in."""
    recorder, handler = recorded()
    config: Any = {"callbacks": [handler]}

    async def read() -> None:
        stream = ScriptedChatModel(script=["one two three"]).astream("hi", config)
        with contextlib.suppress(StopAsyncIteration):
            while True:
                await asyncio.create_task(anext(stream))

    async def later() -> None:
        async def begin(text: str) -> Any:
            return [asyncio.create_task(ScriptedChatModel(script=["yes"]).ainvoke(text))]

        [task] = await RunnableLambda(begin).ainvoke("hi", config)
        await task

    asyncio.run(read())
    asyncio.run(later())
    assert [c.status for c in recorder.seen] == ["ok", "ok"]
    clean(recorder, handler)


class Blocking(ScriptedChatModel):
    """Takes its time, and the thread's."""

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.3)
        return super()._generate(*args, **kwargs)


@pytest.mark.parametrize("door", [False, True])
def test_what_a_thread_has_begun_goes_on_when_its_agent_is_cancelled(door: bool) -> None:
    recorder = Recorder(policy={})
    handler = TokenSentinelHandler(recorder)
    model = Blocking(script=["one two three"])

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", guard_node(recorder)(ask) if door else ask)
    builder.add_edge(START, "ask")

    async def timed_out() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await builder.compile().ainvoke(ASK, {"callbacks": [handler]})

    asyncio.run(timed_out())  # it waits for its threads
    assert [(c.status, c.usage.estimated) for c in recorder.seen] == [("ok", False)]
    clean(recorder, handler)


def test_what_a_thread_begins_after_its_agent_was_cancelled_belongs_to_the_agents_run() -> None:
    recorder, handler = recorded()
    client = Wire()

    def ask(state: MessagesState) -> dict[str, Any]:
        time.sleep(0.2)
        step = RunnableLambda(lambda said: said) | ScriptedChatModel(script=["one"])
        return {"messages": [ScriptedChatModel(script=["two"]).invoke([step.invoke(state["messages"])])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")

    async def timed_out() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await builder.compile().ainvoke(ASK, {"callbacks": [handler, LangChainTracer(client=client)]})

    asyncio.run(timed_out())
    [run] = [row["id"] for row in client.sent() if row["name"] == "LangGraph"]
    assert [(c.session_id, c.root_id) for c in recorder.seen] == [(run, run), (run, run)]
    clean(recorder, handler)


def test_calls_of_a_long_task_are_not_kept() -> None:
    recorder, handler = recorded()

    async def serve() -> int:
        for n in range(200):
            await ScriptedChatModel(script=["yes"]).ainvoke(f"{n}", {"callbacks": [handler]})
        return sum(map(len, begun_in.values()))

    assert asyncio.run(serve()) < 100
    clean(recorder, handler)


def test_a_failing_model_is_an_error_and_costs_nothing() -> None:
    recorder, handler = recorded()
    with pytest.raises(TimeoutError):
        ScriptedChatModel(script=[TimeoutError("too slow")]).invoke("hi", {"callbacks": [handler]})
    [call] = recorder.seen
    assert (call.status, call.error, call.usage.total_tokens) == ("error", "TimeoutError", 0)
    clean(recorder, handler)


class Breaks(ScriptedChatModel):
    """A stream whose connection breaks, as httpx tells it through all provider packages."""

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for chunk in ("eight ch", "ars"):
            yield ChatGenerationChunk(message=AIMessageChunk(chunk))
        raise ConnectionError


def test_a_stream_that_breaks_was_billed_until_then() -> None:
    recorder, handler = recorded()
    client = Wire()
    with pytest.raises(ConnectionError):
        list(Breaks(script=[DONE]).stream("four", {"callbacks": [handler, LangChainTracer(client=client)]}))
    [call] = recorder.seen
    assert (call.status, call.error, call.usage) == ("error", "ConnectionError", Usage(1, 3, estimated=True))
    runs = [run for row in client.sent() if isinstance(run := run_from_row(row), Run)]
    assert replay_of(*runs).known() == recorder.known()


def test_a_failing_tool_is_an_error() -> None:
    @tool
    def broken(n: int) -> str:
        """Breaks."""
        raise ValueError(n)

    recorder, handler = recorded()
    app = create_agent(ScriptedChatModel(script=[call_tool("broken", n=1), DONE]), [broken])
    with pytest.raises(ValueError, match="1"):
        app.invoke(ASK, {"callbacks": [handler]})
    assert [(c.kind, c.status, c.error) for c in recorder.seen][1] == ("tool", "error", "ValueError")
    clean(recorder, handler)


def test_arguments_that_a_tool_refuses_are_the_same_error_live_and_recorded() -> None:
    """The `repr` of pydantic's `ValidationError`, which tracers write, does not begin with its name."""
    recorder, handler = recorded()
    client = Wire()
    app = create_agent(ScriptedChatModel(script=[call_tool("count_up", n="many"), DONE]), [count_up])
    app.invoke(ASK, {"callbacks": [handler, LangChainTracer(client=client)]})
    assert recorder.seen[1].error == "ValidationError"
    runs = [run for row in client.sent() if isinstance(run := run_from_row(row), Run)]
    assert replay_of(*runs).known() == recorder.known()


def test_usage_as_reported_with_cache_reasoning_and_audio() -> None:
    recorder, handler = recorded()
    usage: Any = {
        "input_tokens": 1000,
        "output_tokens": 300,
        "total_tokens": 1300,
        "input_token_details": {"cache_read": 600, "cache_creation": 100, "audio": 50},
        "output_token_details": {"reasoning": 200, "audio": 20},
    }
    ScriptedChatModel(script=[AIMessage("hi", usage_metadata=usage)]).invoke("q", {"callbacks": [handler]})
    assert recorder.seen[0].usage == Usage(1000, 300, 600, 100, 200, 50, 20)


@pytest.mark.parametrize("tier", ["flex", "priority"])
def test_a_service_tier_as_langchain_openai_reports_it(tier: str) -> None:
    """It puts the tier in front of what it counts apart."""
    recorder, handler = recorded()
    usage: Any = {
        "input_tokens": 1000,
        "output_tokens": 300,
        "total_tokens": 1300,
        "input_token_details": {f"{tier}_cache_read": 600, tier: 400},
        "output_token_details": {f"{tier}_reasoning": 200, tier: 100},
    }
    answer = AIMessage("hi", response_metadata={"service_tier": tier})
    answer.usage_metadata = usage  # as it does, past the checks
    ScriptedChatModel(script=[answer]).invoke("q", {"callbacks": [handler]})
    assert recorder.seen[0].usage == Usage(1000, 300, 600, reasoning_tokens=200)
    assert recorder.seen[0].tier == tier


@pytest.mark.parametrize("tier", ["flex", "priority"])
def test_cache_writes_of_a_tier_as_langchain_openai_reports_them(tier: str) -> None:
    details = {f"{tier}_cache_read": 200, f"{tier}_cache_creation": 600, tier: 800}
    usage = {"input_tokens": 1000, "output_tokens": 3, "total_tokens": 1003, "input_token_details": details}
    assert read_usage(usage) == Usage(1000, 3, 200, 600)


def test_cache_writes_as_langchain_anthropic_reports_them() -> None:
    recorder, handler = recorded()
    details = {"cache_read": 0, "cache_creation": 0, "ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 300}
    usage: Any = {"input_tokens": 1000, "output_tokens": 3, "total_tokens": 1003, "input_token_details": details}
    ScriptedChatModel(script=[AIMessage("hi", usage_metadata=usage)]).invoke("q", {"callbacks": [handler]})
    assert recorder.seen[0].usage == Usage(1000, 3, cache_write_tokens=400, cache_write_1h_tokens=300)


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        # OpenAI
        ({"prompt_tokens": 100, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 60}},
         Usage(100, 9, 60)),
        # Anthropic: the parts are beside the rest
        ({"input_tokens": 10, "output_tokens": 9, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 30},
         Usage(100, 9, 60, 30)),
        ({"input_tokens": 10, "output_tokens": 9, "cache_creation_input_tokens": 90,
          "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 50}},
         Usage(100, 9, 0, 90, cache_write_1h_tokens=50)),
        # LiteLLM: Anthropic's parts beside OpenAI's whole
        ({"prompt_tokens": 100, "completion_tokens": 9, "cache_read_input_tokens": 60,
          "cache_creation_input_tokens": 30,
          "prompt_tokens_details": {"cached_tokens": 60, "cache_creation_tokens": 30,
                                    "cache_creation_token_details": {"ephemeral_1h_input_tokens": 20}}},
         Usage(100, 9, 60, 30, cache_write_1h_tokens=20)),
        ({"prompt_tokens": 100, "completion_tokens": 9, "prompt_tokens_details": {"cache_write_tokens": 30}},
         Usage(100, 9, 0, 30)),
        # a proxy that calls Anthropic's count OpenAI's
        ({"prompt_tokens": 10, "completion_tokens": 9, "cache_read_input_tokens": 90}, Usage(100, 9, 90)),
        # OpenAI's responses API
        ({"input_tokens": 100, "input_tokens_details": {"cached_tokens": 60}, "output_tokens": 9,
          "output_tokens_details": {"reasoning_tokens": 5}, "total_tokens": 109}, Usage(100, 9, 60, 0, 5)),
        # Anthropic, where it counts what was thought
        ({"input_tokens": 10, "output_tokens": 9, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 30,
          "output_tokens_details": {"thinking_tokens": 7}}, Usage(100, 9, 60, 30, 7)),
        # Bedrock's Converse
        ({"inputTokens": 10, "outputTokens": 9, "totalTokens": 109, "cacheReadInputTokens": 60,
          "cacheWriteInputTokens": 30}, Usage(100, 9, 60, 30)),
        # Anthropic, where it summed the conversation up: top-level counts leave that out
        ({"input_tokens": 10, "output_tokens": 9, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 30,
          "iterations": [{"type": "compaction", "input_tokens": 5000, "output_tokens": 70},
                         {"type": "message", "input_tokens": 10, "output_tokens": 9}, None]}, Usage(5100, 79, 60, 30)),
        # Bedrock's Converse, where something is kept for an hour
        ({"inputTokens": 10, "outputTokens": 9, "totalTokens": 109, "cacheReadInputTokens": 60,
          "cacheWriteInputTokens": 30, "cacheDetails": [{"ttl": "1h", "inputTokens": 20}, None,
                                                        {"ttl": "5m", "inputTokens": 10}]},
         Usage(100, 9, 60, 30, cache_write_1h_tokens=20)),
        # a gateway that has Anthropic's caches beside the prompt, and in the total
        ({"prompt_tokens": 100, "completion_tokens": 9, "total_tokens": 169, "cache_read_input_tokens": 60},
         Usage(160, 9, 60)),
        # DeepSeek, Moonshot
        ({"prompt_tokens": 100, "completion_tokens": 9, "total_tokens": 109, "prompt_cache_hit_tokens": 64,
          "prompt_cache_miss_tokens": 36}, Usage(100, 9, 64)),
        ({"prompt_tokens": 100, "completion_tokens": 9, "total_tokens": 109, "cached_tokens": 64}, Usage(100, 9, 64)),
        # Google's own OpenAI endpoint: what was thought is in the total alone
        ({"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 530}, Usage(10, 520, reasoning_tokens=500)),
    ],
)  # fmt: skip
def test_raw_usage(raw: dict[str, Any], usage: Usage) -> None:
    assert read_usage(raw) == usage


@pytest.mark.parametrize(("written", "total"), [(9, 135), (9, None), (200, 326)])
def test_what_is_thought_apart_from_the_output_is_output(written: int, total: int | None) -> None:
    """So xAI counts; langchain-xai mends it, langchain-openai with xAI's address does not."""
    apart = Usage(32, written + 94, 6, reasoning_tokens=94)
    raw: dict[str, Any] = {"prompt_tokens": 32, "completion_tokens": written, "total_tokens": total}
    raw |= {"prompt_tokens_details": {"cached_tokens": 6}, "completion_tokens_details": {"reasoning_tokens": 94}}
    assert read_usage(raw) == apart
    told: dict[str, Any] = {"input_tokens": 32, "output_tokens": written, "total_tokens": total}
    told |= {"input_token_details": {"cache_read": 6}, "output_token_details": {"reasoning": 94}}
    assert read_usage(told) == apart
    assert read_usage({**told, "output_tokens": written + 94}) == apart
    assert read_usage({**told, "output_tokens": 200, "total_tokens": 232}) == apart._replace(output_tokens=200)


def test_a_total_says_how_much_was_no_more_than_that() -> None:
    """Some count thoughts by a tokenizer of their own: more of them than of the output that holds them."""
    for counts in (
        {"input_tokens": 100, "output_tokens": 50, "output_token_details": {"reasoning": 60}},
        {"prompt_tokens": 100, "completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 60}},
    ):
        usage = read_usage({**counts, "total_tokens": 150})
        assert usage is not None
        assert (usage.output_tokens, usage.reasoning_tokens) == (50, 50)


def test_counts_may_be_text() -> None:
    """Logs keep them so that know text alone."""
    details = {"prompt_tokens_details": {"cached_tokens": "4"}}
    assert read_usage({"prompt_tokens": "10", "completion_tokens": "20", **details}) == Usage(10, 20, 4)
    assert read_usage({"input_tokens": "10", "output_tokens": "20", "total_tokens": "30"}) == Usage(10, 20)
    for none in ("ten", "", "-5", "1e3", "²", "9" * 400):
        assert read_usage({"input_tokens": 7, "output_tokens": none}) == Usage(7, 0)


@pytest.mark.parametrize("details", [{}, {"input_token_details": {}, "output_token_details": {}}])
def test_what_only_the_total_tells_was_thought(details: dict[str, Any]) -> None:
    """Gemini behind Google's OpenAI endpoint, as langchain-openai reports it."""
    usage = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 530, **details}
    assert read_usage(usage) == Usage(10, 520, reasoning_tokens=500)
    cached = {**usage, "input_token_details": {"cache_read": 5}}  # who tells parts tells what was thought
    assert read_usage(cached) == Usage(10, 20, 5)


@pytest.mark.parametrize("name", ["prompt_cache_hit_tokens", "cached_tokens"])
def test_cached_tokens_that_langchain_openai_does_not_know_by_name(name: str) -> None:
    """DeepSeek's and Moonshot's; it hands the provider's own count on beside its own."""
    raw = {"prompt_tokens": 1000, "completion_tokens": 9, "total_tokens": 1009, name: 640}
    told: Any = {"input_tokens": 1000, "output_tokens": 9, "total_tokens": 1009}
    told |= {"input_token_details": {}, "output_token_details": {}}
    recorder, handler = recorded()
    answer = AIMessage("hi", usage_metadata=told, response_metadata={"token_usage": raw})
    ScriptedChatModel(script=[answer]).invoke("q", {"callbacks": [handler]})
    assert recorder.seen[0].usage == Usage(1000, 9, 640)


def test_own_prices_hold_for_what_was_asked_for() -> None:
    """Answers name the version, and of Azure's deployments the model."""
    own = {"input": 1.0, "output": 2.0}
    usage: Any = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
    answer = AIMessage("hi", usage_metadata=usage, response_metadata={"model_name": "gpt-4o-2024-08-06"})
    for prices, nano in (
        ({"gpt-4o": own}, 1_200_000),
        ({"gpt-4o-2024-08-06": own}, 1_200_000),
        ({"gpt-4o": own, "gpt-4o-2024-08-06": {"input": 2.0, "output": 4.0}}, 2_400_000),
        ({"gpt-4.1": own}, 3_500_000),
    ):
        recorder = Recorder(prices=prices)
        handler = TokenSentinelHandler(recorder)
        model = ScriptedChatModel(script=[answer], model_name="gpt-4o")
        model.invoke("q", {"callbacks": [handler]})
        cost = recorder.prices.cost(recorder.seen[0])
        assert cost is not None
        assert cost.nano == nano


def test_a_compaction_as_langchain_anthropic_reports_it() -> None:
    """Its `usage_metadata` holds the answer alone; the provider's own usage stands in `response_metadata`."""
    recorder, handler = recorded()
    details = {"cache_read": 60, "cache_creation": 0, "ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}
    usage: Any = {"input_tokens": 100, "output_tokens": 9, "total_tokens": 109, "input_token_details": details}
    raw = {
        "input_tokens": 10,
        "output_tokens": 9,
        "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "iterations": [{"type": "compaction", "input_tokens": 180_000, "output_tokens": 3500}],
    }
    answer = AIMessage("hi", usage_metadata=usage, response_metadata={"usage": raw, "model_name": "claude-sonnet-4-5"})
    ScriptedChatModel(script=[answer]).invoke("q", {"callbacks": [handler]})
    assert recorder.seen[0].usage == Usage(180_100, 3509, 60, 30, cache_write_1h_tokens=20)


@pytest.mark.parametrize(
    ("counted", "usage"),
    [
        ({"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 60}}, Usage(100, 9, 60)),
        ({"prompt_tokens": 100, "prompt_tokens_details": None}, Usage(100, 9)),
        ({"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 6}}, Usage(100, 9)),  # of something else
    ],
)
def test_cached_tokens_as_langchain_mistralai_reports_them(counted: dict[str, Any], usage: Usage) -> None:
    """Its `usage_metadata` has no details; the provider's own usage stands in `response_metadata`."""
    recorder, handler = recorded()
    total: Any = {"input_tokens": 100, "output_tokens": 9, "total_tokens": 109}
    meta = {"token_usage": {"completion_tokens": 9, "total_tokens": 109, **counted}}
    ScriptedChatModel(script=[AIMessage("hi", usage_metadata=total, response_metadata=meta)]).invoke(
        "q", {"callbacks": [handler]}
    )
    assert recorder.seen[0].usage == usage


def test_usage_as_langchain_cohere_reports_it_of_a_stream() -> None:
    """A sync stream has it in `generation_info` alone, as floats."""
    info = {
        "finish_reason": "COMPLETE",
        "token_count": {"total_tokens": 109.0, "input_tokens": 100.0, "output_tokens": 9.0},
    }
    told = LLMResult(generations=[[ChatGenerationChunk(message=AIMessageChunk("hi"), generation_info=info)]])
    assert read_answer(told, 2).usage == Usage(100, 9)


def test_each_message_of_the_user_begins_a_turn() -> None:
    recorder, handler = recorded()
    app, _ = agent([LOOP, LOOP, DONE] * 3, checkpointer=InMemorySaver())
    for _ in range(3):
        app.invoke(ASK, {"callbacks": [handler], "configurable": {"thread_id": "t"}})
    turns = [call.turn for call in recorder.seen]
    assert turns == [turns[0]] * 5 + [turns[5]] * 5 + [turns[10]] * 5
    assert len(set(turns)) == 3


def test_a_loop_written_by_hand_is_one_turn() -> None:
    recorder, handler = recorded(session_id="s")
    model = ScriptedChatModel(script=[LOOP])
    config: Any = {"callbacks": [handler]}
    messages: list[Any] = [HumanMessage("go")]
    for _ in range(4):
        asked = model.invoke(messages, config)
        messages += [asked, fetch_page.invoke({**asked.tool_calls[0], "type": "tool_call"}, config)]
    assert {call.root_id for call in recorder.seen} == {recorder.seen[0].id}
    assert len({call.turn for call in recorder.seen}) == 1
    assert [(i.rule, i.severity) for i in recorder.incidents()] == [("tool_loop", "high")]


@pytest.mark.parametrize(
    ("meta", "usd"),
    [
        ({"cost": 0.5}, 0.5),
        ({"cost": 0}, 0.0),
        ({"token_usage": {"prompt_tokens": 3, "completion_tokens": 1, "cost": 0.5}}, 0.5),
        ({"cost": 0.5, "cost_details": {"upstream_inference_cost": None}}, 0.5),
        ({"cost": 0.5, "cost_details": {"upstream_inference_cost": 0.5}}, 0.5),
        ({"cost": 0.05, "cost_details": {"upstream_inference_cost": 1.0}}, 1.05),
        ({"token_usage": {"cost": {"input_tokens_cost": 0.1, "total_cost": 0.25}}}, 0.25),
        ({"response_cost": 0.5}, 0.5),
        ({"response_cost": 0.0}, None),
        ({"token_usage": {"cost_in_usd_ticks": 2_709_000}}, 0.0002709),
        ({"token_usage": {"cost_in_usd_ticks": 10**400}}, None),
        *(
            ({"cost": odd}, None)
            for odd in (-1, float("nan"), float("inf"), True, "0.5", [], {}, {"total_cost": None}, 1e9)
        ),
    ],
)
def test_what_a_gateway_says_it_charged(meta: dict[str, Any], usd: float | None) -> None:
    recorder, handler = recorded()
    model = ScriptedChatModel(script=[AIMessage("ok", response_metadata=meta)], model_name="nobody-knows-it")
    model.invoke("x", {"callbacks": [handler]})
    cost = recorder.prices.cost(recorder.seen[0])
    assert (cost and cost.nano) == (None if usd is None else round(usd * 1e9))
    assert handler.sentinel.health().ok


def test_invalid_tool_calls_are_seen() -> None:
    recorder, handler = recorded()
    odd: Any = {"name": "fetch_page", "args": "{not json", "id": "c", "error": "x", "type": "invalid_tool_call"}
    ScriptedChatModel(script=[AIMessage("", invalid_tool_calls=[odd])]).invoke("q", {"callbacks": [handler]})
    [asked] = recorder.seen[0].tool_calls
    assert (asked.name, asked.valid) == ("fetch_page", False)


def test_tools_and_parameters_are_read() -> None:
    recorder, handler = recorded()
    model = ScriptedChatModel(script=[DONE]).bind_tools([fetch_page, count_up])
    model.invoke("q", {"callbacks": [handler]})
    toolset = recorder.seen[0].toolset
    assert toolset is not None
    assert toolset.names == ("fetch_page", "count_up")
    assert all(80 < size < 1000 for size in toolset.sizes)


class Definition(BaseModel):
    """What `langchain-cohere` sends a tool as: an object, the definition under `function`."""

    class Function(BaseModel):
        name: str
        description: str | None = None
        parameters: dict[str, Any]

    type: str = "function"
    function: Function


def test_tool_definitions_that_are_objects_are_those_that_are_sent() -> None:
    plain = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "title": "x" * n}}}
        for n, name in enumerate(("get_weather", "book_flight"))
    ]
    toolset = read_toolset([Definition.model_validate(tool) for tool in plain])
    assert toolset is not None
    assert toolset.names == ("get_weather", "book_flight")
    assert toolset == read_toolset(plain)


def test_tools_of_the_provider_are_told_apart() -> None:
    """Gemini's have no name but their key; what no one names counts by all of it."""
    search, code, odd = read_toolset([{"google_search": {}}]), read_toolset([{"code_execution": {}}]), {"a": 1, "b": 2}
    assert search is not None
    assert code is not None
    assert (search.names, code.names) == (("google_search",), ("code_execution",))
    one, other = read_toolset([odd]), read_toolset([{**odd, "c": "much more of it"}])
    assert one is not None
    assert other is not None
    assert one.names == other.names == ("?",)
    assert one.fingerprint != other.fingerprint


class Weather(BaseModel):
    """The weather in a city."""

    city: str


def look_up(city: str) -> str:
    """Looks a city up."""
    return city


def test_what_becomes_a_definition_is_as_large_as_that() -> None:
    """Doors see tools before LangChain has made definitions of them, and estimate by them what a budget reserves."""
    given = [fetch_page, look_up, Weather]
    made = read_toolset([convert_to_openai_tool(tool) for tool in given])
    assert made is not None
    assert read_toolset(given) == made
    assert made.names == ("fetch_page", "look_up", "Weather")


def test_tools_of_one_name_with_other_parameters_have_their_own_size() -> None:
    """As the schemas of structured answers have, which agents name alike."""

    def tool_with(*names: str) -> Any:
        properties = {name: {"type": "string", "description": "what it is " * 20} for name in names}
        function = {"name": "answer", "description": "d", "parameters": {"type": "object", "properties": properties}}
        return read_toolset([{"type": "function", "function": function}])

    one, three = tool_with("city"), tool_with("city", "street", "number")
    assert one.total_bytes < three.total_bytes
    assert one.fingerprint != three.fingerprint
    assert tool_with("city") is one


def test_the_same_tools_in_another_shape_have_their_own_size() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    long = read_toolset(
        [{"type": "function", "function": {"name": "f_shapes", "description": "d", "parameters": schema}}]
    )
    short = read_toolset([{"name": "f_shapes", "description": "d", "input_schema": schema}])
    assert long is not None
    assert short is not None
    assert long.names == short.names
    assert long.total_bytes > short.total_bytes


def test_definitions_full_of_none_are_what_is_sent_of_them() -> None:
    """langchain-google-genai makes such ones of all tools once one of Google's own is among them."""
    nothing = dict.fromkeys(("retrieval", "computer_use", "google_maps", "code_execution", "url_context"))
    schema = {"type": "OBJECT", "properties": {"city": {"type": "STRING", "title": None}}, "title": None}
    declared = {"name": "f_google", "description": "d", "parameters": schema, "response": None}
    toolset = read_toolset(
        [{**nothing, "google_search": {"search_types": None}}, {**nothing, "function_declarations": [declared]}]
    )
    assert toolset is not None
    assert toolset.names == ("google_search", "f_google")
    assert toolset.sizes[0] == len('{"google_search":{}}')
    assert toolset.sizes[1] < 110


def test_a_mark_of_bedrocks_cache_is_no_tool() -> None:
    tools = [{"toolSpec": {"name": "f_cached", "inputSchema": {"json": {}}}}, {"cachePoint": {"type": "default"}}]
    toolset = read_toolset(tools)
    assert toolset is not None
    assert toolset.names == ("f_cached",)
    assert read_toolset(tools[1:]) is None


@pytest.mark.parametrize("parameter", ["response_format", "output_config", "response_json_schema", "format"])
def test_a_request_for_another_structured_answer_is_another_request(parameter: str) -> None:
    """As langchain-openai, -anthropic and -aws, -google-genai and -ollama name it; langchain-openai gives the class."""
    recorder, handler = recorded()
    model = ScriptedChatModel(script=[DONE])
    client = Wire()
    config: Any = {"callbacks": [handler, LangChainTracer(client=client)]}
    for schema in ({"title": "Invoice"}, {"title": "Invoice"}, {"title": "Address"}, Definition, None):
        model.bind(**{parameter: schema}).invoke("q", config)
    model.invoke("q", config)
    invoice, again, address, class_, none, plain = [call.request for call in recorder.seen]
    assert invoice == again
    assert none == plain
    assert (
        replay_of(*(r for row in client.sent() if isinstance(r := run_from_row(row), Run))).known() == recorder.known()
    )
    assert len({invoice, address, class_, plain}) == 4


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict"])
def test_the_bound_on_the_output_under_any_name(name: str) -> None:
    recorder, handler = recorded()
    for bound in (333, -1, True, None):
        ScriptedChatModel(script=[DONE]).bind(**{name: bound}).invoke("q", {"callbacks": [handler]})
    assert [call.max_tokens for call in recorder.seen] == [333, None, None, None]


def test_what_nobody_counts_is_estimated_with_the_tool_definitions() -> None:
    """As langchain-openai's streams from a `base_url` of one's own, which it asks for no usage."""
    recorder, handler = recorded()
    told = LLMResult(generations=[[ChatGenerationChunk(message=AIMessageChunk("four"))]])
    definitions = [convert_to_openai_tool(fetch_page)]
    handler.on_chat_model_start({}, [["12345678"]], run_id="r", invocation_params={"tools": definitions})
    handler.on_llm_end(told, run_id="r")
    toolset = recorder.seen[0].toolset
    assert toolset is not None
    assert recorder.seen[0].usage == Usage(-(-(8 + toolset.total_bytes) // 4), 1, estimated=True)


def test_streams_of_anthropic_write_for_as_long_as_was_asked() -> None:
    """langchain-anthropic tells of a stream how much was cached, and not for how long; its middleware asks by this."""
    recorder, handler = recorded()
    usage: Any = {
        "input_tokens": 1000,
        "output_tokens": 3,
        "total_tokens": 1003,
        "input_token_details": {"cache_read": 0, "cache_creation": 400},
    }
    model = ScriptedChatModel(script=[AIMessage("hi", usage_metadata=usage)])
    for control in ({"type": "ephemeral", "ttl": "1h"}, {"type": "ephemeral", "ttl": "5m"}, None):
        model.bind(cache_control=control).invoke("q", {"callbacks": [handler]})
    assert [call.usage.cache_write_1h_tokens for call in recorder.seen] == [400, 0, 0]


def test_completion_models_and_batches() -> None:
    recorder, handler = recorded()
    FakeListLLM(responses=["a", "b", "c"]).batch(["one", "two", "three"], {"callbacks": [handler]})
    assert recorder.kinds() == ["model"] * 3
    assert all(c.usage.estimated and c.usage.output_tokens == 1 for c in recorder.seen)
    FakeListLLM(responses=["a", "b"]).generate(["one", "two"], callbacks=[handler])
    assert len(recorder.seen) == 5
    clean(recorder, handler)


class Completes(FakeListLLM):
    """Counts as langchain-openai's completion models do: the tokens of all prompts that are sent together."""

    counts: bool = True

    def _generate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        result = super()._generate(prompts, *args, **kwargs)
        counted = {"prompt_tokens": 10 * len(prompts), "completion_tokens": 5 * len(prompts)} if self.counts else {}
        result.llm_output = {"token_usage": counted, "model_name": "gpt-3.5-turbo-instruct"}
        return result

    async def _agenerate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        return self._generate(prompts)


def test_the_tokens_of_completions_that_are_sent_together_are_counted_once() -> None:
    """LangChain hands them to the first and none to the others, which were estimated on top."""
    recorder, handler = recorded()
    config = {"callbacks": [handler, LangChainTracer(client=(wire := Wire()))]}
    three = ["one", "two", "three"]
    Completes(responses=["a"]).batch(three, config)
    asyncio.run(Completes(responses=["a"]).abatch(three, config))
    assert sorted(c.usage for c in recorder.seen) == [Usage()] * 4 + [Usage(30, 15)] * 2
    cost = [recorder.prices.cost(call) for call in recorder.seen]
    assert sum(c.nano for c in cost if c is not None) == 2 * (30 * 1_500 + 15 * 2_000)
    replayed = replay_of(*(run for row in wire.sent() if isinstance(run := run_from_row(row), Run)))
    assert sorted(c.usage for c in replayed.seen) == sorted(c.usage for c in recorder.seen)
    Completes(responses=["a"], counts=False).batch(three, config)  # nobody counts: all are estimated
    assert [c.usage for c in recorder.seen[6:]] == [Usage(1, 1, estimated=True)] * 2 + [Usage(2, 1, estimated=True)]
    Completes(responses=["a"]).invoke("one", config)
    assert recorder.seen[-1].usage == Usage(10, 5)
    clean(recorder, handler)


class Shelf(BaseRetriever):
    """A retriever that always finds the same."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document("the one book")]


def test_retrievers() -> None:
    recorder, handler = recorded()
    for _ in range(3):
        Shelf().invoke("which book is it", {"callbacks": [handler], "metadata": {"session_id": "s"}})
    assert recorder.kinds() == ["retriever"] * 3
    assert [i.rule for i in recorder.incidents()] == ["retrieval_thrash"]
    clean(recorder, handler)


def test_a_retriever_inside_its_tool_is_one_call() -> None:
    recorder, handler = recorded()
    look_up = create_retriever_tool(Shelf(), "search_books", "Searches.")
    app = create_agent(ScriptedChatModel(script=[call_tool("search_books", query="which book"), DONE]), [look_up])
    app.invoke(ASK, {"callbacks": [handler]})
    assert recorder.kinds() == ["model", "tool", "model"]
    clean(recorder, handler)


def test_handler_on_the_model_only() -> None:
    """Nobody sees the tools run: their calls are read out of the next prompt."""
    recorder, handler = recorded()
    model = ScriptedChatModel(script=[LOOP] * 4 + [DONE], callbacks=[handler])
    app = create_agent(model, [fetch_page])
    app.invoke(ASK, {"configurable": {"thread_id": "t"}})
    assert recorder.kinds() == ["model", "tool"] * 4 + ["model"]
    assert [(i.rule, i.severity, i.calls) for i in recorder.incidents()] == [("tool_loop", "high", 3)]
    clean(recorder, handler)


def test_token_sentinel_needs_no_callbacks() -> None:
    app, _ = agent([LOOP] * 3 + [DONE])
    with token_sentinel(session_id="s") as handler:
        app.invoke(ASK)
        asyncio.run(app.ainvoke(ASK))
    assert handler.sentinel.health().calls == 8
    assert {i.session_id for i in handler.sentinel.incidents()} == {"s"}
    app.invoke(ASK)
    assert handler.sentinel.health().calls == 8


def test_blocks_of_two_sentinels_see_the_same_and_of_one_the_inner() -> None:
    """A block in a library or a cell does not blind the one around the app."""
    app, _ = agent([LOOP] * 3 + [DONE])
    with token_sentinel() as outer:
        with token_sentinel() as inner, token_sentinel(inner.sentinel, session_id="s"):
            app.invoke(ASK)
        app.invoke(ASK)
    assert (inner.sentinel.health().calls, outer.sentinel.health().calls) == (7, 8)
    assert inner.sentinel.totals("s") is not None
    app, model = agent([LOOP] * 6 + [DONE])
    with token_sentinel(mode="block"), token_sentinel(), pytest.raises(WasteBlocked):
        app.invoke(ASK)
    assert model.calls == 3


@pytest.mark.parametrize("block", [Sentinel().session("s"), token_sentinel()])
def test_a_block_may_end_in_another_context(block: Any) -> None:
    """Web frameworks run each step of a streamed answer in a copy of the context."""

    def stream() -> Iterator[str]:
        with block:
            yield "Hello"

    parts = stream()
    assert [copy_context().run(next, parts, None) for _ in range(2)] == ["Hello", None]


@pytest.mark.parametrize("door", ["handler", "middleware", "guard", "block"])
def test_a_run_that_goes_on_in_another_context_stays_in_its_session(door: str) -> None:
    """As the web frameworks' threads step through a generator that streams an answer."""
    recorder = Recorder(policy={"budgets": [{"per": "user", "calls": 100}]})
    app, _ = agent([LOOP] * 3 + [DONE])
    config: dict[str, Any] = {}
    if door == "handler":
        config["callbacks"] = [TokenSentinelHandler(recorder)]
    elif door == "middleware":
        app, _ = agent([LOOP] * 3 + [DONE], middleware=[TokenSentinelMiddleware(recorder)])
    elif door == "guard":
        app = guard(graph([LOOP] * 3 + [DONE])[0], recorder)

    def stream() -> Iterator[object]:
        block = token_sentinel(recorder) if door == "block" else contextlib.nullcontext()
        with recorder.session("s", user_id="ada", tags=["t"]), block:
            yield from app.stream(ASK, config)

    for parts in (stream(), stream()):
        while copy_context().run(next, parts, None) is not None:
            pass
    assert recorder.kinds().count("model") == 5
    assert {(c.session_id, c.user_id, "t" in c.tags) for c in recorder.seen} == {("s", "ada", True)}
    assert len({c.root_id for c in recorder.seen}) == 2
    assert door == "middleware" or recorder.in_flight.labelled == {}
    clean(recorder, TokenSentinelHandler(recorder))


def test_two_handlers_do_not_disturb_each_other() -> None:
    (first, one), (second, two) = recorded(), recorded()
    app, _ = agent([LOOP] * 3 + [DONE])
    app.invoke(ASK, {"callbacks": [one, two]})
    assert [c[1:5] for c in first.seen] == [c[1:5] for c in second.seen]
    assert len(first.seen) == 7


def test_embeddings_sync_and_async() -> None:
    sentinel = Recorder()
    embeddings = SentinelEmbeddings(HashEmbeddings(), sentinel, session_id="s")
    texts = ["a long text to embed", "another one"]
    assert embeddings.embed_documents(texts) == HashEmbeddings().embed_documents(texts)
    asyncio.run(embeddings.aembed_documents(texts))
    embeddings.embed_query("a long text to embed")
    asyncio.run(embeddings.aembed_query("something new"))
    assert sentinel.kinds() == ["embedding"] * 4
    [incident] = sentinel.incidents()
    assert incident.rule == "embedding_waste"
    assert incident.wasted_input_tokens == 5 + 3 + 5
    assert incident.estimated


@pytest.mark.parametrize(
    ("module", "model", "provider", "nano"),
    [
        ("langchain_aws.embeddings.bedrock", "amazon.titan-embed-text-v2:0", "aws", 20),
        ("langchain_cohere.embeddings", "embed-v4.0", "cohere", 120),
        ("langchain_openai.embeddings.base", "text-embedding-3-small", "openai", 20),
        ("langchain_google_genai.embeddings", "models/gemini-embedding-001", "google_genai", 150),
        ("langchain_ollama.embeddings", "text-embedding-3-small", "ollama", None),
        ("langchain_community.embeddings.bedrock", "text-embedding-3-small", None, 20),
        ("app", "embed-v4.0", None, None),
    ],
)
def test_embeddings_have_the_price_of_the_package_they_are_from(
    module: str, model: str, provider: str | None, nano: int | None
) -> None:
    recorder = Recorder()
    kind: Any = type("Embeds", (HashEmbeddings,), {"__module__": module})
    SentinelEmbeddings(kind(), recorder, model=model).embed_query("word")
    cost = recorder.prices.cost(recorder.seen[0])
    assert (recorder.seen[0].provider, cost and cost.nano) == (provider, nano)
    assert SentinelEmbeddings(kind(), recorder, provider="mine").provider == "mine"


def test_embeddings_that_fail_are_seen_and_raise() -> None:
    class Broken(HashEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise ConnectionError("down")

    sentinel = Recorder()
    with pytest.raises(ConnectionError, match="down"):
        SentinelEmbeddings(Broken(), sentinel).embed_documents(["x"])
    assert [(c.status, c.error) for c in sentinel.seen] == [("error", "ConnectionError")]


def test_a_fault_inside_never_reaches_the_app(caplog: pytest.LogCaptureFixture) -> None:
    class Sabotaged(Sentinel):
        def get(self, session_id: str) -> Any:
            raise ZeroDivisionError("the secret prompt")

    sentinel = Sabotaged()
    app, model = agent([LOOP] * 3 + [DONE])
    app.invoke(ASK, {"callbacks": [TokenSentinelHandler(sentinel, mode="block")]})
    assert model.calls == 4
    faults = sentinel.health().faults
    assert sum(faults.values()) >= 4
    assert all("ZeroDivisionError" in place for place in faults)
    assert len([r for r in caplog.records if r.name == "ts_langchain"]) == len(faults)
    assert "the secret prompt" not in caplog.text


def test_what_a_callback_raises_goes_no_further() -> None:
    sentinel = Sentinel()
    sentinel.on_incident(lambda _: 1 / 0)
    app, model = agent([LOOP] * 3 + [DONE])
    app.invoke(ASK, {"callbacks": [TokenSentinelHandler(sentinel)]})
    assert model.calls == 4
    assert sentinel.health().faults == {"on_incident callback: ZeroDivisionError": 2}


def test_a_stream_that_is_collected_while_a_lock_is_held_hangs_nobody() -> None:
    """The garbage collector may run anywhere, and end streams that nobody holds any more."""
    sentinel = Sentinel(policy={"budgets": [{"calls": 100}]})
    assert sentinel.governor.budgets is not None
    rule = next(r for r in sentinel.rules if r.name == "duplicate_work")
    owners = (
        sentinel,
        sentinel.in_flight.continued,
        sentinel.faults,
        rule,
        sentinel.governor.budgets._memory,
        _TOOLSETS,
    )
    for owner in owners:
        stream = ScriptedChatModel(script=["a b c"]).stream("hi", {"callbacks": [TokenSentinelHandler(sentinel)]})
        next(stream)

        def collect(lock: Any = owner._lock, stream: Any = stream) -> None:
            with lock:
                stream.close()
                sentinel.faults.record("here", ValueError())

        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), type(owner).__name__
    assert sentinel.health().calls == len(owners)


def test_a_worker_that_runs_for_ever_keeps_no_handlers() -> None:
    """A handler for each request, all of them in one task."""
    alive: weakref.WeakSet[Sentinel] = weakref.WeakSet()

    async def work() -> int:
        for _ in range(300):
            handler = TokenSentinelHandler()
            alive.add(handler.sentinel)
            await ScriptedChatModel(script=["ok"]).ainvoke("hi", {"callbacks": [handler]})
        del handler
        gc.collect()
        return len(alive)

    assert asyncio.run(work()) <= 64


def test_a_handler_that_does_not_run_inline_leaves_others_the_start_of_a_completion() -> None:
    """What docs/live.md advises against langchain-core's issue 39633."""
    model = FakeListLLM(responses=["done"])

    async def events(*callbacks: TokenSentinelHandler) -> list[str]:
        found = model.astream_events("go", {"callbacks": list(callbacks)}, version="v2")
        return [event["event"] async for event in found]

    recorder, handler = recorded()
    handler.run_inline = False
    assert asyncio.run(events(handler)) == asyncio.run(events()) != []
    assert recorder.kinds() == ["model"]
    clean(recorder, handler)


@pytest.mark.parametrize(("total", "written"), [(150, 50), (2_150, 2_050), (200_150, 200_050), (200_151, 50)])
def test_nobody_thinks_without_end(total: int, written: int) -> None:
    """What a total has beyond that is something else: the tokens of a day, perhaps."""
    usage = read_usage({"input_tokens": 100, "output_tokens": 50, "total_tokens": total})
    assert usage is not None
    assert usage.output_tokens == written
