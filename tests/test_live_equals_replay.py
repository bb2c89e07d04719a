"""One real agent run, seen by the handler and by LangChain's own tracer: the same incidents and numbers."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from agents import ASK, DONE, LOOP, agent, graph
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from recorder import Wire, recorded, replay_of
from scenes import SCENES

from ts_importers.files import FileImporter
from ts_importers.langsmith_rows import run_from_row
from ts_langchain import Sentinel, TokenSentinelHandler
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.replay import Replay, Run
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from pathlib import Path

SCRIPTS = {
    "loop": [LOOP] * 5 + [DONE],
    "progress": [*(call_tool("count_up", n=i) for i in range(5)), DONE],
    "two tools side by side": [
        AIMessage("", tool_calls=[*LOOP.tool_calls, *call_tool("count_up", n=1).tool_calls]),
        AIMessage("", tool_calls=[*LOOP.tool_calls, *call_tool("count_up", n=2).tool_calls]),
        AIMessage("", tool_calls=[*LOOP.tool_calls, *LOOP.tool_calls]),
        DONE,
    ],
    "loop, then progress, then loop": [LOOP, LOOP, LOOP, call_tool("count_up", n=1), LOOP, LOOP, DONE],
}


def figures(sentinel: Sentinel) -> list[dict[str, Any]]:
    """All of an incident but its times and the order of calls at once, which two observers stamp microseconds apart."""
    times = ("opened_at", "last_seen_at", "severe_at", "wasted_seconds")
    found = [{name: getattr(i, name) for name in type(i).__slots__ if name not in times} for i in sentinel.incidents()]
    return [
        {**i, "call_ids": sorted(i["call_ids"]), "evidence": {k: v for k, v in i["evidence"].items() if k != "seconds"}}
        for i in found
    ]


@pytest.mark.parametrize("thread", [None, "thread-1"])
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("build", [agent, graph])
def test_live_equals_replay(build: Any, script: str, thread: str | None) -> None:
    app, _ = build(SCRIPTS[script])
    handler, client = TokenSentinelHandler(), Wire()
    config: dict[str, Any] = {"callbacks": [handler, LangChainTracer(client=client)]}
    if thread:
        config["configurable"] = {"thread_id": thread}
    app.invoke(ASK, config)

    runs = [run for row in client.sent() if isinstance(run := run_from_row(row), Run)]
    runs.sort(key=lambda r: r.started_at)
    replayed = Sentinel()
    replay = Replay(replayed)
    for run in runs:
        replay.feed(run)
    replay.finish()

    assert figures(replayed) == figures(handler.sentinel)
    assert bool(replayed.incidents()) is (script != "progress")
    session = replayed.incidents()[0].session_id if replayed.incidents() else None
    if session is not None:
        assert replayed.totals(session) == handler.sentinel.totals(session)
    assert replayed.health().calls == handler.sentinel.health().calls
    assert replayed.health().ok
    assert replay.late == 0


def test_raw_rows_and_real_messages_through_a_callback_manager_agree() -> None:
    """The short way (recorded dicts straight into the hooks) sees what real messages would show."""
    from langchain_core.load import load
    from langchain_core.outputs import ChatGeneration, LLMResult

    app, _ = agent(SCRIPTS["loop"])
    client = Wire()
    app.invoke(ASK, {"callbacks": [LangChainTracer(client=client)]})
    rows = client.sent()
    runs = sorted((r for row in rows if isinstance(r := run_from_row(row), Run)), key=lambda r: r.started_at)
    short, long = Sentinel(), Sentinel()
    replay, real = Replay(short), Replay(long)
    for run in runs:
        replay.feed(run)
    replay.finish()
    for run in runs:
        if run.run_type == "llm":
            assert run.outputs is not None
            message = load(run.outputs["generations"][0][0]["message"], allowed_objects="messages")  # type: ignore[index]
            run.outputs = {"generations": None}
            run.inputs = {"messages": [load(m, allowed_objects="messages") for m in run.inputs["messages"][0]]}  # type: ignore[index]
            run.outputs = LLMResult(generations=[[ChatGeneration(message=message)]])  # type: ignore[assignment]
        real.feed(run)
    real.finish()
    assert short.incidents()
    assert figures(short) == figures(long)
    assert short.health().ok
    assert long.health().ok


ALONGSIDE = ("a batch", "completions in a batch", "agents side by side")  # threads, whose order two observers see apart
THREADED = ("a human's approval", "fallbacks")  # need a thread; LangChain does not tell its tracer of it


@pytest.mark.parametrize("seed", range(10))
def test_scenes_of_a_day(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of all kinds one after the other, in threads they share or in none: replayed, and imported in any order."""
    rng = random.Random(seed)
    live, handler = recorded()
    client = Wire()
    for scene in rng.sample(sorted({*SCENES} - {*ALONGSIDE, *THREADED}), 7):
        config: dict[str, Any] = {"callbacks": [handler, LangChainTracer(client=client)]}
        place = rng.choice(["nowhere", "metadata", "configurable"])
        if place != "nowhere":
            config[place] = {"thread_id": rng.choice(["thread-1", "thread-2"]), "user_id": "ada"}
        for _ in range(rng.choice([1, 2, 4])):
            with suppress(ValueError, ConnectionError, RuntimeError):
                SCENES[scene](config)

    rows = client.sent()
    again = replay_of(*(run for row in rows if isinstance(run := run_from_row(row), Run)))
    assert again.known() == live.known()
    assert figures(again) == figures(live)
    assert {s.id: s.totals for s in again.states()} == {s.id: s.totals for s in live.states()}
    assert live.health().ok

    rng.shuffle(rows)
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", rng.choice([1, 7]))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    history = Import(FileImporter(path), ledger, checkpoint_runs=rng.choice([1, 20]), sessions_in_memory=2).run()
    imported = sorted((i.id, i.wasted_nano, i.avoidable_nano, i.overlaps) for i in ledger.incidents(history))
    assert imported == sorted((i.id, i.wasted_nano, i.avoidable_nano, i.overlaps) for i in live.incidents())
    assert sorted(call.id for call in ledger.calls(history)) == sorted(call.id for call in live.seen)


