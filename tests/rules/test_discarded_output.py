"""Answers that the app throws away and pays for again: real chains and graphs, seen live and replayed."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from histories import START as BEGIN
from histories import Script
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from recorder import Wire, replay_of
from typer.testing import CliRunner

from ts_importers.files import FileImporter
from ts_importers.langsmith_rows import run_from_row
from ts_langchain import Sentinel, TokenSentinelHandler, WasteBlocked
from ts_langchain.call import Lost
from ts_langchain.capture.in_flight import Answered, InFlight
from ts_langchain.capture.memory import Memory
from ts_langchain.cli.app import app
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.replay import Run
from ts_langchain.testing import ScriptedChatModel

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from langchain_core.documents import Document
    from langchain_core.runnables import Runnable

pytestmark = pytest.mark.usefixtures("calm_collector")

PROMPT = ChatPromptTemplate.from_messages([("system", "Answer with JSON only."), ("human", "Who is it? {text}")])
GOOD = '{"name": "Anna", "age": 30}'


def words(count: int) -> list[AIMessage]:
    """So many answers that are no JSON, each in other words."""
    usage: Any = {"input_tokens": 800, "output_tokens": 60, "total_tokens": 860}
    return [AIMessage(f"Sure, number {n}: Anna, thirty years old.", usage_metadata=usage) for n in range(count)]


def chain(script: Iterable[Any], attempts: int = 3) -> Runnable[Any, Any]:
    """Prompt, model and parser, tried again as `with_retry` does by default, without its pauses."""
    model = ScriptedChatModel(script=[*script])
    return (PROMPT | model | JsonOutputParser()).with_retry(stop_after_attempt=attempts, wait_exponential_jitter=False)


def told(sentinel: Sentinel) -> list[tuple[str, str, int, int]]:
    """Incidents of the rule: severity, calls, wasted tokens."""
    found = [i for i in sentinel.incidents() if i.rule == "discarded_output"]
    return [(i.rule, i.severity, i.calls, i.wasted_tokens) for i in found]


def replayed(client: Wire) -> Sentinel:
    """What LangChain's tracer recorded, replayed."""
    return replay_of(*(run for row in client.sent() if isinstance(run := run_from_row(row), Run)))


def ask(app: Runnable[Any, Any], *callbacks: Any, **config: Any) -> Any:
    return app.invoke({"text": "Anna turned thirty in May."}, {"callbacks": [*callbacks], **config})


@pytest.mark.parametrize(
    ("rejected", "attempts", "severity"), [(1, 3, "low"), (2, 3, "low"), (3, 4, "medium"), (5, 6, "medium")]
)
def test_a_parser_rejects_and_with_retry_asks_again(rejected: int, attempts: int, severity: str) -> None:
    handler, client = TokenSentinelHandler(), Wire()
    assert ask(chain([*words(rejected), GOOD], attempts), handler, LangChainTracer(client=client))["age"] == 30
    assert told(handler.sentinel) == [("discarded_output", severity, rejected, 860 * rejected)]
    assert told(replayed(client)) == told(handler.sentinel)
    [incident] = handler.sentinel.incidents()
    assert incident.evidence == {
        "model": "gpt-4o-2024-08-06",
        "answers": rejected,
        "in_a_row": rejected,
        "error": "OutputParserException",
    }


def test_the_last_answer_is_not_paid_again() -> None:
    handler = TokenSentinelHandler()
    with pytest.raises(Exception, match="Invalid json"):
        ask(chain(words(3)), handler)
    assert told(handler.sentinel) == [("discarded_output", "low", 2, 1720)]


async def test_in_a_batch_and_async() -> None:
    handler = TokenSentinelHandler()
    script = [answer for n in range(4) for answer in (words(1)[0], GOOD)]
    app = chain(script)
    for text in ("a", "b"):
        await app.ainvoke({"text": text}, {"callbacks": [handler], "metadata": {"thread_id": "rows"}})
    app.batch([{"text": "c"}], {"callbacks": [handler], "metadata": {"thread_id": "rows"}})
    assert told(handler.sentinel) == [("discarded_output", "medium", 3, 3 * 860)]


