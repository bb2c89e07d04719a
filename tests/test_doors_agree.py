"""What the handler reads of a run live, and what it reads of LangChain's own trace of it: every field of every call.

`test_live_equals_replay.py` compares incidents of agents; here it is what all rules stand on, over the shapes that
LangChain has: streams, batches, blocks, failures, interrupts, sub-agents, caches.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.tracers.langchain import LangChainTracer
from recorder import Recorder, Wire, recorded, replay_of
from scenes import SCENES, Config, model

from ts_importers.langsmith_rows import run_from_row
from ts_langchain import TokenSentinelHandler
from ts_langchain.replay import Run


@pytest.mark.parametrize("named_by", ["nothing", "metadata", "configurable"])
@pytest.mark.parametrize("scene", SCENES)
def test_live_and_traced_are_read_alike(scene: str, named_by: str) -> None:
    if scene == "a human's approval" and named_by != "configurable":
        pytest.skip("an interrupt needs a thread")
    if scene == "fallbacks" and named_by == "configurable":
        pytest.skip("LangChain does not tell its tracer of it; the next test does it live")
    client = Wire()
    live, handler = recorded()
    config: Config = {"callbacks": [handler, LangChainTracer(client=client)]}
    if named_by != "nothing":
        config[named_by] = {"thread_id": "thread-1", "user_id": "ada"}
    with suppress(ValueError, ConnectionError, RuntimeError):
        SCENES[scene](config)

    imported = replay_of(*(run for row in client.sent() if isinstance(run := run_from_row(row), Run)))
    assert live.seen
    if named_by == "metadata" and scene not in ("two prompts at once", "tags, a name and a user"):  # not handed on
        assert {call.session_id for call in live.seen} == {"thread-1"}
        assert {call.user_id for call in live.seen} == {"ada"}
    assert imported.known() == live.known()
    assert live.health().ok


@pytest.mark.parametrize("scene", ["fallbacks", "retries", "a prompt and a model", "an agent that streams"])
def test_the_thread_is_read_from_configurable(scene: str) -> None:
    """LangGraph copies it into the metadata; of other runnables LangChain tells nobody but its own tracer."""
    recorder, handler = recorded()
    SCENES[scene]({"callbacks": [handler], "configurable": {"thread_id": "thread-1", "user_id": "ada"}})
    assert {(call.session_id, call.user_id) for call in recorder.seen} == {("thread-1", "ada")}
    recorder.seen.clear()
    SCENES[scene]({"callbacks": [handler]})
    assert "thread-1" not in {call.session_id for call in recorder.seen}


def test_a_chat_with_a_message_history_is_one_session() -> None:
    from langchain_core.chat_history import InMemoryChatMessageHistory
    from langchain_core.runnables.history import RunnableWithMessageHistory

    histories: dict[str, InMemoryChatMessageHistory] = {}
    recorder, handler = recorded()
    chat = RunnableWithMessageHistory(
        model("hi"), lambda session_id: histories.setdefault(session_id, InMemoryChatMessageHistory())
    )
    for number in range(6):
        chat.invoke("and now?", {"callbacks": [handler], "configurable": {"session_id": f"chat-{number % 2}"}})
    assert [call.session_id for call in recorder.seen] == ["chat-0", "chat-1"] * 3
    assert recorder.seen[-1].prompt is not None
    assert recorder.seen[-1].prompt.messages == 5


def test_what_a_cache_of_responses_answers_costs_nothing() -> None:
    recorder = Recorder(rules=["duplicate_work"], settings={"duplicate_work.min_tokens": 1})
    cached = model("It is on its way.", cache=InMemoryCache())
    for number in range(5):
        config: Config = {"callbacks": [TokenSentinelHandler(recorder)], "metadata": {"thread_id": f"t{number}"}}
        cached.invoke("Where is my order, please? " * 50, config)
    assert cached.calls == 1
    costs = [recorder.prices.cost(call) for call in recorder.seen]
    assert [call.usage.total_tokens > 0 for call in recorder.seen] == [True, False, False, False, False]
    assert [cost is not None and cost.nano > 0 for cost in costs] == [True, False, False, False, False]
    assert None not in costs
    assert recorder.incidents() == []
