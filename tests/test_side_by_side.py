"""Agents side by side in one session: what is found of each does not depend on how their calls interleave."""

from __future__ import annotations

import asyncio
import itertools
import random
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
from agents import ASK, DONE
from histories import START
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_core.tracers.langchain import LangChainTracer
from recorder import Wire, recorded, replay_of

from ts_importers.langsmith_rows import run_from_row
from ts_langchain import Sentinel
from ts_langchain.call import Call, Prompt, ToolCall, Usage
from ts_langchain.fingerprint import arguments, mix, text_hash
from ts_langchain.replay import Run
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Sequence

Step = tuple[str, object, str, Any]
"""A tool call: its name, what it was given, what came back, and how it went."""

PAGE: Step = ("fetch_page", {"url": "a"}, "the same page, as ever", "ok")
OTHER: Step = ("get_order", {"id": 7}, "on its way", "ok")


def steps(agent: str, script: Sequence[Step], rng: random.Random) -> list[Call]:
    """What one agent does: each tool call asked for by a model, once the one before has been answered."""
    turn, calls, at = text_hash(agent), [], START + rng.random()
    for number, (name, given, answer, status) in enumerate(script):
        asked, step = f"{agent}-m{number}", mix(turn, number)
        thought, done = at + rng.uniform(0.1, 2), at + rng.uniform(2.1, 4)
        place = {"turn": turn, "conversation": turn, "step": step, "task": 1}
        calls.append(
            Call(
                asked, "model", "s", "r", "gpt-4o", at, thought, model="gpt-4o", provider="openai",
                usage=Usage(1000, 20), prompt=Prompt(step, turn, number + 1, 4000), request=step, answer=step,
                tool_calls=(ToolCall(f"{asked}-c", name, number),), around=turn, **place,
            )
        )  # fmt: skip
        calls.append(
            Call(
                f"{agent}-t{number}", "tool", "s", "r", name, thought, done, status,
                "Boom" if status == "error" else None, answer=text_hash(answer), answer_chars=len(answer),
                arguments=arguments(given), tool_call_id=f"{asked}-c", requested_by=asked, **place,
            )
        )  # fmt: skip
        at = done
    return calls


def severe(calls: list[Call], **kwargs: Any) -> dict[str, tuple[str, float]]:
    """Which rules find something worth mending or stopping for, how severe, and when it first was."""
    sentinel, found = Sentinel(**kwargs), {}
    for call in sorted(calls, key=lambda c: c.ended_at):
        sentinel.observe(call)
        for incident in sentinel.incidents():
            if incident.severity != "low" and found.get(incident.rule, ("",))[0] != incident.severity:
                found[incident.rule] = (incident.severity, call.ended_at)
    assert sentinel.health().ok
    return found


def first(of: list[dict[str, tuple[str, float]]]) -> dict[str, tuple[str, float]]:
    """The same for several agents: of each rule the most severe, and when that first was."""
    rank = {"medium": 1, "high": 0}
    return {
        rule: min((found[rule] for found in of if rule in found), key=lambda f: (rank[f[0]], f[1]))
        for rule in {rule for found in of for rule in found}
    }


ALIKE: dict[str, list[list[Step]]] = {
    "both in the same loop": [[PAGE] * 5] * 2,
    "four in the same loop": [[PAGE] * 5] * 4,
    "each is told something else": [[("get_notes", {}, f"the notes of agent {n}", "ok")] * 5 for n in range(3)],
    "one loops, others read": [
        [PAGE] * 5,
        *([("read_file", {"path": f"{n}/{i}.py"}, f"file {n} {i}", "ok") for i in range(9)] for n in range(3)),
    ],
    "one presses the same button, another reads": [
        [("click", {"id": "next"}, "clicked on the button with the id next", "ok")] * 7,
        [("read_file", {"path": f"{i}.py"}, f"file {i}", "ok") for i in range(9)],
    ],
    "both get on with the same, and look at the clock in between": [
        list(
            itertools.chain.from_iterable(
                (PAGE, ("read_file", {"path": f"{i}.py"}, f"file {i}", "ok")) for i in range(5)
            )
        )
    ]
    * 2,
}

