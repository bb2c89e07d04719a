"""Nearly fifty kinds of runs: streams, batches, blocks, failures, interrupts, sub-agents, middleware, caches."""

from __future__ import annotations

import asyncio
import operator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from agents import ASK, DONE, LOOP, agent, count_up, fetch_page, graph
from classic import FORMS, executor, script
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
    TodoListMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import InjectedToolCallId, tool
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState
from langgraph.types import Command, Send, interrupt
from langsmith import traceable
from langsmith.run_helpers import tracing_context

from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Callable

Config = dict[str, Any]


@tool
def boom(x: str) -> str:
    """Fails."""
    raise ValueError(f"cannot {x}")


@tool
def status() -> str:
    """Has no parameters."""
    return "as ever"


@tool
def stuck() -> str:
    """Has no parameters, and fails."""
    raise ValueError("stuck")


@tool
def approve(x: str) -> str:
    """Asks a human."""
    return f"{interrupt('ok?')} {x}"


@tool
def blocks(x: str) -> list[dict[str, str]]:
    """Answers in content blocks."""
    return [{"type": "text", "text": f"block {x}"}]


@tool
def figures(x: str) -> dict[str, Any]:
    """Answers with a dict."""
    return {"found": [1, 2, x], "none": None}


@tool(response_format="content_and_artifact")
def artifact(x: str) -> tuple[str, dict[str, str]]:
    """Answers with content and an artifact."""
    return "short", {"big": x * 100}


class Library(BaseRetriever):
    """Finds two documents, or nothing but trouble."""

    broken: bool = False

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if self.broken:
            raise RuntimeError("down")
        return [Document(f"{query} 1", metadata={"id": 1}), Document("document 2")]


@tool
def look_up(q: str) -> str:
    """Looks up."""
    return str(Library().invoke(q))


@tool
def ask_model(q: str) -> str:
    """Asks another model."""
    return str(ScriptedChatModel(script=["forty-two"]).invoke(q).content)


@tool
def ask_agent(q: str) -> str:
    """Asks another agent."""
    return str(agent([LOOP, LOOP, DONE])[0].invoke({"messages": [("user", q)]})["messages"][-1].content)


def with_tools(script: list[Any], *tools: Any, **kwargs: Any) -> Any:
    """An agent with more tools."""
    return create_agent(ScriptedChatModel(script=script), [fetch_page, count_up, *tools], **kwargs)


def model(*script: Any, **kwargs: Any) -> ScriptedChatModel:
    """A model with a script."""
    return ScriptedChatModel(script=list(script), **kwargs)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 500, "detail": "high"}}
USAGE: Any = {
    "input_tokens": 100,
    "output_tokens": 20,
    "total_tokens": 120,
    "input_token_details": {"cache_read": 50, "audio": 5},
    "output_token_details": {"reasoning": 7},
}
FLEX = AIMessage("ok", response_metadata={"service_tier": "flex"})
FLEX.usage_metadata = {  # as langchain-openai has it, past the checks
    "input_tokens": 2000,
    "output_tokens": 120,
    "total_tokens": 2120,
    "input_token_details": {"flex_cache_read": 1024, "flex": 976},  # type: ignore[typeddict-unknown-key]
    "output_token_details": {"flex_reasoning": 64, "flex": 56},  # type: ignore[typeddict-unknown-key]
}
HOUR = AIMessage("ok")
HOUR.usage_metadata = {  # as langchain-anthropic has it
    "input_tokens": 1000,
    "output_tokens": 50,
    "total_tokens": 1050,
    "input_token_details": {
        "cache_read": 600,
        "cache_creation": 0,
        "ephemeral_5m_input_tokens": 100,  # type: ignore[typeddict-unknown-key]
        "ephemeral_1h_input_tokens": 200,  # type: ignore[typeddict-unknown-key]
    },
}
CHARGED = AIMessage("ok", response_metadata={"cost": 0.00042, "cost_details": {"upstream_inference_cost": None}})
INVALID: Any = [{"name": "f", "args": "{bad", "id": "1", "error": "x", "type": "invalid_tool_call"}]
ANTHROPIC = [
    SystemMessage([{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]),
    HumanMessage("hi"),
    AIMessage(
        [{"type": "text", "text": "I look"}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}],
        tool_calls=[{"name": "f", "args": {"a": 1}, "id": "t1"}],
    ),
    ToolMessage("found", tool_call_id="t1"),
]
THOUGHT = AIMessage([{"type": "thinking", "thinking": "hmm", "signature": "s"}, {"type": "text", "text": "yes"}])
TODOS = [{"content": "look it up", "status": "in_progress"}, {"content": "write it down", "status": "pending"}]
LOOPS = [LOOP] * 4 + [AIMessage("It is all done now.")]


