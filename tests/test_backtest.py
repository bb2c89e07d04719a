"""Backtests: the decisions of the past are those a live run takes, and only what comes after them is saved."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from agents import ASK, DONE, LOOP, agent, count_up, fetch_page, graph
from histories import START, Script
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tracers.langchain import LangChainTracer
from pydantic import Field
from recorder import Wire
from typer.testing import CliRunner

from ts_importers.files import FileImporter
from ts_langchain import Policy, Sentinel, TokenSentinelHandler, TokenSentinelMiddleware, guard, guard_model
from ts_langchain.backtest import Backtest
from ts_langchain.call import Prompt, Usage
from ts_langchain.cli.app import app
from ts_langchain.errors import Intervention
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.testing import ScriptedChatModel, call_tool

TAU = Path(__file__).parent.parent / "ts_langchain" / "demo_data" / "tau_bench_airline.jsonl.gz"


def policy(*steps: tuple[int, str], **more: Any) -> Policy:
    rule = {"min_severity": "high", "steps": [{"at": a, "do": d} for a, d in steps]}
    return Policy.from_dict({"rules": {"tool_loop": rule}, "default": {"steps": [{"at": 99, "do": "warn"}]}, **more})


def loop(times: int, *, ends_well: bool, session: str = "s") -> Script:
    script = Script(session_id=session, root_id=f"root-{session}")
    for _ in range(times):
        script.tool("fetch_page", {"url": "u"}, "same", sent=1000, got=20)
    if ends_well:
        script.say("here is your answer", sent=1000, got=20)
    return script


def figures(result: Any) -> dict[tuple[str, str], tuple[int, int, int]]:
    return {(a.rule, a.action): (a.decisions, a.saved_calls, a.false_stops) for a in result.actions}


def test_stop_saves_what_comes_after_it_and_false_stops_are_counted() -> None:
    bad = loop(8, ends_well=False)
    result = Backtest(policy((1, "stop"))).run(bad.calls)
    # decided at the end of the third tool call: five turns of model and tool come after it
    assert figures(result) == {("tool_loop", "stop"): (1, 10, 0)}
    per_call = (1000 * 2.5 + 20 * 10) * 1000
    assert result.saved_nano == 5 * per_call
    assert result.nano == 8 * per_call
    assert (result.runs, result.succeeded) == (1, 0)
    good = loop(4, ends_well=True, session="t")
    both = Backtest(policy((1, "stop"))).run(sorted([*bad.calls, *good.calls], key=lambda c: c.ended_at))
    assert figures(both) == {("tool_loop", "stop"): (2, 13, 1)}
    assert [d.session_id for d in both.false_stops] == ["t"]
    assert (result.lost_nano, both.lost_nano) == (0, both.saved_nano - 5 * per_call)
    assert both.lost_nano == 2 * per_call  # the fourth turn, and the answer
    assert both.as_dict()["saved_by_false_stops_usd"] == both.lost_nano / 1e9


def test_steer_saves_the_waste_after_it() -> None:
    result = Backtest(policy((1, "steer"))).run(loop(8, ends_well=False).calls)
    [action] = result.actions
    assert (action.action, action.decisions, action.saved_calls) == ("steer", 6, 0)
    assert action.saved_nano == 5 * (1000 * 2.5 + 20 * 10) * 1000 == result.hoped_nano
    assert Backtest(policy((1, "stop"))).run(loop(8, ends_well=False).calls).hoped_nano == 0
    assert result.saved_nano <= result.nano


@pytest.mark.parametrize("action", ["steer", "trim"])
def test_a_warning_before_it_changes_nothing_of_what_is_saved(action: str) -> None:
    calls = loop(8, ends_well=False).calls
    alone, warned = Backtest(policy((2, action))).run(calls), Backtest(policy((1, "warn"), (2, action))).run(calls)
    assert warned.saved_nano == alone.saved_nano > 0
    assert warned.hoped_nano == alone.hoped_nano


def test_success_by_tag() -> None:
    script = loop(5, ends_well=False)
    calls = [c._replace(tags=("solved",)) for c in script.calls]
    assert Backtest(policy((1, "stop")), success_tag="solved").run(calls).succeeded == 1
    assert Backtest(policy((1, "stop")), success_tag="other").run(calls).succeeded == 0


def test_budgets_end_what_does_not_fit() -> None:
    script = Script()
    for n in range(10):
        script.say(f"answer {n}", sent=1000, got=20)
    result = Backtest(policy(budgets=[{"calls": 4}])).run(script.calls)
    assert figures(result) == {("budget", "warn"): (1, 0, 0), ("budget", "stop"): (1, 6, 1)}


def decisions(sentinel: Sentinel) -> list[tuple[object, ...]]:
    return [(d.rule, d.action, d.strike, d.at, d.session_id, d.incident_id) for d in sentinel.decisions()]


MIXED = Policy.from_dict(
    {
        "mode": "observe",
        "rules": {
            "tool_loop": {"steps": [{"at": 1, "do": "steer"}, {"at": 2, "do": "reuse"}, {"at": 4, "do": "stop"}]}
        },
    }
)


def test_behind_a_soft_budget_the_hard_one_ends_the_run() -> None:
    """With a cheaper model the run would have gone on for longer: it is ended where that no longer fits either."""
    given = [{"usd": 0.01, "do": "downgrade"}, {"usd": 0.0101}]
    # four calls at $0.0025, or three and 17 at $0.00015: what is reserved is a little more
    for downgrade, calls, spent in (({}, 4, 0.01), ({"gpt-4o*": "openai:gpt-4o-mini"}, 20, 0.01005)):
        script = Script()
        for number in range(24):
            script.say("on", sent=1000, got=0, max_tokens=0, prompt=Prompt(number, 7, 1, 4000))
        result = Backtest(policy(budgets=given, downgrade=downgrade)).run(script.calls)
        found = {a.action: a.saved_calls for a in result.actions}
        assert found.keys() == {"warn", "downgrade", "stop"}, found
        assert found["stop"] == 24 - calls, found
        assert result.nano - result.saved_nano == round(spent * 1e9)


def test_a_call_that_a_budget_refuses_is_in_nobody_elses_budget() -> None:
    """Two calls a run, four in the project: the third call of the first run is not made, and counts nowhere."""
    runs = [loop(5, ends_well=True, session=s).calls for s in ("a", "b", "c")]
    calls = [
        c._replace(started_at=c.started_at + 60 * n, ended_at=c.ended_at + 60 * n)
        for n, r in enumerate(runs)
        for c in r
    ]
    given = [{"per": "run", "calls": 2}, {"per": "project", "calls": 4}]
    result = Backtest(policy(budgets=given)).run(calls)
    assert (result.nano - result.saved_nano) == 4 * (1000 * 2.5 + 20 * 10) * 1000


class Listening(Sentinel):
    """Keeps the calls it sees."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: list[Any] = []

    def observe(self, call: Any) -> None:
        self.seen.append(call)
        super().observe(call)


