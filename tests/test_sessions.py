"""Many sessions at once: nothing missed, memory bounded, evictions by event time and counted."""

from __future__ import annotations

import gc
import multiprocessing
import random
import tracemalloc
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from histories import START
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage

from ts_langchain import Sentinel
from ts_langchain.call import Call, Image, Prompt, ToolCall, Usage
from ts_langchain.capture.memory import Memory
from ts_langchain.fingerprint import FreeText, arguments, text_hash
from ts_langchain.sentinel import MAX_SESSIONS

KB = 1024
TEXT = "a long note with many words in it, written by someone who had the time for it " * 25


def turn(session: str, number: int, at: float, args: object, answer: str, tool: str = "fetch") -> list[Call]:
    """A model turn and the tool call it asked for."""
    asked = f"{session}-m{number}"
    return [
        Call(
            asked, "model", session, session, "gpt-4o", at, at + 1, model="gpt-4o", provider="openai",
            usage=Usage(1000, 20), prompt=Prompt(number + 1, 7, number + 1, 4000), request=text_hash(asked),
            tool_calls=(ToolCall(f"{asked}-c", tool, 1),),
        ),
        Call(
            f"{session}-t{number}", "tool", session, session, tool, at + 1, at + 2, answer=text_hash(answer),
            answer_chars=len(answer), arguments=arguments(args), tool_call_id=f"{asked}-c", requested_by=asked,
        ),
    ]  # fmt: skip


def load_what_is_shared() -> None:
    """The price table, once for all: to load it takes long while memory is traced."""
    for call in turn("warm", 0, START, {}, "x"):
        Sentinel().observe(call)


def forget_shared(sentinel: Sentinel) -> None:
    """What rules remember across sessions is no session's; `duplicate_work` has a bound of its own."""
    for rule in sentinel.rules:
        if rule.shared is not None:
            rule.shared.clear()


def test_ten_thousand_interleaved_sessions_are_all_seen() -> None:
    sentinel = Sentinel()
    for number in range(3):
        for session in range(10_000):
            loops = session % 2 == 0
            for call in turn(f"s{session}", number, START + number * 20, {"url": "a" if loops else number}, "same"):
                sentinel.observe(call)
    found = {i.session_id for i in sentinel.incidents() if i.rule == "tool_loop" and i.severity == "high"}
    assert found == {f"s{n}" for n in range(0, 10_000, 2)}
    assert sentinel.health().ok


def test_memory_of_idle_and_active_sessions() -> None:
    sentinel, sessions, turns = Sentinel(), 2_000, 12
    observe = sentinel.observe
    load_what_is_shared()
    gc.collect()
    tracemalloc.start()
    for number in range(turns):
        for session in range(sessions):
            args = {"url": f"page {number}", "note": f"{number} {TEXT}"}
            for call in turn(f"s{session}", number, START + number * 20, args, f"answer {session} {number}"):
                observe(call)
    active = tracemalloc.get_traced_memory()[0] / sessions
    for number in range(sessions * 2):
        for call in turn("other", number, START + 5_000 + number, {"n": number}, str(number)):
            observe(call)
    forget_shared(sentinel)
    gc.collect()
    idle = tracemalloc.get_traced_memory()[0] / sessions
    tracemalloc.stop()
    assert sentinel.health().sessions == sessions + 1
    assert active <= 64 * KB, f"{active:,.0f} bytes"
    assert idle <= 6 * KB, f"{idle:,.0f} bytes"


def largest_sessions() -> list[int]:
    """Bytes of sessions of thousands of different calls, questions and incidents."""
    sizes = []
    load_what_is_shared()
    for tool in ("fetch", "search_docs") * 2:
        gc.collect()
        sentinel = Sentinel()
        sentinel._past = deque(maxlen=1)  # closed incidents have a cap of their own
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        session = sentinel.get("s")
        memory = Memory.of(session.state)
        for branch in range(6):
            messages: list[object] = [SystemMessage(f"role {branch}"), HumanMessage(f"{TEXT} {branch}")]
            messages += [ToolMessage(f"{n} {branch} {TEXT}", tool_call_id=f"c{n}") for n in range(100)]
            memory.conversation.read(messages)
        del messages
        for number in range(1_500):
            args = {"question": f"which of the many fine colours is it {chr(97 + number % 26)}", "n": number // 3}
            for call in turn("s", number, START + number, args, f"answer {number // 3}: {TEXT}", tool):
                if call.tool_calls:
                    memory.request(call)
                sentinel.observe(call)
        del args, call
        forget_shared(sentinel)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0] - before)
        tracemalloc.stop()
        assert sentinel.incidents(), tool
    return sizes[2:]  # the first ones also hold what is loaded once for all


