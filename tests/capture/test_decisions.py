"""Decision models (langchain-core 1.8): chains to their callbacks, billed calls all the same.

Where langchain-core is older, what stands in for one tells its callbacks, and LangSmith, the same in the same way.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, UsageMetadata
from langchain_core.runnables import RunnableLambda, RunnableSerializable
from langchain_core.runnables.config import ensure_config
from langchain_core.tracers import LangChainTracer
from langsmith.run_helpers import get_current_run_tree
from pydantic import BaseModel
from recorder import Recorder, Wire, recorded, replay_of

from ts_importers.langsmith_rows import run_from_row
from ts_langchain import CallRefused, Policy, Sentinel, TokenSentinelHandler
from ts_langchain.replay import Run
from ts_langchain.testing import ScriptedChatModel

if TYPE_CHECKING:
    from collections.abc import Callable

USAGE: UsageMetadata = {"input_tokens": 120, "output_tokens": 4, "total_tokens": 124}

try:
    from langchain_core.decisions import BaseDecisionModel, ClassifierResponse, Noul
except ImportError:

    class Noul(BaseModel):  # type: ignore[no-redef]
        """A question."""

        type: str = "noul"
        instructions: str

    class ClassifierResponse(BaseModel):  # type: ignore[no-redef]
        """Its answer."""

        model: str
        answers: dict[str, Any]
        usage: Any = None

    class BaseDecisionModel(RunnableSerializable[Any, Any]):  # type: ignore[no-redef]
        """Calls as langchain-core's does."""

        model: str

        def invoke(self, given: Any, config: Any = None, **_: Any) -> Any:
            return self._call_with_config(self._record, given, self._traced(config), run_type="llm")

        async def ainvoke(self, given: Any, config: Any = None, **_: Any) -> Any:
            return await self._acall_with_config(self._arecord, given, self._traced(config), run_type="llm")

        def _record(self, request: Any) -> Any:
            return self._kept(self._classify(request["state"], request["questions"]))

        async def _arecord(self, request: Any) -> Any:
            return self._kept(await self._aclassify(request["state"], request["questions"]))

        def _kept(self, response: Any) -> Any:
            if response.usage and (tree := get_current_run_tree()) is not None:
                tree.extra.setdefault("metadata", {})["usage_metadata"] = dict(response.usage)
            return response

        async def _aclassify(self, state: Any, questions: Any) -> Any:
            return await asyncio.to_thread(self._classify, state, questions)

        def _traced(self, config: Any) -> Any:
            config = ensure_config(config)
            about = {"ls_provider": self._provider, "ls_model_name": self.model, "ls_model_type": "chat"}
            config["metadata"] = {**(config.get("metadata") or {}), **about}
            return config


class Risk(BaseDecisionModel):
    """Says of everything that it is no risk."""

    model: str = "gpt-4o"
    counted: bool = True
    fails: bool = False
    asks: Any = None

    @property
    def _provider(self) -> str:
        return "openai"

    def _classify(self, state: Any, questions: Any) -> Any:
        if self.fails:
            msg = "429"
            raise TimeoutError(msg)
        if self.asks is not None:
            self.asks.invoke("how risky is this?")
        answers = {name: {"type": "noul", "noul": 0.1} for name in questions}
        return ClassifierResponse.model_validate(
            {"model": self.model, "answers": answers, "usage": USAGE if self.counted else None}
        )

    async def _aclassify(self, state: Any, questions: Any) -> Any:
        if self.fails:
            await asyncio.sleep(30)
        return self._classify(state, questions)


def request(text: str = "delete everything") -> dict[str, Any]:
    state = {
        "messages": [HumanMessage(text), AIMessage("Shall I?")],
        "tool_call": {"name": "rm", "args": {"path": "/"}},
    }
    return {"state": state, "questions": {"risky": Noul(instructions="Is it risky?")}}


def invoke(model: Any, given: Any, config: Any) -> Any:
    return model.invoke(given, config)


def ainvoke(model: Any, given: Any, config: Any) -> Any:
    return asyncio.run(model.ainvoke(given, config))


@pytest.mark.parametrize("call", [invoke, ainvoke])
def test_a_decision_is_a_model_call_live_and_from_history(call: Callable[..., Any]) -> None:
    recorder, handler = recorded()
    wire = Wire()
    chain = RunnableLambda(lambda given: given) | Risk()
    config = {"callbacks": [handler, LangChainTracer(client=wire)], "metadata": {"thread_id": "t"}}
    for _ in range(3):
        call(chain, request(), config)
    [first, *_] = recorder.seen
    assert recorder.kinds() == ["model"] * 3
    assert (first.model, first.provider, first.session_id, first.status) == ("gpt-4o", "openai", "t", "ok")
    assert (first.usage.input_tokens, first.usage.output_tokens, first.usage.estimated) == (120, 4, False)
    assert len({c.prompt.fingerprint for c in recorder.seen if c.prompt is not None}) == 1
    assert handler.pending() == {}
    replayed = replay_of(*(run for row in wire.sent() if isinstance(run := run_from_row(row), Run)))
    assert replayed.known() == recorder.known()
    call(Risk(), request("another"), config)
    assert recorder.seen[-1].prompt != first.prompt