async def _events(config: Config) -> None:
    async for _ in agent(LOOPS)[0].astream_events(ASK, config, version="v2"):
        pass


async def _cached(config: Config) -> None:
    cached = model("one", "two", cache=InMemoryCache())
    for _ in range(4):
        await cached.ainvoke("hello", config)
    async for _ in cached.astream("hello", config):
        pass
    assert cached.calls == 2  # streams go past the cache


def _edited(config: Config) -> None:
    """Hooks of middleware are parents to LangSmith's tracing, of which no other handler is told."""
    script = [*(call_tool("count_up", n=i) for i in range(3)), LOOP, LOOP, LOOP, DONE]
    edits = ContextEditingMiddleware(edits=[ClearToolUsesEdit(trigger=1, keep=1)])
    with_tools(script, middleware=[edits]).invoke(ASK, config)


def _retried(config: Config) -> None:
    script = [ConnectionError("x"), LOOP, ConnectionError("y"), DONE]
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0.001)
    with_tools(script, middleware=[retry]).invoke(ASK, config)


def _tool_retried(config: Config) -> None:
    tried: list[str] = []

    @tool
    def flaky(x: str) -> str:
        """Works the second time."""
        tried.append(x)
        if len(tried) % 2:
            raise ConnectionError("down")
        return f"up {x}"

    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0.001)
    with_tools([call_tool("flaky", x="a"), DONE], flaky, middleware=[retry]).invoke(ASK, config)


def _summarised(config: Config) -> None:
    script = [*(call_tool("count_up", n=i) for i in range(5)), DONE]
    summary = SummarizationMiddleware(model=model("a summary"), trigger=("messages", 6), keep=("messages", 3))
    with_tools(script, middleware=[summary]).invoke(ASK, config)


def _traceable(config: Config) -> None:
    @traceable
    def ask_twice() -> None:
        for _ in range(2):
            agent([LOOP, DONE])[0].invoke(ASK, config)

    tracer = next((c for c in config["callbacks"] if isinstance(c, LangChainTracer)), None)
    with tracing_context(enabled=tracer is not None, client=tracer.client if tracer is not None else None):
        ask_twice()


def _half_a_stream(config: Config) -> None:
    stream = model("hi there you all").stream("hello", config)
    next(stream)
    stream.close()  # type: ignore[attr-defined]


def _approval(config: Config) -> None:
    twice: Any = [{"name": "approve", "args": {"x": "b"}, "id": call_id} for call_id in ("one", "other")]
    script = [call_tool("approve", x="a"), AIMessage("", tool_calls=twice), DONE]
    app = with_tools(script, approve, checkpointer=InMemorySaver())
    app.invoke(ASK, config)
    app.invoke(Command(resume="yes"), config)
    app.invoke(Command(resume={i.id: "yes" for i in app.get_state(config).interrupts}), config)


class _Topics(TypedDict):
    topics: list[str]
    found: Annotated[list[str], operator.add]


def _without_parameters(config: Config) -> None:
    with_tools([call_tool("status")] * 3 + [DONE], status).invoke(ASK, config)
    for _ in range(4):
        with suppress(ValueError):
            stuck.invoke({}, config)