FAILS: Step = ("fetch_url", {"url": "a"}, "boom", "error")

ALIKE |= {
    "both fail alike": [[FAILS] * 5] * 2,
    "each fails in its own way": [[("fetch_url", {"url": "a"}, f"boom {n}", "error")] * 5 for n in range(3)],
    "the tool fails one of them alone": [
        [FAILS] * 5,
        [("fetch_url", {"url": "b"}, f"page {n}", "ok") for n in range(9)],
    ],
    "one looks for something else each time and fails": [
        [("fetch_url", {"url": f"{n}"}, "boom", "error") for n in range(7)],
        [("read_file", {"path": f"{n}.py"}, f"file {n}", "ok") for n in range(9)],
    ],
    "nothing works for one of them": [
        [("fetch_url", {"url": f"{n}"}, f"boom {n}", "error") for n in range(10)],
        [("read_file", {"path": f"{n}.py"}, f"file {n}", "ok") for n in range(9)],
    ],
    "loops of two looks each": [[OTHER, PAGE] * 5] * 3,
    "circles of their own": [[OTHER, PAGE] * 4, [PAGE, ("list_users", {}, "ada, bob", "ok")] * 4],
    "one runs in a circle, others read": [
        [OTHER, PAGE] * 4,
        *([("read_file", {"path": f"{n}/{i}.py"}, f"file {n} {i}", "ok") for i in range(9)] for n in range(3)),
    ],
    "both look for something else each time and find nothing": [
        [(f"find_{name}", {"id": f"{name} {n}"}, "none", "ok") for n in range(3)] for name in ("user", "order")
    ],
    "each fails once": [[FAILS, OTHER]] * 5,
}


@pytest.mark.parametrize("case", ALIKE)
def test_what_is_found_of_each_agent_alone_is_found_of_all_side_by_side(case: str) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        agents = [steps(f"agent {n}", script, rng) for n, script in enumerate(ALIKE[case])]
        alone = first([severe(calls) for calls in agents])
        assert severe([call for calls in agents for call in calls]) == alone, seed


def test_tasks_of_one_superstep_that_loop_side_by_side() -> None:
    """Workers of one turn, each with a loop written by hand in its node."""
    for seed in range(20):
        rng = random.Random(seed)
        tasks = [
            [call._replace(turn=7, conversation=7, step=9, task=n) for call in steps(f"task {n}", [PAGE] * 5, rng)]
            for n in range(3)
        ]
        alone = first([severe(calls, rules=["tool_loop"]) for calls in tasks])
        assert alone["tool_loop"][0] == "high"
        assert severe([call for calls in tasks for call in calls], rules=["tool_loop"]) == alone, seed


def at_once(script: Sequence[Sequence[Step]], rng: random.Random) -> list[Call]:
    """What one agent does that asks for several tool calls at a time, which end in any order."""
    calls, at = [], START
    for number, together in enumerate(script):
        turn = steps("agent", [PAGE], rng)[0].turn
        asked, thought = f"m{number}", at + 1
        names = tuple(ToolCall(f"{asked}-c{n}", step[0], n) for n, step in enumerate(together))
        place = {"turn": turn, "conversation": turn, "step": mix(turn, number)}
        calls.append(
            Call(
                asked, "model", "s", "r", "gpt-4o", at, thought, model="gpt-4o", provider="openai",
                usage=Usage(1000, 20), prompt=Prompt(number, turn, number + 1, 4000), request=mix(turn, number),
                answer=mix(turn, number), tool_calls=names, task=1, **place,
            )
        )  # fmt: skip
        for n, (name, given, answer, status) in enumerate(together):
            calls.append(
                Call(
                    f"t{number}-{n}", "tool", "s", "r", name, thought, thought + rng.uniform(0.1, 2), status,
                    "Boom" if status == "error" else None, answer=text_hash(answer), answer_chars=len(answer),
                    arguments=arguments(given), tool_call_id=f"{asked}-c{n}", requested_by=asked,
                    siblings=len(together), task=1, **place,
                )
            )  # fmt: skip
        at = thought + 2
    return calls