def test_block_vetoes_this_request_and_no_other() -> None:
    handler, model = TokenSentinelHandler(mode="block"), ScriptedChatModel(script=[*words(20)])
    app = (PROMPT | model | JsonOutputParser()).with_retry(
        stop_after_attempt=20, wait_exponential_jitter=False, retry_if_exception_type=(ValueError,)
    )
    config: Any = {"callbacks": [handler], "configurable": {"thread_id": "t"}}
    with pytest.raises(WasteBlocked, match="discarded_output"):
        app.invoke({"text": "Anna"}, config)
    assert model.calls == 7  # the seventh asks again for what had been lost six times
    with pytest.raises(Exception, match="Invalid json"):
        (PROMPT | model | JsonOutputParser()).invoke({"text": "Berta"}, config)
    assert model.calls == 8


def test_a_node_is_retried_for_what_comes_behind_its_model() -> None:
    fails = iter([ConnectionError("store is down"), ConnectionError("store is down"), None])
    model = ScriptedChatModel(script=words(9))

    def answer(state: MessagesState) -> dict[str, Any]:
        said = model.invoke(state["messages"])
        if (error := next(fails)) is not None:
            raise error
        return {"messages": [said]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer, retry_policy=RetryPolicy(initial_interval=0, jitter=False))
    graph.add_edge(START, "answer")
    handler, client = TokenSentinelHandler(), Wire()
    tracer = LangChainTracer(client=client)
    graph.compile().invoke({"messages": [("user", "Who is it?")]}, {"callbacks": [handler, tracer]})
    assert told(handler.sentinel) == [("discarded_output", "low", 2, 1720)]
    assert told(replayed(client)) == told(handler.sentinel)


