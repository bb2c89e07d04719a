"""Calls that name no conversation: which of them belong together."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from agents import DONE, LOOP, fetch_page
from hypothesis import given
from hypothesis import strategies as st
from importers.test_rows import odd
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, chain
from langchain_core.tools import tool
from langchain_core.tracers import LangChainTracer
from recorder import Wire, recorded, replay_of
from scenes import ask_model

from ts_importers.langsmith_rows import run_from_row
from ts_langchain import CallRefused, Sentinel, TokenSentinelHandler, WasteBlocked, guard_model
from ts_langchain.call import ToolCall
from ts_langchain.capture import continued
from ts_langchain.capture.continued import Continued, family_of
from ts_langchain.capture.messages import read_message
from ts_langchain.recent import Recent
from ts_langchain.replay import Run
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

OPENING: list[Any] = [
    {"role": "system", "content": "You watch a page."},
    {"role": "user", "content": "Look and report."},
]
CALL = {"id": "c1", "type": "function", "function": {"name": "fetch", "arguments": '{"url": "u"}'}}
ROUND: list[Any] = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "All is well."},
]
FURTHER = [*OPENING, *ROUND]


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


class Talks:
    """Requests one after the other, named by their number; each takes a second."""

    def __init__(self) -> None:
        self.continued = Continued()
        self.number = 0

    def ask(
        self,
        prompt: Any,
        at: float,
        *,
        who: Sequence[str | None] = (),
        answer: Any = None,
        failed: bool = False,
        took: float | None = 1.0,
    ) -> str | None:
        asked = self.continued.begin(str(self.number), prompt, who, at)
        self.number += 1
        if asked is None:
            return None
        if took is not None:
            came = read_message(answer).digest if answer is not None else None
            self.continued.end(asked, at + took, came, failed=failed)
        return asked.conversation


def test_a_prompt_that_goes_on_belongs_to_what_was_sent_before() -> None:
    talks = Talks()
    assert [talks.ask(p, 3.0 * n) for n, p in enumerate([OPENING, FURTHER, [*FURTHER, *ROUND]])] == ["0", "0", "0"]
    talks = Talks()
    assert [talks.ask(p, 3.0 * n) for n, p in enumerate([FURTHER, OPENING, FURTHER])] == ["0", "1", "1"]


def test_a_system_message_that_tells_the_time_makes_no_other_conversation() -> None:
    talks = Talks()
    told = [
        talks.ask([{"role": "system", "content": f"It is {n} o'clock."}, *prompt[1:]], 3.0 * n)
        for n, prompt in enumerate([OPENING, FURTHER, [*FURTHER, *ROUND]])
    ]
    assert told == ["0", "0", "0"]


@pytest.mark.parametrize("every", [3.0, 20.0, 3600.0])
def test_runs_that_open_alike_are_not_one(every: float) -> None:
    talks = Talks()
    told = [talks.ask(p, n * every + at) for n in range(4) for at, p in ((0.0, OPENING), (1.5, FURTHER))]
    assert told == ["0", "0", "2", "2", "4", "4", "6", "6"]


def test_users_and_families_of_models_tell_apart() -> None:
    talks = Talks()
    whos: list[tuple[str | None, ...]] = [("ada", "gpt"), ("bob", "gpt"), ("ada", "claude"), (None, "gpt")]
    assert [talks.ask(p, at, who=who) for at, p in ((0.0, OPENING), (9.0, FURTHER)) for who in whos] == [*"0123"] * 2
    assert [family_of(m) for m in ("gpt-5-mini", "openai/o3", "ft:gpt-4o:acme", "claude-x", "7b", "", None)] == [
        "gpt", "gpt", "gpt", "claude", None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("failed", "took", "at", "same"),
    [
        (False, 2.0, 3.0, False),  # somebody else may ask the same
        (True, 2.0, 2.0, True),
        (True, 2.0, 602.0, True),
        (True, 2.0, 603.0, False),
        (True, 2.0, 1.0, False),  # at the same time: no retry
        (True, None, 60.0, False),  # still under way
    ],
)
def test_a_retry_belongs_to_what_has_failed(failed: bool, took: float | None, at: float, same: bool) -> None:
    talks = Talks()
    talks.ask(OPENING, 0.0, failed=failed, took=took)
    assert talks.ask(OPENING, at) == ("0" if same else "1")


def test_of_prompts_alike_that_one_goes_on_whose_answer_came_back() -> None:
    talks = Talks()
    begun = [talks.ask(OPENING, 60.0 * n, answer=said(t)) for n, t in enumerate(["one", "two", "three"])]
    further = [[*OPENING, said(t), {"role": "user", "content": "And?"}] for t in ("one", "three", "two", "four")]
    assert begun == ["0", "1", "2"]
    assert [talks.ask(p, 300.0) for p in further] == ["0", "2", "1", "6"]


def test_what_has_failed_is_gone_on_with_where_nothing_else_is() -> None:
    talks = Talks()
    assert [talks.ask(OPENING, 0.0), talks.ask(OPENING, 1.0, failed=True), talks.ask(FURTHER, 9.0)] == ["0", "1", "0"]
    assert talks.ask(FURTHER, 9.0) == "1"  # another model has answered in its place


def test_what_was_asked_later_is_not_gone_on_with() -> None:
    talks = Talks()
    assert [talks.ask(OPENING, 100.0), talks.ask(FURTHER, 50.0), talks.ask(FURTHER, 150.0)] == ["0", "1", "0"]


@pytest.mark.parametrize("nothing", ["", None, "[REDACTED]", "redacted-by-litellm", "***", []])
def test_what_says_nothing_is_joined_with_nothing(nothing: Any) -> None:
    prompt = [OPENING[0], {"role": "user", "content": nothing}]
    talks = Talks()
    assert [talks.ask(p, 0.0) for p in (prompt, prompt, [*prompt, *ROUND], [])] == [None] * 4


def test_many_messages_may_have_been_added() -> None:
    talks = Talks()
    many = [ROUND[1]] * (continued.MAX_NEW_MESSAGES - 1)
    assert [talks.ask(OPENING, 0.0), talks.ask([*OPENING, ROUND[0], *many], 9.0)] == ["0", "0"]
    talks = Talks()
    assert [talks.ask(OPENING, 0.0), talks.ask([*OPENING, ROUND[0], *many, ROUND[1]], 9.0)] == ["0", "1"]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continued, "MAX_PROMPTS", 5)
    monkeypatch.setattr(continued, "MAX_REQUESTED", 7)
    monkeypatch.setattr(continued, "MAX_RUNS", 3)
    talks = Talks()
    for n in range(100):
        talks.ask(OPENING, n * 3600.0)
        talks.ask([{"role": "user", "content": str(n)}], n * 3600.0)
        asked = talks.continued.begin(f"c{n}", [{"role": "user", "content": f"c{n}"}], (), n * 3600.0, f"r{n}")
        assert asked is not None
        talks.continued.end(asked, n * 3600.0, None, [ToolCall(f"c{n}", "fetch", n)], failed=False)
    last, lengths, requested, runs, number = talks.continued.snapshot()
    assert (len(last), len(lengths), len(requested), len(runs), number) == (5, 5, 7, 3, 300)
    assert max(map(len, last.values())) <= continued.MAX_ALIKE
    assert len(pickle.dumps(talks.continued.snapshot())) < 5_000


def test_a_few_too_many_are_dropped_without_building_it_anew() -> None:
    """Each request adds two entries: building all anew each time made an import of conversations twice as slow."""

    class Counted(Recent[int, int]):
        built = 0

        def clear(self) -> None:
            Counted.built += 1
            super().clear()

    held = Counted()
    for n in range(10_000):
        held |= {2 * n: n, 2 * n + 1: n}
        held.limit(4_000)
    assert list(held) == list(range(16_000, 20_000))
    assert Counted.built == 0
    held.limit(100)
    assert (list(held), Counted.built) == (list(range(19_900, 20_000)), 1)


def test_it_goes_on_where_it_was() -> None:
    before, after = Talks(), Talks()
    before.ask(OPENING, 0.0)
    after.continued.restore(pickle.loads(pickle.dumps(before.continued.snapshot())))  # noqa: S301
    after.number = 1
    assert [after.ask(FURTHER, 3.0), after.ask(OPENING, 4.0)] == ["0", "2"]


@given(st.lists(st.lists(odd, max_size=4), max_size=6))
def test_prompts_of_any_type(prompts: list[Any]) -> None:
    talks = Talks()
    for prompt in prompts:
        talks.ask(prompt, 0.0)


# --- live ------------------------------------------------------------------------------------------


Step = Callable[[Any], Runnable[Any, Any]]
PROMPT = ChatPromptTemplate.from_messages([("system", "You know all plans."), MessagesPlaceholder("messages")])


def bare(model: Any) -> Runnable[Any, Any]:
    return model  # type: ignore[no-any-return]


def chained(model: Any) -> Runnable[Any, Any]:
    return RunnableLambda(lambda messages: {"messages": messages[1:]}) | PROMPT | model


def falling_back(model: Any) -> Runnable[Any, Any]:
    return ScriptedChatModel(script=[ConnectionError("down")]).with_fallbacks([model])


def retried(model: Any) -> Runnable[Any, Any]:
    return chained(model.with_retry(stop_after_attempt=2))


STEPS = pytest.mark.parametrize("step", [bare, chained, falling_back, retried])


def by_hand(
    model: Any, config: Any, question: str = "Which plan has SSO?", *, ids: bool = True, step: Step = bare
) -> None:
    """An agent as tutorials write it: a loop, a model, a tool."""
    messages: list[BaseMessage] = [SystemMessage("You know all plans."), HumanMessage(question)]
    for _ in range(20):
        answer = step(model).invoke(messages, config)
        messages.append(answer)
        if not answer.tool_calls:
            return
        for call in answer.tool_calls:
            result = fetch_page.invoke(call if ids else call["args"], config)
            messages.append(result if ids else ToolMessage(result, tool_call_id=call["id"]))


@STEPS
@pytest.mark.parametrize("ids", [True, False])
def test_a_loop_by_hand_is_one_session_and_is_stopped(ids: bool, step: Step) -> None:
    recorder, handler = recorded()
    by_hand(ScriptedChatModel(script=[LOOP] * 5 + [DONE]), {"callbacks": [handler]}, ids=ids, step=step)
    assert len({call.session_id for call in recorder.seen}) == 1
    # LangChain calls fallbacks outside of the run that it begins for them: the failed try is a turn of its own
    assert len({call.root_id for call in recorder.seen}) == (2 if step is falling_back else 1)
    assert sum(call.status == "ok" for call in recorder.seen) == 11
    assert [(i.rule, i.calls) for i in recorder.incidents()] == [("tool_loop", 4)]
    model = ScriptedChatModel(script=[LOOP])
    with pytest.raises(WasteBlocked, match="fetch_page"):
        by_hand(model, {"callbacks": [TokenSentinelHandler(mode="block")]}, ids=ids, step=step)
    assert model.calls == 3


@STEPS
@pytest.mark.parametrize("config", [{}, {"metadata": {"session_id": "s"}}], ids=["nameless", "named"])
@pytest.mark.parametrize("do", ["stop", "block"])
def test_a_policy_holds_in_a_loop_by_hand(do: str, config: Any, step: Step) -> None:
    steps = [{"at": 1, "do": do}]
    rules = {"tool_loop": {"min_severity": "high", "steps": steps}, "retry_storm": {"steps": steps}}
    sentinel = Sentinel(policy={"rules": rules})
    config = {**config, "callbacks": [TokenSentinelHandler(sentinel, mode="block")]}
    looping, failing = ScriptedChatModel(script=[LOOP]), ScriptedChatModel(script=[ConnectionError("down")])
    with pytest.raises(WasteBlocked, match="fetch_page"):
        by_hand(looping, config, step=step)
    assert looping.calls == 3
    looping.invoke("something else", config)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            failing.invoke("hello", config)
    with pytest.raises(WasteBlocked, match="ConnectionError"):
        failing.invoke("hello", config)
    assert [(d.action, d.outcome) for d in sentinel.decisions()] == [(do, "done")] * 2


@STEPS
@pytest.mark.parametrize("seen", [True, False], ids=["with a handler", "without one"])
@pytest.mark.parametrize("config", [{}, {"metadata": {"session_id": "s"}}], ids=["nameless", "named"])
def test_a_guarded_model_stops_a_loop_by_hand(config: Any, seen: bool, step: Step) -> None:
    sentinel = Sentinel(policy={"rules": {"tool_loop": {"steps": [{"at": 1, "do": "stop"}]}}})
    config = {**config, "callbacks": [TokenSentinelHandler(sentinel)] if seen else []}
    model = ScriptedChatModel(script=[LOOP])
    by_hand(guard_model(model, sentinel), config, step=step)
    assert model.calls == (2 if seen else 3)  # without a handler tools are seen in the next prompt
    assert [(d.action, d.outcome) for d in sentinel.decisions()] == [("stop", "done")]
    assert sentinel.health().sessions == 1


def test_a_veto_holds_when_the_same_is_sent_again() -> None:
    handler, model = TokenSentinelHandler(mode="block"), ScriptedChatModel(script=[LOOP])
    messages: list[Any] = [HumanMessage("Which plan has SSO?")]
    config: Any = {"callbacks": [handler]}
    for _ in range(3):
        messages.append(model.invoke(messages, config))
        messages.append(fetch_page.invoke(messages[-1].tool_calls[0], config))
    for _ in range(3):
        with pytest.raises(WasteBlocked):
            model.invoke(messages, config)
    assert model.calls == 3


def test_retries_by_hand_are_a_storm() -> None:
    handler, model = TokenSentinelHandler(mode="block"), ScriptedChatModel(script=[ConnectionError("down")])
    for _ in range(5):
        with pytest.raises(ConnectionError):
            model.invoke("hello", {"callbacks": [handler]})
    with pytest.raises(WasteBlocked, match="ConnectionError 5 times"):
        model.invoke("hello", {"callbacks": [handler]})
    assert model.calls == 5


def test_loops_by_hand_side_by_side_do_not_mix() -> None:
    recorder, handler = recorded()

    def one(number: int) -> None:
        calls = [call_tool("fetch_page", url=f"{number}-{n}") for n in range(4)]
        by_hand(ScriptedChatModel(script=[*calls, AIMessage(f"done {number}")]), {"callbacks": [handler]})

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(40)))
    sessions: dict[str, set[str]] = {}
    for call in recorder.seen:
        if call.kind == "tool":
            assert call.requested_by is not None
            sessions.setdefault(call.session_id, set()).add(call.requested_by)
    assert sorted(map(len, sessions.values())) == [4] * 40
    assert recorder.incidents() == []


def test_strangers_who_ask_the_same_are_not_one_session() -> None:
    recorder, handler = recorded()
    model = ScriptedChatModel(script=[AIMessage("Hello!")])
    for _ in range(9):
        model.invoke([SystemMessage("Be kind."), HumanMessage("hi")], {"callbacks": [handler]})
    assert len({call.session_id for call in recorder.seen}) == 9


def timed(messages: list[Any], now: int) -> list[Any]:
    return [SystemMessage(f"It is 12:00:{now:02d}."), *messages]


def trimmed(messages: list[Any], now: int) -> list[Any]:
    return [messages[0], *messages[1:][-4:]]


@pytest.mark.parametrize("sent", [timed, trimmed])
def test_a_loop_whose_past_is_rewritten_is_one_session(sent: Any) -> None:
    recorder, handler = recorded()
    client = Wire()
    config: Any = {"callbacks": [handler, LangChainTracer(client=client)]}
    model = ScriptedChatModel(script=[LOOP] * 7 + [DONE])
    messages: list[Any] = [HumanMessage("Which plan has SSO?")]
    for now in range(8):
        messages.append(model.invoke(sent(messages, now), config))
        messages += [fetch_page.invoke(call, config) for call in messages[-1].tool_calls]
    assert len({call.session_id for call in recorder.seen}) == 1
    assert [(i.rule, i.severity, i.calls) for i in recorder.incidents() if i.rule == "tool_loop"] == [
        ("tool_loop", "high", 6)
    ]
    again = replay_of(*(run for row in client.sent() if isinstance(run := run_from_row(row), Run)))
    assert again.known() == recorder.known()


def test_strangers_side_by_side_whose_words_are_the_same_are_told_by_their_tool_calls() -> None:
    talks = Talks()
    first, second = ([{**CALL, "id": name}] for name in ("c1", "c2"))
    asks = [said("") | {"tool_calls": calls} for calls in (first, second)]
    for answer in asks:
        begun = talks.continued.begin(str(talks.number), OPENING, (), 0.0)
        assert begun is not None
        [call] = read_message(answer).tool_calls
        request = ToolCall(call.id, call.name, call.digest)
        talks.continued.end(begun, 1.0, read_message(answer).digest, [request], failed=False)
        talks.number += 1
    for number, (answer, [call]) in enumerate(zip(asks, (first, second), strict=True)):
        result = {"role": "tool", "tool_call_id": call["id"], "content": "All is well."}
        assert talks.continued.look([*OPENING, answer, result], (), 2.0) == str(number)
        assert talks.continued.look([said("other"), answer, result], (), 2.0) == str(number)
        assert talks.continued.look([said("other"), answer, result], ("bob", "gpt"), 2.0) is None
        counted = {**answer, "tool_calls": [{**call, "function": {"name": "fetch", "arguments": '{"url": "v"}'}}]}
        assert talks.continued.look([said("other"), counted, result], (), 2.0) is None


def test_what_is_named_stands() -> None:
    recorder, handler = recorded()
    model = ScriptedChatModel(script=[LOOP] * 2 + [DONE])
    with recorder.session("ticket-17"):
        by_hand(model, {"callbacks": [handler]})
    by_hand(ScriptedChatModel(script=[DONE]), {"callbacks": [handler], "metadata": {"thread_id": "t"}})
    assert {call.session_id for call in recorder.seen} == {"ticket-17", "t"}


@chain
def and_its_tools(given: dict[str, Any]) -> list[Any]:
    """A step that does all there is to do in a turn: looks something up, asks a model, runs its tools."""
    Shelf().invoke("plans")
    answer = given["model"].invoke(given["messages"])
    return [answer, *(fetch_page.invoke(call) for call in answer.tool_calls)]


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document("All plans.")]


def stepwise(model: ScriptedChatModel, config: Any) -> None:
    messages: list[Any] = [HumanMessage("Which plan has SSO?")]
    while len(messages) < 2 or isinstance(messages[-1], ToolMessage):
        messages += and_its_tools.invoke({"model": model, "messages": messages}, config)


BY_HAND = [functools.partial(by_hand, step=step) for step in (bare, chained, falling_back, retried)]


@pytest.mark.parametrize("run", [stepwise, *BY_HAND])
@pytest.mark.parametrize("ids", [{}, {"session_id": "s"}], ids=["nameless", "named"])
def test_a_loop_by_hand_is_the_same_live_and_replayed(run: Any, ids: Any) -> None:
    recorder, handler = recorded()
    client = Wire()
    config = {"callbacks": [handler, LangChainTracer(client=client)], "metadata": ids}
    run(ScriptedChatModel(script=[LOOP] * 3 + [DONE]), config)
    again = replay_of(*(run for row in client.sent() if isinstance(run := run_from_row(row), Run)))
    assert again.known() == recorder.known()
    assert [(i.id, i.wasted_nano) for i in again.incidents()] == [(i.id, i.wasted_nano) for i in recorder.incidents()]
    assert "tool_loop" in {i.rule for i in again.incidents()}


def test_what_a_step_runs_belongs_to_its_conversation() -> None:
    recorder, handler = recorded()
    stepwise(ScriptedChatModel(script=[LOOP] * 5 + [DONE]), {"callbacks": [handler]})
    asked = [call for call in recorder.seen if call.kind != "retriever"]
    assert len({call.session_id for call in asked}) == len({call.root_id for call in asked}) == 1
    assert [(i.rule, i.calls) for i in recorder.incidents()] == [("tool_loop", 4)]
    assert handler.sentinel.health().ok


def test_a_chain_stays_in_the_conversation_of_its_first_request() -> None:
    """What it asks further on may go on with another, as the answer of a summary does."""
    talks = Talks()
    assert talks.ask(OPENING, 0.0) == "0"
    begin = talks.continued.begin
    assert [begin("r", p, (), 3.0, "r") for p in ([said("")], [])] == [None, None]
    asked = begin("r", FURTHER, (), 4.0, "r")
    assert asked is not None
    assert (asked.conversation, talks.continued.of_run("r")) == ("r", "r")
    asked = begin("q", [*FURTHER, *ROUND], (), 5.0, "q")
    assert asked is not None
    assert (asked.conversation, talks.continued.of_run("q"), talks.continued.of_run("p")) == ("r", "r", None)


def test_questions_in_batches_are_no_conversation() -> None:
    recorder, handler = recorded()
    step = chained(ScriptedChatModel(script=[AIMessage("yes")]))
    step.batch([[SystemMessage(""), HumanMessage(f"Row {n % 20}?")] for n in range(100)], {"callbacks": [handler]})
    assert len({call.session_id for call in recorder.seen}) == 100


def test_a_request_that_goes_on_from_a_response_is_in_its_conversation() -> None:
    """With what was said before kept by the provider, a prompt is only what is new."""
    seen = []

    class Listening(Sentinel):
        def observe(self, call: Any) -> None:
            seen.append(call)
            super().observe(call)

    handler = TokenSentinelHandler(Listening())
    answers = [AIMessage("Go on?", response_metadata={"id": f"resp_{n}"}) for n in range(6)]
    model = ScriptedChatModel(script=[*answers])
    for user in ("ada", "bob"):
        model.invoke("hi", {"callbacks": [handler], "metadata": {"user_id": user}})
    for previous in (0, 1, 2, 3):
        model.invoke("yes", {"callbacks": [handler]}, previous_response_id=f"resp_{previous}")
    assert [seen.index(next(c for c in seen if c.id == s.session_id)) for s in seen] == [0, 1, 0, 1, 0, 1]
    assert len({c.request for c in seen[2:]}) == 4
    assert handler.sentinel.incidents() == []


def test_a_guard_holds_a_conversations_budget_where_the_provider_keeps_what_was_said() -> None:
    policy = {"budgets": [{"per": "session", "calls": 2, "do": "block"}]}
    answers = [AIMessage("Go on?", response_metadata={"id": f"resp_{n}"}) for n in range(6)]
    model = ScriptedChatModel(script=[*answers])
    guarded = guard_model(model, Sentinel(policy=policy))
    for user in ("ada", "bob"):
        guarded.invoke("hi", {"metadata": {"user_id": user}})
    for previous in (0, 1):
        guarded.invoke("yes", previous_response_id=f"resp_{previous}")
    for previous in (2, 3):
        with pytest.raises(CallRefused):
            guarded.bind(previous_response_id=f"resp_{previous}").invoke("yes")
    assert model.calls == 4


def test_what_a_tool_asks_that_is_run_by_hand_belongs_to_its_conversation() -> None:
    recorder, handler = recorded()
    helper = ScriptedChatModel(script=[AIMessage("SSO is in the business plan.")])

    @tool
    def read(url: str) -> str:
        """Reads a page."""
        create_agent(helper, []).invoke({"messages": [("user", url)]})
        return str(helper.invoke([HumanMessage(f"Sum up {url}.")]).content)

    config: Any = {"callbacks": [handler]}
    messages: list[Any] = [HumanMessage("Which plan has SSO?")]
    model = ScriptedChatModel(script=[call_tool("read", url="a"), DONE])
    messages.append(model.invoke(messages, config))
    messages.append(read.invoke(messages[-1].tool_calls[0], config))
    model.invoke(messages, config)
    assert [call.kind for call in recorder.seen] == ["model", "model", "model", "tool", "model"]
    assert len({call.session_id for call in recorder.seen}) == 1


@pytest.mark.parametrize("chains", [True, False])
def test_what_a_tool_that_runs_by_hand_asks_itself_belongs_where_the_tool_does(chains: bool) -> None:
    """Of `configurable` LangChain tells chains alone: neither tools run by hand, nor the models inside them."""
    recorder, handler = recorded()
    client = Wire()
    config: Any = {"callbacks": [handler, LangChainTracer(client=client)], "configurable": {"thread_id": "t"}}
    model = ScriptedChatModel(script=[call_tool("ask_model", q="q"), DONE])
    step: Any = RunnableLambda(lambda said: said) | model if chains else model
    messages: list[Any] = [HumanMessage("go")]
    while (answer := step.invoke(messages, config)).tool_calls:
        messages += [answer, *(ask_model.invoke({**call, "type": "tool_call"}, config) for call in answer.tool_calls)]
    again = replay_of(*(run for row in client.sent() if isinstance(run := run_from_row(row), Run)))
    assert again.known() == recorder.known()
    assert recorder.kinds() == ["model", "model", "tool", "model"]
    assert {call.session_id for call in recorder.seen} == {"t" if chains else recorder.seen[0].session_id}