def verdict(calls: list[Call]) -> tuple[tuple[str, str, str, int], ...]:
    """What is found in the end: of what, how severe, and what it wasted."""
    sentinel = Sentinel()
    for call in sorted(calls, key=lambda c: c.ended_at):
        sentinel.observe(call)
    assert sentinel.health().ok
    told = ((i.rule, str(i.evidence.get("tool")), i.severity, i.wasted_tokens) for i in sentinel.incidents())
    return tuple(sorted(told))


def new(number: int) -> Step:
    return ("read_file", {"path": f"{number}.py"}, f"file {number}", "ok")


AT_ONCE: dict[str, list[list[Step]]] = {
    "one repeats itself, one gets on": [[PAGE, new(n)] for n in range(6)],
    "it gets on for a while": [[PAGE, new(n)] if n < 2 else [PAGE, PAGE] for n in range(5)],
    "both repeat themselves": [[PAGE, OTHER]] * 6,
    "one fails, one gets on": [[FAILS, new(n)] for n in range(8)],
    "one fails, one repeats itself": [[FAILS, OTHER]] * 6,
    "one changes what the other looks at": [[PAGE, ("edit_page", {"line": n}, f"line {n}", "ok")] for n in range(6)],
    "a circle of pairs": [[PAGE, OTHER], [("list_users", {}, "ada", "ok"), FAILS]] * 5,
    "three at a time": [[PAGE, OTHER, new(n)] for n in range(6)],
}


@pytest.mark.parametrize("case", AT_ONCE)
def test_in_which_order_calls_at_once_end_says_nothing(case: str) -> None:
    verdicts = {verdict(at_once(AT_ONCE[case], random.Random(seed))) for seed in range(40)}
    assert len(verdicts) == 1, verdicts


def in_step(rounds: int, parties: int, *, threads: bool) -> Any:
    """An agent that has others work side by side, which loop; all of them make each round at the same time."""
    barrier = Barrier(parties)
    meeting: list[asyncio.Future[None]] = []

    @tool
    def fetch_page(url: str) -> str:
        """Fetches a web page."""
        barrier.wait(10)
        return "the same page, as ever"

    @tool
    async def fetch_page_async(url: str) -> str:
        """Fetches a web page."""
        here = asyncio.get_running_loop().create_future()
        meeting.append(here)
        if len(meeting) == parties:
            for waiting in meeting:
                waiting.set_result(None)
            meeting.clear()
        await here
        return "the same page, as ever"

    fetch = fetch_page if threads else fetch_page_async

    def worker() -> Any:
        looping = [call_tool(fetch.name, url="https://example.com/a")] * rounds
        return create_agent(ScriptedChatModel(script=[*looping, DONE]), [fetch])

    @tool("work")
    def run(what: str) -> str:
        """Works."""
        return str(worker().invoke({"messages": [("user", what)]})["messages"][-1].content)

    @tool("work")
    async def run_async(what: str) -> str:
        """Works."""
        return str((await worker().ainvoke({"messages": [("user", what)]}))["messages"][-1].content)

    asks = [call for n in range(parties) for call in call_tool("work", what=f"part {n}").tool_calls]
    return create_agent(
        ScriptedChatModel(script=[AIMessage("", tool_calls=asks), DONE]), [run if threads else run_async]
    )


@pytest.mark.parametrize("parties", [2, 4])
@pytest.mark.parametrize("threads", [True, False])
def test_subagents_that_loop_in_step_are_found_live_as_in_their_trace(parties: int, threads: bool) -> None:
    app = in_step(4, parties, threads=threads)
    live, handler = recorded()
    client = Wire()
    config: dict[str, Any] = {"callbacks": [handler, LangChainTracer(client=client)]}
    if threads:
        app.invoke(ASK, config)
    else:
        asyncio.run(app.ainvoke(ASK, config))
    again = replay_of(*(run for row in client.sent() if isinstance(run := run_from_row(row), Run)))
    for seen in (live, again):
        [found] = [i for i in seen.incidents() if i.rule == "tool_loop"]
        assert (found.severity, found.evidence["calls"]) == ("high", 4 * parties)
    assert [(i.id, i.wasted_nano) for i in again.incidents()] == [(i.id, i.wasted_nano) for i in live.incidents()]
    assert again.known() == live.known()