def scripted_runs(chance: random.Random) -> list[tuple[str, str, list[Any]]]:
    """Session, user and the model's script of each run."""

    def step() -> AIMessage:
        sent, got = chance.choice([50, 500, 5000]), chance.choice([5, 50])
        message = chance.choice(
            [
                call_tool("fetch_page", url="a"),
                call_tool("fetch_page", url=chance.choice("abc")),
                call_tool("count_up", n=chance.randint(0, 3)),
            ]
        )
        usage = {"input_tokens": sent, "output_tokens": got, "total_tokens": sent + got}
        return message.model_copy(update={"usage_metadata": usage})

    runs = []
    for session in range(chance.randint(1, 3)):
        for _ in range(chance.choice([1, 1, 2])):
            usual = step()
            steps = [usual if chance.random() < 0.6 else step() for _ in range(chance.randint(0, 9))]
            runs.append((f"s{session}", f"u{session % 2}", [*steps, DONE]))
    return runs


class Small(ScriptedChatModel):
    """A cheaper model that says what the other one would have said."""

    script: list[Any] = Field(default_factory=lambda: [""])
    model_name: str = "gpt-4.1-nano"
    instead: Any

    def _next(self, messages: Any) -> AIMessage:
        answer: AIMessage = self.instead._next(messages)
        meta = {**answer.response_metadata, "model_name": self.model_name}
        return answer.model_copy(update={"response_metadata": meta})


def any_policy(chance: random.Random, *more: str) -> dict[str, Any]:
    """Rules that stop or block, budgets of all kinds, and more actions."""
    budgets = []
    for _ in range(chance.choice([0, 1, 2])):
        limit = chance.choice(
            [
                {"calls": chance.randint(1, 8)},
                {"tokens": chance.randint(300, 30_000)},
                {"usd": chance.uniform(0.001, 0.03)},
                {"usd": chance.uniform(0.001, 0.03)},
            ]
        )
        per = chance.choice(["session", "run", "user", "project", "day", "tag"])
        budgets.append({"per": per, "do": chance.choice(["stop", "stop", "block", "warn", *more]), **limit})
    rules = {}
    for rule in chance.sample(["tool_loop", "ping_pong", "context_bloat"], chance.choice([0, 1, 2])):
        steps = [{"at": chance.choice([1, 1, 2]), "do": chance.choice(["stop", "block", *more])}]
        rules[rule] = {"min_severity": chance.choice(["low", "medium", "high"]), "steps": steps}
    quiet = {"steps": [{"at": 99, "do": "warn"}]}
    given = {"default": quiet, "rules": rules, "budgets": budgets, "assumed_output_tokens": 20}
    return {**given, "downgrade": {"gpt-4o*": "gpt-4.1-nano", "gpt-4.1-nano": "gpt-4o-mini"}} if more else given


