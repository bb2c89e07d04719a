"""How far an intervention reaches: to what it was decided for, and to nothing else."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from agents import LOOP, count_up, fetch_page
from langchain.agents import create_agent
from langchain.agents.middleware import ClearToolUsesEdit, ContextEditingMiddleware, wrap_model_call
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from ts_langchain import Sentinel, TokenSentinelHandler, TokenSentinelMiddleware, guard, guard_model
from ts_langchain.capture.activate import innermost
from ts_langchain.capture.context import current_labels
from ts_langchain.intervene import actions
from ts_langchain.intervene.core import Interventions, Turn
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ASK = {"messages": [HumanMessage("go")]}
IN_THREAD: Any = {"configurable": {"thread_id": "t"}}


CHEAPER = {
    "rules": {"model_misroute": {"steps": [{"at": 1, "do": "downgrade"}]}},
    "downgrade": {"gpt-4o-20*": "cheap"},
}


def test_a_downgrade_for_classifications_leaves_the_other_requests_alone() -> None:
    cheap = ScriptedChatModel(script=["yes"], model_name="gpt-4o-mini")
    model = ScriptedChatModel(script=["no", AIMessage("a long and thoughtful answer"), "never"])
    sentinel = Sentinel(policy=CHEAPER)
    guarded = guard_model(model, sentinel, models={"cheap": cheap})
    config: Any = {"metadata": {"thread_id": "t"}}
    question = "Classify this mail, spam or not: win a prize"
    guarded.invoke(question, config)
    assert guarded.invoke("Plan the migration of our payments service.", config).content.startswith("a long")
    assert (model.calls, cheap.calls) == (2, 0)
    assert guarded.invoke(question, config).content == "yes"
    assert (model.calls, cheap.calls) == (2, 1)
    guarded.invoke(question, {"metadata": {"thread_id": "another"}})
    assert (model.calls, cheap.calls) == (3, 1)


def test_an_agent_whose_system_prompt_classifies_is_downgraded_too() -> None:
    cheap = ScriptedChatModel(script=["spam"], model_name="gpt-4o-mini")
    model = ScriptedChatModel(script=["spam"])
    middleware = TokenSentinelMiddleware(policy=CHEAPER, models={"cheap": cheap})
    agent = create_agent(model, [], system_prompt="Classify the mail as spam or ham.", middleware=[middleware])
    for mail in ("win a prize", "the minutes of Monday"):
        agent.invoke({"messages": [HumanMessage(mail)]}, {"metadata": {"thread_id": "t"}})
    assert (model.calls, cheap.calls) == (1, 1)


def test_two_incidents_downgrade_a_request_once() -> None:
    policy = {"rules": {"tool_loop": {"steps": [{"at": 1, "do": "downgrade"}]}}, "downgrade": {"gpt-4o-20*": "cheap"}}
    both = AIMessage(
        "", tool_calls=[*call_tool("fetch_page", url="a").tool_calls, *call_tool("count_up", n=1).tool_calls]
    )
    cheap = ScriptedChatModel(script=["done"], model_name="gpt-4o-mini")
    sentinel = Sentinel(rules=["tool_loop"], policy=policy)
    middleware = TokenSentinelMiddleware(sentinel, models={"cheap": cheap})
    create_agent(ScriptedChatModel(script=[both]), [fetch_page, count_up], middleware=[middleware]).invoke(ASK)
    assert [(d.action, d.outcome) for d in sentinel.decisions()] == [("downgrade", "done")] * 2
    assert cheap.calls == 1


def test_a_downgrade_stays_in_force_beside_a_model_that_has_no_cheaper_one() -> None:
    policy = {"rules": {"tool_loop": {"steps": [{"at": 1, "do": "downgrade"}]}}, "downgrade": {"gpt-4o-20*": "cheap"}}
    cheap = ScriptedChatModel(script=["cheap"], model_name="gpt-4o-mini")
    sentinel = Sentinel(policy=policy)
    dear = guard_model(ScriptedChatModel(script=[call_tool("fetch_page", url="a")]), sentinel, models={"cheap": cheap})
    other = guard_model(ScriptedChatModel(script=["other"], model_name="claude-sonnet-4-5"), sentinel)
    config: Any = {"callbacks": [TokenSentinelHandler(sentinel, session_id="s")]}
    said: list[Any] = [HumanMessage("go")]
    with sentinel.session("s"):
        for _ in range(2):
            said.append(dear.invoke(said, config))
            said.append(fetch_page.invoke(said[-1].tool_calls[0], config))
        answers = [m.invoke(said, config).content for m in (dear, other, dear)]
    assert answers == ["cheap", "other", "cheap"]
    assert [(d.action, d.outcome) for d in sentinel.decisions()] == [("downgrade", "done")]


def test_an_unsafe_tool_does_not_end_the_reuse_of_a_safe_one() -> None:
    runs: list[str] = []

    @tool
    def fetch_page(url: str) -> str:
        """Fetches."""
        runs.append("fetch")
        return "the same page"

    @tool
    def note(text: str) -> str:
        """Writes a note."""
        runs.append("note")
        return f"noted {text}"

    fetch = call_tool("fetch_page", url="a")
    script = [fetch, fetch, fetch, call_tool("note", text="x"), fetch, fetch, AIMessage("done")]
    policy = {
        "rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "reuse"}]}},
        "safe_tools": ["fetch_page"],
    }
    middleware = TokenSentinelMiddleware(policy=policy)
    create_agent(ScriptedChatModel(script=script), [fetch_page, note], middleware=[middleware]).invoke(ASK)
    # the note may have changed the page: it is fetched once more, and reused from then on
    assert runs == ["fetch"] * 3 + ["note", "fetch"]
    assert [(d.action, d.outcome, d.tool) for d in middleware.sentinel.decisions()] == [("reuse", "done", "fetch_page")]


@pytest.mark.parametrize("door", ["middleware", "guard"])
@pytest.mark.parametrize(
    ("declared", "runs"),
    [({"read_only": True}, 3), ({"readOnlyHint": True, "title": None}, 6), ({"read_only": False}, 6), (None, 6)],
)
def test_a_tool_that_is_declared_to_look_only_is_safe(door: str, declared: dict[str, Any] | None, runs: int) -> None:
    """By its metadata; what an MCP server says of its own tools is no leave to keep them from running."""
    ran: list[str] = []

    @tool
    def fetch_page(url: str) -> str:
        """Fetches."""
        ran.append(url)
        return "the same page"

    fetch_page.metadata = declared
    policy = {"rules": {"tool_loop": {"min_severity": "medium", "steps": [{"at": 1, "do": "reuse"}]}}}
    script = [*[call_tool("fetch_page", url="a")] * 6, AIMessage("done")]
    middleware = [TokenSentinelMiddleware(policy=policy)] if door == "middleware" else []
    app: Any = create_agent(ScriptedChatModel(script=script), [fetch_page], middleware=middleware)
    (app if middleware else guard(app, policy=policy)).invoke(ASK)
    assert len(ran) == runs


@pytest.mark.parametrize("door", ["middleware", "guard"])
def test_an_answer_that_is_reused_brings_its_artifact_along(door: str) -> None:
    """Sources, tables, files: no model is sent them, and the app reads them off each result."""

    @tool(response_format="content_and_artifact")
    def fetch_page(url: str) -> tuple[str, dict[str, str]]:
        """Fetches."""
        return "the same page", {"source": url}

    policy = {
        "rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "reuse"}]}},
        "safe_tools": ["fetch_page"],
    }
    script = [*[LOOP] * 5, AIMessage("done")]
    middleware = [TokenSentinelMiddleware(policy=policy)] if door == "middleware" else []
    app: Any = create_agent(ScriptedChatModel(script=script), [fetch_page], middleware=middleware)
    messages = (app if middleware else guard(app, policy=policy)).invoke(ASK)["messages"]
    results = [m for m in messages if isinstance(m, ToolMessage)]
    assert [actions.MARK in m.response_metadata for m in results] == [False] * 3 + [True] * 2
    assert [m.artifact for m in results] == [{"source": LOOP.tool_calls[0]["args"]["url"]}] * 5


@wrap_model_call
def _keeps_the_end(request: Any, handler: Any) -> Any:
    return handler(request.override(messages=request.messages[-2:]))


CLEARS = ContextEditingMiddleware(edits=[ClearToolUsesEdit(trigger=1, keep=1)])


@pytest.mark.parametrize("content", ["the same page " * 50, [{"type": "text", "text": "the same page " * 50}]])
@pytest.mark.parametrize(("other", "seen"), [(CLEARS, False), (_keeps_the_end, False), (None, True)])
@pytest.mark.parametrize("door", ["middleware", "guard"])
def test_what_the_model_no_longer_sees_is_repeated(door: str, other: Any, seen: bool, content: Any) -> None:
    """Middleware that edits requests leaves results out of them: whoever is referred to one would ask for ever."""

    @tool
    def fetch_page(url: str) -> Any:
        """Fetches."""
        return content

    policy = {
        "rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "reuse"}]}},
        "safe_tools": ["fetch_page"],
    }
    ours = [TokenSentinelMiddleware(policy=policy)] if door == "middleware" else []
    middleware = [*ours, *([other] if other is not None else [])]
    script = [*[LOOP] * 5, AIMessage("done")]
    app: Any = create_agent(ScriptedChatModel(script=script), [fetch_page], middleware=middleware)
    messages = (app if ours else guard(app, policy=policy)).invoke(ASK)["messages"]
    results = [str(m.content) for m in messages if isinstance(m, ToolMessage)]
    assert [text.count("the same page ") for text in results] == [50] * 3 + [0 if seen else 50] * 2


def test_a_copy_of_a_door_works_as_the_door_does() -> None:
    """Configs are copied, and the handlers in them."""
    policy = {"default": {"steps": [{"at": 1, "do": "reuse"}]}}
    door = Interventions(Sentinel(policy=policy)).handler
    model = ScriptedChatModel(script=["done"])
    for handler in (copy.copy(door), pickle.loads(pickle.dumps(door))):  # noqa: S301 - our own
        model.invoke([*talk(("read", "one")), HumanMessage("go")], {"callbacks": [handler]})
        assert handler.sentinel.health().faults == {}


FORCED = [
    "count_up",
    {"type": "function", "function": {"name": "count_up"}},
    {"type": "function", "name": "count_up"},
    {"type": "tool", "name": "count_up"},
]


@pytest.mark.parametrize("door", ["middleware", "model"])
@pytest.mark.parametrize(("choice", "kept"), [*((c, True) for c in FORCED), ("any", False), ({"type": "any"}, False)])
def test_the_tool_that_a_model_has_to_call_is_not_pruned(door: str, choice: Any, kept: bool) -> None:
    """OpenAI and Anthropic refuse a request that forces a tool it does not bring."""
    sent: list[tuple[str, ...]] = []
    sentinel = Sentinel(
        policy={"rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "prune_tools"}]}}}
    )
    sentinel.observe = lambda call, see=sentinel.observe: (  # type: ignore[method-assign]
        sent.append(call.toolset.names) if call.kind == "model" else None,
        see(call),
    )[1]
    model, tools = ScriptedChatModel(script=[*[LOOP] * 4, AIMessage("done")]), [fetch_page, count_up]
    if door == "middleware":
        force = wrap_model_call(lambda request, handler: handler(request.override(tool_choice=choice)))
        create_agent(model, tools, middleware=[force, TokenSentinelMiddleware(sentinel)]).invoke(ASK)
    else:
        bound = guard_model(model, sentinel).bind_tools(tools, tool_choice=choice)
        said: list[Any] = [HumanMessage("go")]
        with sentinel.session("s"):
            while not said[1:] or said[-1].type == "tool":
                said.append(bound.invoke(said))
                said += [fetch_page.invoke(c) for c in said[-1].tool_calls]
    assert sent[0] == ("fetch_page", "count_up")
    assert sent[-1] == (("fetch_page", "count_up") if kept else ("fetch_page",))


class Noting(ScriptedChatModel):
    """Notes what it is sent."""

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        self.script[0].append((messages, {**kwargs, **({"stop": stop} if stop else {})}))
        self.script.append("done")
        self._calls = len(self.script) - 1
        return super()._generate(messages, stop, run_manager, **kwargs)


SEARCH = {"type": "web_search_20250305", "name": "web_search"}
CACHED: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
SETTINGS: dict[str, Any] = {
    "cache_control": {"type": "ephemeral"},
    "max_tokens": 99,
    "tool_choice": {"type": "tool", "name": "fetch_page"},
}


@pytest.mark.parametrize("door", ["middleware", "model"])
@pytest.mark.parametrize("abroad", [True, False])
def test_a_stand_in_of_another_provider_gets_nothing_that_is_for_the_first_alone(door: str, abroad: bool) -> None:
    """Tools that a provider runs, marks of its cache, parameters of its own: others refuse them, or raise."""
    sent: list[Any] = []
    cheap = Noting(script=[sent], model_name="cheap", provider="openai" if abroad else "anthropic")
    dear = ScriptedChatModel(script=[LOOP], model_name="dear", provider="anthropic")
    sentinel = Sentinel(policy={"budgets": [{"calls": 1, "do": "downgrade"}], "downgrade": {"dear": "cheap"}})
    asked = [SystemMessage(CACHED), HumanMessage("go")]
    if door == "middleware":
        chosen = SETTINGS["tool_choice"]
        settings = {name: value for name, value in SETTINGS.items() if name != "tool_choice"}
        choose = wrap_model_call(
            lambda request, handler: handler(request.override(model_settings=settings, tool_choice=chosen))
        )
        middleware = [choose, TokenSentinelMiddleware(sentinel, models={"cheap": cheap})]
        tools = [fetch_page, SEARCH]
        create_agent(dear, tools, system_prompt=asked[0], middleware=middleware).invoke({"messages": asked[1:]})
    else:
        guarded = guard_model(dear, sentinel, models={"cheap": cheap}).bind_tools([fetch_page, SEARCH], **SETTINGS)
        with sentinel.session("s"):
            guarded.invoke(asked)
            guarded.invoke(asked, cache_control={"type": "ephemeral"})
    assert [(d.action, d.outcome) for d in sentinel.decisions() if d.action != "warn"] == [("downgrade", "done")]
    assert sentinel.health().faults == {}
    [(messages, kwargs)] = sent
    names = [t.get("name") or t["function"]["name"] for t in kwargs.pop("tools")]
    kwargs = {name: kwargs[name] for name in SETTINGS if name in kwargs}
    if abroad:
        assert (names, kwargs) == (["fetch_page"], {"max_tokens": 99, "tool_choice": "fetch_page"})
        assert messages[0].content == [{"type": "text", "text": "Be brief."}]
    else:
        assert (names, kwargs) == (["fetch_page", "web_search"], SETTINGS)
        assert messages[0].content == CACHED


def talk(*calls: tuple[str, str]) -> list[Any]:
    messages: list[Any] = []
    for number, (name, result) in enumerate(calls):
        asked = {"name": name, "args": {"q": 1}, "id": f"c{number}", "type": "tool_call"}
        messages += [AIMessage("", tool_calls=[asked]), ToolMessage(result, tool_call_id=f"c{number}")]
    return messages


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ([("read", "one")], "one"),
        ([("read", "one"), ("write", "ok")], None),
        ([("read", "one"), ("write", "ok"), ("read", "two")], "two"),
        ([("read", "one"), ("list_all", "many")], "one"),
    ],
)
def test_a_result_holds_until_an_unsafe_tool_has_run(before: list[tuple[str, str]], expected: str | None) -> None:
    call = {"name": "read", "args": {"q": 1}, "id": "now"}
    found = actions.earlier_result(talk(*before), call, lambda name: name in ("read", "list_all"))
    assert (found.content if found is not None else None) == expected


def test_a_budget_counts_the_system_message_and_the_arguments_of_tool_calls() -> None:
    call = {"name": "write", "args": {"text": "x" * 4_000}, "id": "c", "type": "tool_call"}
    messages: Sequence[Any] = [HumanMessage("hi"), AIMessage("", tool_calls=[call])]
    assert Turn(list(messages), system=SystemMessage("y" * 4_000)).chars() > 8_000


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_leaves_nothing_in_its_readers_context(asynchronous: bool) -> None:
    guarded = guard_model(ScriptedChatModel(script=["one two three"]), Sentinel(policy={}))

    def clean() -> bool:
        return innermost() is None and current_labels() is None

    if asynchronous:

        async def read() -> list[bool]:
            return [clean() async for _ in guarded.astream("hi")]

        states = asyncio.run(read())
    else:
        states = [clean() for _ in guarded.stream("hi")]
    assert len(states) >= 3
    assert all(states)
    assert guarded.sentinel.health().calls == 1


class Listed(ScriptedChatModel):
    """A model whose streams are plain iterators: nothing of them can be closed."""

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:  # noqa: A002
        return iter(list(super().stream(input, config, **kwargs)))

    def astream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:  # noqa: A002
        return Plain(super().astream(input, config, **kwargs))


class Plain:
    def __init__(self, chunks: Any) -> None:
        self.chunks = chunks

    def __aiter__(self) -> Plain:
        return self

    async def __anext__(self) -> Any:
        return await anext(self.chunks)


def test_a_stream_that_cannot_be_closed_is_none_the_worse() -> None:
    guarded = guard_model(Listed(script=["one two three"] * 2), Sentinel(policy={}))

    async def read() -> str:
        return "".join([str(chunk.content) async for chunk in guarded.astream("hi")])

    assert "".join(str(chunk.content) for chunk in guarded.stream("hi")) == "one two three"
    assert asyncio.run(read()) == "one two three"


def test_a_stream_may_be_closed_from_another_context() -> None:
    guarded = guard_model(ScriptedChatModel(script=["one two three"]), Sentinel(policy={}))

    async def read() -> None:
        stream: Any = guarded.astream("hi")
        await anext(stream)
        await asyncio.get_running_loop().create_task(stream.aclose(), context=contextvars.Context())

    asyncio.run(read())
    assert guarded.sentinel.health().faults == {}


@pytest.mark.parametrize("broken", ["admit", "due"])
def test_a_broken_sentinel_never_reaches_the_app(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def boom(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    sentinel = Sentinel(policy={"budgets": [{"calls": 100}]})
    monkeypatch.setattr({"admit": sentinel.governor, "due": sentinel}[broken], broken, boom)
    model = ScriptedChatModel(script=["well"])
    assert guard_model(model, sentinel).invoke("hi").content == "well"
    agent = create_agent(model, [], middleware=[TokenSentinelMiddleware(sentinel)])
    assert agent.invoke(ASK)["messages"][-1].content == "well"
    assert any("ZeroDivisionError" in place for place in sentinel.health().faults)


def test_users_are_told_of_decisions_with_no_lock_held() -> None:
    sentinel = Sentinel(policy={"rules": {"tool_loop": {"steps": [{"at": 1, "do": "warn"}]}}})
    free: list[bool] = []

    def listen(decision: Any) -> None:
        lock = sentinel.get(decision.session_id).lock

        async def try_it() -> bool:
            return await asyncio.to_thread(lambda: lock.acquire(blocking=False) and (lock.release() or True))

        free.append(asyncio.run(try_it()))

    sentinel.on_decision(listen)

    @tool
    def fetch_page(url: str) -> str:
        """Fetches."""
        return "x"

    script = [call_tool("fetch_page", url="a")] * 4 + [AIMessage("done")]
    create_agent(ScriptedChatModel(script=script), [fetch_page]).invoke(
        ASK, {"callbacks": [TokenSentinelHandler(sentinel)]}
    )
    assert free
    assert all(free)


def test_a_handler_that_only_watches_says_so_of_a_kill_switch(tmp_path: Path) -> None:
    switch = tmp_path / "stop"
    switch.touch()
    sentinel = Sentinel(policy={"kill_switch": {"file": str(switch)}})
    model = ScriptedChatModel(script=["well"])
    model.invoke("hi", {"callbacks": [TokenSentinelHandler(sentinel)]})
    assert model.calls == 1
    assert [(d.rule, d.outcome) for d in sentinel.decisions()] == [("kill_switch", "skipped")]


class Another(TokenSentinelMiddleware):
    """`create_agent` takes one middleware of a name."""


@pytest.mark.parametrize("whose", [0, 1])
@pytest.mark.parametrize("guarded", [True, False])
def test_doors_of_two_sentinels_see_the_same_and_each_holds_its_budget(guarded: bool, whose: int) -> None:
    """One of the team and one of the company, say: whichever is further out."""
    sentinels = [Sentinel(policy={"budgets": [{"per": "session", "calls": 2 if n == whose else 99}]}) for n in (0, 1)]
    outer, inner = sentinels
    model = ScriptedChatModel(script=[LOOP])
    if guarded:
        app: Any = guard(create_agent(model, [fetch_page], middleware=[Another(inner)]), outer)
    else:
        app = create_agent(model, [fetch_page], middleware=[TokenSentinelMiddleware(outer), Another(inner)])
    out = app.invoke(ASK, {"configurable": {"thread_id": "t"}, "recursion_limit": 30})
    assert "I stopped here" in out["messages"][-1].content
    assert model.calls == 2
    for sentinel in sentinels:
        assert (sentinel.health().calls, sentinel.health().faults) == (4, {})
        assert (sentinel.in_flight.started, sentinel.in_flight.reservations) == ({}, {})