@tool
def transfer_to_billing(
    state: Annotated[dict[str, Any], InjectedState], tool_call_id: Annotated[str, InjectedToolCallId]
) -> Command[Any]:
    """Hands over, with all that was said."""
    done = ToolMessage("Handed over to billing.", tool_call_id=tool_call_id)
    return Command(goto="billing", graph=Command.PARENT, update={"messages": [*state["messages"], done]})


@tool
def count_words(text: str) -> int:
    """Counts."""
    return len(text.split())


@tool
def sync(x: str) -> str:
    """Has a name that says nothing."""
    return f"the same as {x}"


sync.metadata = {"readOnlyHint": True, "title": "Synchronise"}


@tool
def note(text: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
    """Notes something, and says so twice."""
    said = [ToolMessage(f"error: {text}", tool_call_id=tool_call_id, status="error"), HumanMessage("Go on.")]
    return Command(update={"messages": said})


def _hand_over(config: Config) -> None:
    """Twice in a conversation, as agents of langgraph-swarm and langgraph-supervisor do."""
    desk = create_agent(ScriptedChatModel(script=[call_tool("transfer_to_billing")]), [transfer_to_billing])
    builder = StateGraph(MessagesState)
    builder.add_node("desk", desk, destinations=("billing",))
    builder.add_node("billing", agent([LOOP, AIMessage("It is paid.")])[0])
    builder.add_edge(START, "desk")
    app, said = builder.compile(), []
    for question in ("Is it paid?", "And the other one?"):
        said = app.invoke({"messages": [*said, ("user", question)]}, config)["messages"]


def _fan_out(config: Config) -> None:
    def look(state: Any) -> dict[str, Any]:
        return {"found": [str(agent([LOOP, DONE])[0].invoke({"messages": [("user", state["topic"])]}))]}

    builder = StateGraph(_Topics)
    builder.add_node("look", look)
    builder.add_conditional_edges(START, lambda s: [Send("look", {"topic": t}) for t in s["topics"]], ["look"])
    builder.add_edge("look", END)
    builder.compile().invoke({"topics": ["a", "b", "c"], "found": []}, config)


SCENES: dict[str, Callable[[Config], object]] = {
    "an agent that streams": lambda c: list(agent(LOOPS)[0].stream(ASK, c)),
    "an agent that streams messages": lambda c: list(agent(LOOPS)[0].stream(ASK, c, stream_mode="messages")),
    "an agent's events": lambda c: asyncio.run(_events(c)),
    "a graph": lambda c: graph(LOOPS)[0].invoke(ASK, c),
    "a model alone": lambda c: model("hi there").invoke("hello", c),
    "a batch": lambda c: model("hi there").batch(["a", "b", "c"], c),
    "two prompts at once": lambda c: model("hi").generate([[HumanMessage("a")], [HumanMessage("b")]], **_callbacks(c)),
    "a stream": lambda c: list(model("hi there you").stream("hello", c)),
    "half a stream": _half_a_stream,
    "blocks and an image": lambda c: model(THOUGHT).invoke([HumanMessage([{"type": "text", "text": "?"}, IMAGE])], c),
    "anthropic's shapes": lambda c: model("ok").invoke(ANTHROPIC, c),
    "other messages": lambda c: model("k").invoke(
        [ChatMessage(role="critic", content="hm"), FunctionMessage(name="f", content="r"), ("ai", "x")], c
    ),
    "usage in detail": lambda c: model(AIMessage("ok", usage_metadata=USAGE)).invoke("x", c),
    "a service tier": lambda c: model(FLEX, model_name="gpt-5").invoke("x", c),
    "cached for an hour": lambda c: model(HOUR, model_name="claude-sonnet-4-5", provider="anthropic").invoke("x", c),
    "an invalid tool call": lambda c: model(AIMessage("", invalid_tool_calls=INVALID)).invoke("x", c),
    "a model that fails": lambda c: model(ValueError("bad thing\nand more")).invoke("hello", c),
    "an agent whose model fails": lambda c: with_tools([LOOP, ConnectionError("reset")]).invoke(ASK, c),
    "retries": lambda c: (
        model(ConnectionError("reset"), ConnectionError("reset"), "ok")
        .with_retry(wait_exponential_jitter=False)
        .invoke("hello", c)
    ),
    "fallbacks": lambda c: model(ConnectionError("down")).with_fallbacks([model("ok")]).invoke("hello", c),
    "a tool that fails": lambda c: with_tools([call_tool("boom", x="a"), DONE], boom).invoke(ASK, c),
    "tools without parameters": _without_parameters,
    "a tool nobody knows": lambda c: with_tools([call_tool("nope", x="a"), DONE]).invoke(ASK, c),
    "all that tools bring back": lambda c: with_tools(
        [call_tool("blocks", x="a"), call_tool("figures", x="b"), call_tool("artifact", x="c"), DONE],
        blocks, figures, artifact,
    ).invoke(ASK, c),
    "a retriever, a model and an agent inside tools": lambda c: with_tools(
        [call_tool("look_up", q="q"), call_tool("ask_model", q="q"), call_tool("ask_agent", q="q"), DONE],
        look_up, ask_model, ask_agent,
    ).invoke(ASK, c),
    "a todo list": lambda c: create_agent(
        model(call_tool("write_todos", todos=TODOS), call_tool("write_todos", todos=TODOS), DONE),
        middleware=[TodoListMiddleware()],
    ).invoke(ASK, c),
    "a tool that says it only reads": lambda c: with_tools([call_tool("sync", x="a"), DONE], sync).invoke(ASK, c),
    "a tool that takes a text": lambda c: count_words.invoke("how many words", c),
    "a tool that commands": lambda c: with_tools([call_tool("note", text="a b c d"), DONE], note).invoke(ASK, c),
    "agents that hand over": _hand_over,
    "agents that ask in words": lambda c: [
        executor(form, model(*script(form, *"zzzab"))).invoke({"input": "What?"}, c) for form in FORMS
    ],
    "agents side by side": _fan_out,
    "agents in a traced function": _traceable,
    "a context that is edited": _edited,
    "a context that is summarised": _summarised,
    "a model that is retried": _retried,
    "a tool that is retried": _tool_retried,
    "a human's approval": _approval,
    "a retriever": lambda c: Library().invoke("q", c),
    "a retriever inside of chains": lambda c: (
        RunnableLambda(lambda _: Library() | (lambda found: f"Sum up {len(found)} documents.")) | model("k")
    ).invoke("q", c),
    "a retriever that fails": lambda c: Library(broken=True).invoke("q", c),
    "a completion model": lambda c: FakeListLLM(responses=["a b c"]).invoke("a prompt", c),
    "completions in a batch": lambda c: FakeListLLM(responses=["a b c", "d"]).batch(["a prompt", "x"], c),
    "a prompt and a model": lambda c: (
        ChatPromptTemplate.from_messages([("system", "s {x}"), ("human", "{y}")]) | model("k")
    ).invoke({"x": "1", "y": "2"}, c),
    "tags, a name and a user": lambda c: model("k").invoke(
        "x", {**c, "tags": ["a", "b"], "metadata": {"user_id": "u"}, "run_name": "named"}
    ),
    "parameters": lambda c: (
        model("k", temperature=0.7)
        .bind(max_tokens=50, tools=[{"type": "function", "function": {"name": "f", "description": "d"}}])
        .invoke("x", c)
    ),
    "what the gateway charged": lambda c: model(CHARGED, model_name="z-ai/glm-9", provider="openrouter").invoke("x", c),
    "a model without a name": lambda c: model("k", model_name="").invoke("x", c),
    "a cache of responses": lambda c: asyncio.run(_cached(c)),
}  # fmt: skip


def _callbacks(config: Config) -> dict[str, Any]:
    return {"callbacks": config["callbacks"]}