@pytest.mark.parametrize("door", ["middleware", "guard", "handler"])
@pytest.mark.parametrize("seed", range(40))
def test_what_is_said_to_be_saved_is_saved_live(door: str, seed: int) -> None:
    """The same agents run without the policy, and under it: what the backtest left of the bill is what is spent."""
    chance = random.Random(f"{door} {seed}")
    more = ["downgrade", "downgrade"] if door == "middleware" else []
    runs, given = scripted_runs(chance), Policy.from_dict(any_policy(chance, *more))

    def live(policy: Policy | None) -> Listening:
        sentinel = Listening(policy=policy)
        for session, user, script in runs:
            handler = TokenSentinelHandler(sentinel, mode="block" if policy and door == "handler" else "observe")
            config: Any = {
                "callbacks": [handler],
                "metadata": {"thread_id": session, "user_id": user},
                "tags": [f"tag-{session}"],
            }
            app, model = agent(script) if door == "middleware" else graph(script)
            if policy and door == "middleware":
                inside = TokenSentinelMiddleware(sentinel, models={"gpt-4.1-nano": Small(instead=model)})
                app = create_agent(model, [fetch_page, count_up], middleware=[inside])
            try:
                (guard(app, sentinel) if policy and door == "guard" else app).invoke(ASK, config)
            except Intervention:
                assert policy is not None
        assert sentinel.health().faults == {}
        return sentinel

    free, held = live(None), live(given)
    spent = sum(t.nano for s in {r[0] for r in runs} if (t := held.totals(s)) is not None)
    result = Backtest(given).run(free.seen)
    assert result.nano - result.saved_nano == spent


def test_a_downgrade_of_classifications_leaves_other_requests_alone() -> None:
    """As live: the cheaper model is for the kind of request that it was decided at."""
    rule = {"steps": [{"at": 1, "do": "downgrade"}]}
    given = Policy.from_dict({"rules": {"model_misroute": rule}, "downgrade": {"gpt-5": "gpt-4.1-nano"}})
    usage: Any = {"input_tokens": 100, "output_tokens": 1, "total_tokens": 101}
    questions = ["Classify as yes or no: is item {} red?", "Tell me of item {}, please."] * 4

    def live(policy: Policy | None) -> tuple[Listening, int]:
        sentinel = Listening(policy=policy)
        model = ScriptedChatModel(script=[AIMessage("yes", usage_metadata=usage)], model_name="gpt-5")
        small = Small(instead=model)
        asked = guard_model(model, sentinel, models={"gpt-4.1-nano": small}) if policy is not None else model
        for number, question in enumerate(questions):
            config: Any = {"callbacks": [TokenSentinelHandler(sentinel)], "metadata": {"session_id": "s"}}
            asked.invoke(question.format(number), config)
        return sentinel, sum(call.model == "gpt-4.1-nano" for call in sentinel.seen)

    (free, none), (held, some) = live(None), live(given)
    assert (none, some) == (0, 3)  # all classifications but the first
    tested = Backtest(given)
    result = tested.run(free.seen)
    assert result.nano - result.saved_nano == getattr(held.totals("s"), "nano", None)
    assert [(d.action, d.rule) for d in result.decisions] == [(d.action, d.rule) for d in held.decisions()]
    watched = Backtest(given, follow=False)
    assert watched.run(free.seen).saved_nano == result.saved_nano
    assert watched.sentinel.totals("s") == free.totals("s")  # nothing was replaced


def test_what_is_unknown_and_what_is_estimated_is_counted() -> None:
    script = Script(model="nobody-knows")
    for number in range(3):
        script.say(f"answer {number}", model="nobody-knows")
    known = Script(session_id="t", root_id="t")
    known.say("hm", usage=Usage(100, 10, estimated=True)).say("well", usage=Usage(100, 10))
    result = Backtest(policy((1, "stop"))).run([*script.calls, *known.calls])
    assert (result.unpriced_calls, result.estimated_calls) == (3, 1)
    assert {k: result.as_dict()[k] for k in ("unpriced_calls", "estimated_calls")} == {
        "unpriced_calls": 3, "estimated_calls": 1,
    }  # fmt: skip