def test_an_interrupt_behind_a_model_is_no_failure() -> None:
    model = ScriptedChatModel(script=words(9))

    def answer(state: MessagesState) -> dict[str, Any]:
        said = model.invoke(state["messages"])
        interrupt("May it be sent?")
        return {"messages": [said]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    handler, client = TokenSentinelHandler(), Wire()
    app = graph.compile(checkpointer=InMemorySaver())
    config: Any = {"callbacks": [handler, LangChainTracer(client=client)], "configurable": {"thread_id": "t"}}
    app.invoke({"messages": [("user", "Who is it?")]}, config)
    app.invoke(Command(resume="yes"), config)
    assert model.calls == 2
    assert told(handler.sentinel) == told(replayed(client)) == []


def test_samples_are_meant() -> None:
    """The same request several times in one run, and each answer is used."""
    model = ScriptedChatModel(script=words(5))
    one = PROMPT | model
    handler = TokenSentinelHandler()
    ask(RunnableLambda(lambda given: [one.invoke(given).content for _ in range(5)]), handler)
    assert (model.calls, told(handler.sentinel)) == (5, [])


def test_the_error_in_the_prompt_is_another_request() -> None:
    model, numbers = ScriptedChatModel(script=words(4)), itertools.count()
    handler = TokenSentinelHandler()
    changing = RunnableLambda(lambda _: {"text": f"try {next(numbers)}"}) | PROMPT | model | JsonOutputParser()
    with pytest.raises(Exception, match="Invalid json"):
        changing.with_retry(stop_after_attempt=4, wait_exponential_jitter=False).invoke({}, {"callbacks": [handler]})
    assert (model.calls, told(handler.sentinel)) == (4, [])


def test_a_model_that_fails_has_lost_no_answer() -> None:
    handler = TokenSentinelHandler()
    assert ask(chain([TimeoutError("slow"), TimeoutError("slow"), GOOD]), handler)["age"] == 30
    assert told(handler.sentinel) == []


def test_what_is_sent_again_for_nothing_is_no_waste() -> None:
    """A cache answers, or the provider fails: the answer that was lost is not paid anew until it has one."""
    model = ScriptedChatModel(script=words(3), cache=InMemoryCache())
    handler, client = TokenSentinelHandler(), Wire()
    app = (PROMPT | model | JsonOutputParser()).with_retry(wait_exponential_jitter=False)
    with pytest.raises(Exception, match="Invalid json"):
        ask(app, handler, LangChainTracer(client=client))
    assert (model.calls, told(handler.sentinel), told(replayed(client))) == (1, [], [])
    for script, found in (
        ([words(1)[0], TimeoutError("slow"), TimeoutError("slow")], []),
        ([words(1)[0], TimeoutError("slow"), GOOD], [("discarded_output", "low", 1, 860)]),
    ):
        handler, client = TokenSentinelHandler(), Wire()
        with contextlib.suppress(TimeoutError):
            ask(chain(script), handler, LangChainTracer(client=client))
        assert told(handler.sentinel) == told(replayed(client)) == found


def test_a_day_later_it_is_another_try() -> None:
    now = [1_790_000_000.0]
    handler = TokenSentinelHandler(clock=lambda: now[0])
    app = chain(words(9), attempts=1)
    for _ in range(3):
        with pytest.raises(Exception, match="Invalid json"):
            ask(app, handler, configurable={"thread_id": "daily"})
        now[0] += 86_400
    assert told(handler.sentinel) == []


def test_a_tool_that_asks_a_model_and_fails_behind_it() -> None:
    model = ScriptedChatModel(script=[*words(2), GOOD])

    @tool
    def extract(text: str) -> str:
        """Extracts."""
        said = str(model.invoke(text).content)
        if said != GOOD:
            raise ValueError(said)
        return said

    handler, client = TokenSentinelHandler(), Wire()
    callbacks = [handler, LangChainTracer(client=client)]
    config: Any = {"callbacks": callbacks, "metadata": {"thread_id": "t"}}
    assert extract.with_retry(wait_exponential_jitter=False).invoke({"text": "Anna"}, config) == GOOD
    assert told(handler.sentinel) == [("discarded_output", "low", 2, 1720)]
    assert told(replayed(client)) == told(handler.sentinel)


def test_a_chain_that_takes_no_time_fails_behind_what_is_in_it() -> None:
    """Sources that round times to the second; whatever else begins at the same moment."""
    at: dict[str, Any] = {"trace_id": "t", "started_at": 5.0, "ended_at": 5.0}
    asked = {"messages": [{"role": "user", "content": "Who is it? JSON!"}]}
    said = {"message": {"role": "assistant", "content": "Anna, thirty."}}
    sentinel = replay_of(
        Run("before", "llm", "M", **at, inputs=asked, error="Boom('x')"),
        Run("chain", "chain", "RunnableSequence", **at, error="OutputParserException('no')"),
        Run("m1", "llm", "M", **at, inputs=asked, outputs=said, parent_id="chain"),
        Run("m2", "llm", "M", 6.0, 7.0, "t", inputs=asked, outputs=said),
    )
    assert [(severity, calls) for _, severity, calls, _ in told(sentinel)] == [("low", 1)]


def test_nothing_stays_of_what_a_retriever_asked() -> None:
    model = ScriptedChatModel(script=words(4))

    class Expanding(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            model.invoke(query, {"callbacks": run_manager.get_child()})
            if query == "fails":
                raise ValueError(query)
            return []

    handler = TokenSentinelHandler()
    for query in ("works", "fails"):
        with contextlib.suppress(ValueError):
            Expanding().invoke(query, {"callbacks": [handler]})
    assert model.calls == 2
    assert not handler.sentinel.in_flight.answered


def test_a_history_keeps_no_answers_but_those_that_will_be_lost() -> None:
    """It tells nothing of chains that end well: however many there are, those that fail are not forgotten for them."""
    said = {"message": {"role": "assistant", "content": "Anna, thirty."}}

    def asks(number: int, at: float, above: str) -> Run:
        asked = {"messages": [{"role": "user", "content": f"Who is number {number}? JSON!"}]}
        return Run(f"m{at}", "llm", "M", at, at + 0.5, f"t{min(number, 1)}", above, inputs=asked, outputs=said)

    sentinel = replay_of(
        Run("chain", "chain", "RunnableSequence", 0.0, 2_100.0, "t0", error="OutputParserException('no')"),
        asks(0, 1.0, "chain"),
        *(asks(n, float(n), f"chain {n}") for n in range(2, 2_050)),
        asks(0, 2_101.0, "another"),
    )
    assert [(severity, calls) for _, severity, calls, _ in told(sentinel)] == [("low", 1)]
    assert not sentinel.in_flight.answered


def test_what_breaks_here_costs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool's failure and the model's second answer are recorded all the same."""

    def broken(*_: Any) -> None:
        msg = "no room"
        raise MemoryError(msg)

    monkeypatch.setattr(Memory, "lose", broken)
    model = ScriptedChatModel(script=[*words(1), GOOD])

    @tool
    def extract(text: str) -> str:
        """Extracts."""
        said = str(model.invoke(text).content)
        if said != GOOD:
            raise ValueError(said)
        return said

    handler = TokenSentinelHandler()
    config: Any = {"callbacks": [handler], "metadata": {"thread_id": "t"}}
    assert extract.with_retry(wait_exponential_jitter=False).invoke({"text": "Anna"}, config) == GOOD
    health = handler.sentinel.health()
    assert (health.calls, dict(health.faults)) == (4, {"handler: lost answer: MemoryError": 1})
    assert handler.pending() == {}


def test_another_request_of_the_same_run_goes_on() -> None:
    """It is the request that is vetoed, and not the run."""
    handler, model = TokenSentinelHandler(mode="block"), ScriptedChatModel(script=words(20))
    lossy = (PROMPT | model | JsonOutputParser()).with_retry(
        stop_after_attempt=20, wait_exponential_jitter=False, retry_if_exception_type=(ValueError,)
    )

    def both(given: dict[str, str]) -> str:
        with pytest.raises(WasteBlocked):
            lossy.invoke(given)
        return str((PROMPT | model).invoke({"text": "Berta"}).content)

    assert ask(RunnableLambda(both), handler) == words(8)[-1].content
    assert model.calls == 8


def lost_at(*moments: float) -> list[tuple[str, int]]:
    """One request, and an answer to it that was lost at each of these times."""
    script = Script().say("no JSON", request=5)
    for moment in moments:
        script.at = moment
        lost = Lost(script.calls[-1].id, "ValueError", BEGIN + moment - 1, 1.0)
        script.say(f"no JSON at {moment}", request=5, lost=lost)
    found = script.run(rules=["discarded_output"]).incidents()
    return [(i.severity, int(str(i.evidence["in_a_row"]))) for i in found]


def test_what_was_lost_long_ago_counts_no_more() -> None:
    assert lost_at(10, 20) == [("low", 2)]
    assert lost_at(10, 20, 621) == [("low", 1)]  # neither in a row nor in the session
    assert lost_at(10, 20, 619) == [("medium", 3)]


def test_answers_that_nobody_comes_back_for_are_forgotten() -> None:
    memory, flight = Memory(), InFlight()
    for n in range(5_000):
        memory.lose(n, Lost(str(n), "ValueError", 1.0, 1.0))
        flight.answer(f"run {n}", Answered("s", n, str(n), 1.0))
        flight.answer("one run", Answered("s", n, str(n), 1.0))
    assert memory.lost is not None
    assert (len(memory.lost), len(flight.answered), len(flight.answered["one run"])) == (16, 2_000, 8)
    assert (memory.send_again(0), memory.send_again(4_999)) == (None, Lost("4999", "ValueError", 1.0, 1.0))
    memory.shrink()
    assert memory.send_again(4_998) is None


def test_chains_that_failed_are_no_calls(tmp_path: Path) -> None:
    client, path = Wire(), tmp_path / "runs.jsonl"
    ask(chain([*words(1), GOOD]), LangChainTracer(client=client))
    rows = client.sent()
    path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    history = Import(FileImporter(path), ledger).run()
    ledger.close()
    assert (history.runs, history.ignored, history.skipped) == (2, len(rows) - 2, 0)
    looked = CliRunner().invoke(app, ["import", "file", str(path), "--dry-run", "--json"])
    found = json.loads(looked.stdout)["first_page"]
    assert (found["calls"], found["no_calls"]) == ({"llm": 2}, len(rows) - 2)