def test_of_what_openai_decides_the_input_alone_is_billed() -> None:
    """The same model writes at five times that price, and langchain-openai counts the tokens of both alike."""
    recorder, handler = recorded()
    wire = Wire()
    Risk(model="gpt-6-luna").invoke(request(), {"callbacks": [handler, LangChainTracer(client=wire)]})
    [call] = recorder.seen
    assert (call.provider, call.tier) == ("openai", "decision")
    assert recorder.prices.cost(call) == (12_000, 0, "table")
    assert recorder.prices.cost(call._replace(tier=None)) == (12_000, 2_000, "table")
    replayed = replay_of(*(run for row in wire.sent() if isinstance(run := run_from_row(row), Run)))
    assert replayed.known() == recorder.known()


def test_what_is_no_text_tells_one_question_from_another() -> None:
    """Guards are asked of an answer that is all tool calls; boxes are looked for in images."""
    recorder, handler = recorded()
    config = {"callbacks": [handler, LangChainTracer(client=(wire := Wire()))]}
    images = (
        [{"type": "text", "text": "where?"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{d}"}}]
        for d in ("aGk=", "aG8=")
    )
    messages = [
        *(AIMessage("", tool_calls=[{"name": name, "args": {"path": "/"}, "id": "c"}]) for name in ("rm", "ls")),
        *map(HumanMessage, images),
    ]
    for message in messages:
        given = request()
        Risk().invoke({**given, "state": {"messages": [message]}}, config)
    assert len({c.prompt.fingerprint for c in recorder.seen if c.prompt is not None}) == 4
    replayed = replay_of(*(run for row in wire.sent() if isinstance(run := run_from_row(row), Run)))
    assert replayed.known() == recorder.known()


def test_one_that_fails_or_is_cancelled_has_come_to_an_end() -> None:
    recorder, handler = recorded()
    config = {"callbacks": [handler]}
    with pytest.raises(TimeoutError):
        Risk(fails=True).invoke(request(), config)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(Risk(fails=True).ainvoke(request(), config), 0.05))
    assert [seen.status for seen in recorder.seen] == ["error", "cancelled"]
    assert handler.pending() == {}
    assert recorder.health().ok


def test_what_it_asks_inside_is_the_same_call() -> None:
    """A decision model made of a chat model: one of the two is billed."""
    recorder, handler = recorded()
    used = AIMessage("no", usage_metadata={"input_tokens": 500, "output_tokens": 1, "total_tokens": 501})
    Risk(asks=ScriptedChatModel(script=[used])).invoke(request(), {"callbacks": [handler]})
    assert [c.usage.input_tokens for c in recorder.seen] == [500]


def test_a_budget_holds_it_back_before_it_is_billed() -> None:
    policy = Policy.from_dict({"version": 1, "budgets": [{"per": "session", "calls": 2, "do": "block"}]})
    handler = TokenSentinelHandler(Sentinel(policy=policy), mode="block")
    config = {"callbacks": [handler], "metadata": {"thread_id": "t"}}
    for _ in range(2):
        Risk().invoke(request(), config)
    with pytest.raises(CallRefused):
        Risk().invoke(request(), config)


def test_an_answer_that_cannot_be_read_is_billed_all_the_same() -> None:
    class Answer:
        @property
        def usage(self) -> Any:
            msg = "not there"
            raise RuntimeError(msg)

    class Odd(RunnableSerializable[Any, Any]):
        def invoke(self, asked: Any, config: Any = None, **_: Any) -> Any:
            return self._call_with_config(lambda _: Answer(), asked, config, run_type="llm")

    recorder, handler = recorded()
    Odd().invoke("x", {"callbacks": [handler]})
    assert recorder.kinds() == ["model"]
    assert handler.pending() == {}


@pytest.mark.parametrize(
    "given", [None, 7, "text", {"state": object(), "questions": {"q": object()}}, {"questions": 1}]
)
def test_any_input_and_answer(given: Any) -> None:
    """Whatever calls itself a model among runnables."""

    class Odd(RunnableSerializable[Any, Any]):
        def invoke(self, asked: Any, config: Any = None, **_: Any) -> Any:
            return self._call_with_config(lambda _: given, asked, config, run_type="llm")

    sentinel = Recorder()
    assert Odd().invoke(given, {"callbacks": [TokenSentinelHandler(sentinel)]}) is given
    assert sentinel.kinds() == ["model"]
    assert sentinel.health().ok