def test_the_same_decisions_as_live_on_recorded_agents(tmp_path: Path) -> None:
    """τ-bench: imported under the policy, and backtested from what the ledger kept."""
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(TAU), ledger, sessions_in_memory=5, checkpoint_runs=100).run()
    calls = list(ledger.calls(history))
    assert len(calls) == history.runs
    live = Sentinel(policy=MIXED)
    for call in calls:
        live.observe(call)
    tested = Backtest(MIXED, follow=False)
    tested.run(calls)
    assert decisions(tested.sentinel) == decisions(live) != []


def test_the_same_decisions_as_a_live_agent(tmp_path: Path) -> None:
    live = Listening(policy=MIXED)
    looping, _ = agent([LOOP] * 7 + [DONE])
    looping.invoke(ASK, {"callbacks": [TokenSentinelHandler(live)], "configurable": {"thread_id": "t"}})
    tested = Backtest(MIXED, follow=False)
    tested.run(live.seen)
    assert decisions(tested.sentinel) == decisions(live)
    assert [d.action for d in live.decisions()] == ["steer", "reuse", "stop", "stop", "stop"]


def test_the_same_decisions_as_live_on_imported_tracer_runs(tmp_path: Path) -> None:
    """An agent watched live; what LangChain's own tracer recorded of it is imported and backtested."""
    live, client = Sentinel(policy=MIXED), Wire()
    looping, _ = agent([LOOP] * 7 + [DONE])
    handlers: Any = [TokenSentinelHandler(live), LangChainTracer(client=client)]
    looping.invoke(ASK, {"callbacks": handlers, "configurable": {"thread_id": "t"}})
    path = tmp_path / "runs.jsonl"
    rows = sorted(client.sent(), key=lambda r: r["start_time"])
    path.write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
    ledger = Ledger(tmp_path / "l.sqlite")
    tested = Backtest(MIXED, follow=False)
    tested.run(ledger.calls(Import(FileImporter(path), ledger).run()))

    def told(sentinel: Sentinel) -> list[tuple[object, ...]]:
        """Without the times, which two observers stamp some microseconds apart."""
        return [(d.rule, d.action, d.strike, d.session_id, d.root_id, d.summary) for d in sentinel.decisions()]

    assert told(tested.sentinel) == told(live) != []


def test_the_ledger_keeps_calls_without_content(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "zebra-quartz"}, {"role": "assistant", "content": "the zebra"}]}
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(row) + "\n")
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(path), ledger).run()
    assert "zebra" not in repr(list(ledger.calls(history)))
    [call] = ledger.calls(history)
    assert call.started_at > START - 1e9


def test_the_command(tmp_path: Path) -> None:
    env = {"TS_LANGCHAIN_LEDGER": str(tmp_path / "l.sqlite"), "COLUMNS": "140"}
    run = CliRunner()
    assert run.invoke(app, ["import", "file", str(TAU), "--model", "gpt-4o"], env=env).exit_code == 0
    one, two = str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")
    assert run.invoke(app, ["policy", "init", one], env=env).exit_code == 0
    assert run.invoke(app, ["policy", "init", one], env=env).exit_code == 2
    assert run.invoke(app, ["policy", "check", one], env=env).exit_code == 0
    Path(two).write_text("rules:\n  tool_loop:\n    steps: [{at: 1, do: stop}]\n")
    done = run.invoke(app, ["backtest", "--policy", one, "--policy", two], env=env)
    assert done.exit_code == 0, done.output
    assert "Side by side" in done.stdout
    assert "false stop" in done.stdout
    first, second = json.loads(
        run.invoke(app, ["backtest", "--policy", one, "--policy", two, "--json"], env=env).stdout
    )
    assert first["saved_usd"] <= first["spend_usd"] == second["spend_usd"]
    assert len(second["false_stops"]) > len(first["false_stops"]) == 0
    Path(two).write_text("rules:\n  tool_loop:\n    steps: [{at: 1, do: stopp}]\n")
    refused = run.invoke(app, ["backtest", "--policy", two], env=env)
    assert refused.exit_code == 2
    assert "line 3" in refused.stderr
    shown = run.invoke(app, ["policy", "show"], env=env).stdout
    assert "cooldown_seconds" in shown
    assert "LangGraph interrupt" in shown
    assert json.loads(run.invoke(app, ["policy", "show", one, "--json"], env=env).stdout)["mode"] == "observe"


@pytest.mark.parametrize("setting", ["tool_loop.min_cals: 3", "tool_loop.min_calls: many"])
def test_wrong_settings_in_a_policy_are_told(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"mode: observe\nsettings:\n  zombie.min_calls: 9\n  {setting}\n")
    done = CliRunner().invoke(app, ["policy", "check", str(path)])
    assert done.exit_code == 2
    assert "tool_loop.min_cal" in done.stderr
    assert f"{path}: line 4: settings: " in done.stderr.replace("\n", "")