@pytest.mark.parametrize("place", ["metadata", "configurable", "session"])
def test_ids_and_tags_of_any_length(place: str, tmp_path: Path) -> None:
    """They are kept short, and two that differ in the middle stay two, live, replayed and imported."""
    live, handler = recorded()
    client = Wire()
    many = [f"{n}" for n in range(1_000)]
    for n in range(3):
        config: dict[str, Any] = {"callbacks": [handler, LangChainTracer(client=client)], "tags": ["t" * 70_000, *many]}
        ids = {key: "x" * 200_000 + str(n) + "y" * 200_000 for key in ("thread_id", "user_id")}
        if place != "session":
            config[place] = ids
            agent([*[LOOP] * 4, DONE])[0].invoke(ASK, config)
            continue
        with live.session(ids["thread_id"], user_id=ids["user_id"], tags=config.pop("tags")):
            agent([*[LOOP] * 4, DONE])[0].invoke(ASK, {**config, "metadata": {k: v + "z" for k, v in ids.items()}})
    assert live.health().ok
    states = {s.id: s.totals for s in live.states()}
    assert len(states) == len(live.incidents()) == 3
    assert all(len(i) <= 300 for i in states)
    assert len({c.user_id for c in live.seen}) == 3
    assert all(len(c.user_id or "") <= 200 for c in live.seen)
    assert all(len(c.tags) <= 101 and max(map(len, c.tags)) <= 200 for c in live.seen)
    if place == "session":  # a tracer is not told of it
        assert [i.id for i in live.incidents(ids["thread_id"])]
        assert live.totals(ids["thread_id"]) is not None
        return
    rows = client.sent()
    again = replay_of(*(run for row in rows if isinstance(run := run_from_row(row), Run)))
    assert {s.id: s.totals for s in again.states()} == states
    assert figures(again) == figures(live)
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    history = Import(FileImporter(path), ledger).run()
    assert sorted(c.session_id for c in ledger.calls(history)) == sorted(c.session_id for c in live.seen)
    assert sorted(i.id for i in ledger.incidents(history)) == sorted(i.id for i in live.incidents())
    assert ledger.sessions(history, states).keys() == states.keys()
    assert (tmp_path / "ledger.sqlite").stat().st_size < 1_000_000


def test_rows_whose_own_ids_are_of_any_length() -> None:
    """Without a conversation they are of their trace, whose name is kept of each call."""
    client = Wire()
    agent([*[LOOP] * 4, DONE])[0].invoke(ASK, {"callbacks": [LangChainTracer(client=client)]})
    rows = client.sent()
    plain = replay_of(*(run for row in rows if isinstance(run := run_from_row(row), Run)))
    for row in rows:
        for key in ("id", "trace_id", "parent_run_id"):
            row[key] = str(row[key]) * 10_000 if row.get(key) else None
    long = replay_of(*(run for row in rows if isinstance(run := run_from_row(row), Run)))
    assert [(i.rule, i.calls, i.wasted_nano) for i in long.incidents()] == [
        (i.rule, i.calls, i.wasted_nano) for i in plain.incidents()
    ]
    assert long.incidents()
    assert all(len(i) <= 300 for c in long.seen for i in (c.id, c.root_id, c.session_id))


def test_what_waits_for_a_human_while_its_session_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a tool has waited is known after a checkpoint, too: what a human allows each time is no loop."""

    @tool
    def pay(to: str) -> str:
        """Pays."""
        return f"paid: {interrupt('May I?')}"

    live, handler = recorded()
    client = Wire()
    app = create_agent(
        ScriptedChatModel(script=[*[call_tool("pay", to="acme")] * 3, AIMessage("done")]),
        [pay],
        checkpointer=InMemorySaver(),
    )
    for n in range(4):
        config: Any = {"callbacks": [handler, LangChainTracer(client=client)], "configurable": {"thread_id": "t"}}
        app.invoke(Command(resume="yes") if n else {"messages": [("user", "Pay three bills.")]}, config)
        # another session, so that this one is stored
        ScriptedChatModel(script=["no"]).invoke(f"{n}?", {**config, "configurable": {"thread_id": str(n)}})
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", 1)
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in client.sent()))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    history = Import(FileImporter(path), ledger, checkpoint_runs=1, sessions_in_memory=1).run()
    assert [c.pending for c in ledger.calls(history) if c.kind == "tool"] == [True] * 3
    assert (live.incidents(), list(ledger.incidents(history))) == ([], [])