def test_memory_after_thousands_of_different_calls() -> None:
    """In a process of its own: threads that other tests have left behind allocate, too."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        sizes = pool.submit(largest_sessions).result()
    assert max(sizes) <= 64 * KB, sizes


def anything(rng: random.Random, number: int, turns: int) -> list[Call]:
    """A model call and a tool call of one of several agents, with whatever rules keep."""
    asked, ran = (str(UUID(int=rng.getrandbits(128))) for _ in range(2))
    whose, at = rng.randrange(turns), START + number
    words = " ".join(rng.choices(["red", "blue", "house", "river", "table", "quick"], k=12))
    answer = f"answer {rng.randrange(6)} {TEXT[: rng.choice([10, 300, 2000])]}"
    name = rng.choice(
        ["fetch", "search_docs", "run_tests", "edit_file", "transfer_to_x", "enrich", "bash", "press_key"]
    )
    kind: Any = rng.choice(["tool", "tool", "tool", "retriever"])
    failed = rng.random() < 0.4
    images = tuple(Image(rng.getrandbits(60), high=True, tokens=500) for _ in range(2)) if rng.random() < 0.2 else ()
    place = {"turn": whose, "conversation": whose, "step": number // 2, "task": rng.randrange(3)}
    return [
        Call(
            asked, "model", "s", f"r{whose}", "gpt-4o", at, at + 1, rng.choice(["ok", "ok", "error"]), model="gpt-4o",
            provider="openai", usage=Usage(1000, 20), request=rng.randrange(12), answer=rng.getrandbits(60),
            prompt=Prompt(number, rng.randrange(6), number + 1, 4000 + number, images=images), answer_chars=200,
            tool_calls=(ToolCall(f"{asked}-c", name, 1),) if rng.random() < 0.8 else (), answer_text=FreeText(words),
            finish_reason=rng.choice(["stop", "length"]), around=whose, **place,
        ),
        Call(
            ran, kind, "s", f"r{whose}", name, at + 1, at + 2, "error" if failed else "ok", "Boom" if failed else None,
            answer=text_hash(answer), answer_chars=len(answer), tool_call_id=f"{asked}-c", requested_by=asked,
            arguments=arguments({"question": f"which of the many {words}", "n": rng.randrange(4)}),
            items=tuple(rng.sample(range(300), 30)) if kind == "retriever" else (), findings=rng.randrange(3), **place,
        ),
    ]  # fmt: skip


def fullest_session(turns: int) -> int:
    """The most bytes that a session takes in which agents do whatever rules keep, at random."""
    most = []
    load_what_is_shared()
    for calls in (100, 3_000):  # the first session also holds what is loaded once for all
        sentinel, rng = Sentinel(), random.Random(calls)
        sentinel._past = deque(maxlen=1)
        gc.collect()
        tracemalloc.start()
        memory = Memory.of(sentinel.get("s").state)
        sizes = []
        for number in range(calls):
            for call in anything(rng, number, turns):
                if call.tool_calls:
                    memory.request(call)
                sentinel.observe(call)
            if number % 300 == 99:
                forget_shared(sentinel)
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert sentinel.health().ok
        assert len(sentinel.incidents()) > 3
        most.append(max(sizes))
    return most[1]


@pytest.mark.parametrize("turns", [1, 4, 16])
def test_memory_where_every_buffer_is_full(turns: int) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        size = pool.submit(fullest_session, turns).result()
    assert 64 * KB < size <= 170 * KB, f"{size:,} bytes"


def test_what_is_evicted_is_the_oldest_in_event_time_and_counted() -> None:
    sentinel = Sentinel(max_sessions=50)
    for session in range(60):
        # the first ten are used last, with events from long ago
        at = START + (session if session >= 10 else session - 100_000)
        for call in turn(f"s{session}", 0, at, {}, "x"):
            sentinel.observe(call)
    health = sentinel.health()
    assert health.sessions == 50
    assert health.evicted_sessions == 10
    assert not health.ok
    assert all(sentinel.totals(f"s{n}") is None for n in range(10))


def test_incidents_of_evicted_sessions_are_kept() -> None:
    sentinel = Sentinel(max_sessions=2)
    for number in range(4):
        for call in turn("loop", number, START + number, {"url": "a"}, "same"):
            sentinel.observe(call)
    for session in range(10):
        for call in turn(f"s{session}", 0, START + 100 + session, {}, "x"):
            sentinel.observe(call)
    assert sentinel.totals("loop") is None
    assert [i.session_id for i in sentinel.incidents()] == ["loop"]


def test_the_stated_cap_holds() -> None:
    """What the docstring of `Sentinel` promises for its default."""
    assert MAX_SESSIONS * 6 * KB <= 125_000_000
