"""Policies: what is read, what is refused and how clearly, and how strikes become decisions."""

from __future__ import annotations

from typing import Any

import pytest
from histories import Script

from ts_langchain import Policy, Sentinel, governor
from ts_langchain.cli.policy import doubts
from ts_langchain.errors import ConfigurationError
from ts_langchain.policy import ENDING, RECOMMENDED, Budget, as_policy


def test_the_recommended_policy_is_one_and_a_dry_run() -> None:
    policy = Policy.recommended()
    assert policy.mode == "observe"
    assert policy.of("tool_loop").action(1) == "steer"
    assert policy.of("tool_loop").action(9) == "stop"
    assert policy.of("model_misroute").action(1) == "warn"
    assert Policy.from_yaml(RECOMMENDED) == policy
    assert policy.enforced().mode == "enforce"
    assert policy.enforced().dry_run() == policy


def test_the_recommended_policy_ends_what_mode_block_ends() -> None:
    """And nothing else: what is of severity medium is told, and may go on."""
    policy = Policy.recommended()
    ends = {name for name, rule in policy.rules.items() if any(step.do in ENDING for step in rule.steps)}
    assert ends == {rule.name for rule in Sentinel().rules if rule.settings.block}
    assert {policy.of(name).min_severity for name in ends} == {"high"}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("mode: kill\n", 1, "'observe' or 'enforce'"),
        ("mode: enforce\nrulez: {}\n", 2, "there are assumed_output_tokens"),
        ("rules:\n  tool_lop: {}\n", 1, "there is no rule 'tool_lop'; there are abandoned_stream"),
        (
            "rules:\n  tool_loop:\n    steps:\n      - {at: 1, do: steer}\n      - {at: 2, do: stear}\n",
            5,
            "'stear' is not",
        ),
        ("rules:\n  tool_loop:\n    steps:\n      - {at: 0, do: steer}\n", 4, "greater than 0"),
        ("rules:\n  tool_loop:\n    steps: [{at: 1, do: steer}, {at: 1, do: stop}]\n", 3, "same `at`"),
        ("rules:\n  tool_loop:\n    steps:\n      - {at: 2}\n", 4, "rules.tool_loop.steps.0.do: Field required"),
        ("budgets:\n  - {per: session}\n", 2, "this one has none"),
        ("budgets:\n  - {per: session, usd: 1, calls: 2}\n", 2, "usd, calls"),
        ("budgets:\n  - {per: planet, usd: 1}\n", 2, "'session', 'run'"),
        ("budgets:\n  - {usd: -1}\n", 2, "greater than 0"),
        ("budgets:\n  - {usd: .inf}\n", 2, "less than or equal to 1000000000"),
        ("budgets:\n  - {tokens: 1" + "0" * 400 + "}\n", 2, "less than or equal to"),
        ("backoff:\n  base_seconds: .inf\n", 2, "less than or equal to 86400"),
        ("budgets: 5\n", 1, "budgets: Input should be a list (got 5)"),
        ("safe_tools: search\n", 1, "safe_tools: Input should be a list of names (got 'search')"),
        ("a: [1\n", 2, "not YAML"),
        ("mode: enforce\nbudgets: []\nmode: observe\n", 3, "'mode' was given before"),
        ("rules:\n  zombie: {}\n  zombie: {}\n", 3, "'zombie' was given before"),
        ("- a\n", 1, "got a list"),
    ],
)
def test_mistakes_name_the_line_and_what_is_allowed(text: str, line: int, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Policy.from_yaml(text, "p.yaml")
    assert f"p.yaml: line {line}: " in str(refused.value)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"policy": 5}, "policy: expected a Policy, a mapping, or the path of a YAML file, got a int"),
        ({"policy": [1]}, "got a list"),
        ({"policy": Policy(rules={"tool_lop": {}})}, "policy: rules: there is no rule 'tool_lop'; there are abandoned"),  # type: ignore[dict-item]
        ({"settings": [1]}, "settings: expected a mapping of rule.param to value, got a list"),
        ({"settings": {5: 1}}, "there is no setting 5"),
        ({"settings": {"tool_loop.exempt_tools": "x"}}, "tool_loop.exempt_tools: Input should be a list of names"),
    ],
)
def test_what_is_no_policy_and_no_setting_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Sentinel(**given)
    assert says in str(refused.value)


def test_where_policies_come_from(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "p.yaml"
    path.write_text("mode: observe\nsettings: {tool_loop.min_calls: 7}\n")
    assert Sentinel(policy=path).rules[0].settings.min_calls == 7  # type: ignore[attr-defined]
    assert Sentinel(policy=str(path), settings={"tool_loop.min_calls": 9}).rules[0].settings.min_calls == 9  # type: ignore[attr-defined]
    assert as_policy({"mode": "observe"}) == Policy(mode="observe")
    monkeypatch.delenv("TS_LANGCHAIN_POLICY", raising=False)
    assert Policy.from_env() is None
    monkeypatch.setenv("TS_LANGCHAIN_POLICY", str(path))
    monkeypatch.setenv("TS_LANGCHAIN_MODE", "enforce")
    found = Policy.from_env()
    assert found is not None
    assert found.mode == "enforce"
    monkeypatch.setenv("TS_LANGCHAIN_MODE", "kill")
    with pytest.raises(ConfigurationError, match="TS_LANGCHAIN_MODE"):
        Policy.from_env()
    with pytest.raises(ConfigurationError, match="No such file"):
        Policy.from_file(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        Policy.from_file(tmp_path / "b.yaml")
    with pytest.raises(ConfigurationError, match=r"expected a mapping of fields .*, got a list"):
        Policy.from_dict([1])  # type: ignore[arg-type]


def test_doubts() -> None:
    steps = {"steps": [{"at": 1, "do": "reuse"}, {"at": 2, "do": "downgrade"}]}
    policy = Policy.from_dict({"rules": {"tool_loop": steps}, "kill_switch": {"redis_key": "k"}, "mode": "observe"})
    assert len(doubts(policy)) == 4


def test_a_switch_that_cannot_work_is_told_where_it_is_used(caplog: pytest.LogCaptureFixture) -> None:
    assert Policy.recommended().inert() == []
    governor._warn.cache_clear()
    for _ in range(2):
        Sentinel(policy={"kill_switch": {"redis_key": "k"}})
    assert [r.getMessage() for r in caplog.records] == [
        "ts-langchain: policy: kill_switch.redis_key has no effect without redis_url"
    ]
    governor._warn.cache_clear()


def loop(times: int, gap: float = 1.0, session: str = "s") -> Script:
    script = Script(session_id=session)
    for _ in range(times):
        script.tool("fetch_page", {"url": "u"}, "same").wait(gap)
    return script


def decided(script: Script, **rule: object) -> list[tuple[str, int]]:
    policy = {"mode": "observe", "rules": {"tool_loop": rule}, "default": {"steps": [{"at": 99, "do": "warn"}]}}
    return [(d.action, d.strike) for d in script.run(policy=policy).decisions()]


STEPS = [{"at": 1, "do": "steer"}, {"at": 3, "do": "stop"}]


def test_strikes_and_steps() -> None:
    assert decided(loop(6), steps=STEPS) == [("steer", 1), ("steer", 2), ("stop", 3), ("stop", 4), ("stop", 5)]
    assert decided(loop(6), steps=STEPS, min_severity="high") == [("steer", 1), ("steer", 2), ("stop", 3), ("stop", 4)]
    assert decided(loop(6), steps=STEPS, min_confidence=0.99) == []
    assert decided(loop(6), steps=[{"at": 3, "do": "stop"}]) == [("stop", 3), ("stop", 4), ("stop", 5)]


def test_cooldown_is_event_time() -> None:
    assert decided(loop(6, gap=9.0), steps=STEPS, cooldown_seconds=25) == [("steer", 1), ("stop", 4)]


def test_sustained_actions_are_decided_once() -> None:
    assert decided(loop(6), steps=[{"at": 1, "do": "reuse"}]) == [("reuse", 1)]


def test_what_is_left_out_stays_out_until_the_incident_begins_anew() -> None:
    sentinel = Sentinel(policy={"rules": {"tool_loop": {"steps": [{"at": 2, "do": "trim"}]}}})
    script = loop(4)
    for n in range(60):
        script.tool("get_row", {"n": n}, f"row {n}", seconds=60)
    for call in script.calls:
        sentinel.observe(call)
    [due] = sentinel.due("s", "another run", script.calls[-1].ended_at)
    assert (due.action, due.strike) == ("trim", 2)
    number = len(script.calls)
    script.tool("fetch_page", {"url": "u"}, "same").tool("fetch_page", {"url": "u"}, "same")
    for call in script.calls[number:]:
        sentinel.observe(call)
    assert sentinel.due("s", "another run", script.calls[-1].ended_at) == []  # strike 1


@pytest.mark.parametrize(
    "exempt",
    [{"tools": ["fetch_*"]}, {"sessions": ["s"]}, {"sessions": ["?"]}],
)
def test_exemptions(exempt: dict[str, list[str]]) -> None:
    assert decided(loop(6), steps=STEPS, exempt=exempt) == []


def test_a_warning_is_told_once_an_incident(caplog: pytest.LogCaptureFixture) -> None:
    told = []
    sentinel = Sentinel(policy={})
    sentinel.on_decision(told.append)
    sentinel.on_decision(lambda _: 1 / 0)
    for call in loop(6).calls:
        sentinel.observe(call)
    assert [(d.action, d.outcome) for d in told] == [("warn", "done")]
    assert caplog.text.count("fetch_page was called 2 times") == 1
    assert "fetch_page was called 3 times" not in caplog.text
    assert sentinel.health().faults == {"on_decision callback: ZeroDivisionError": 1}


def test_a_warning_is_told_anew_after_the_cooldown_and_after_other_steps() -> None:
    warn = [{"at": 1, "do": "warn"}]
    assert decided(loop(6, gap=9.0), steps=warn) == [("warn", 1)]
    assert decided(loop(6, gap=9.0), steps=warn, cooldown_seconds=25) == [("warn", 1), ("warn", 4)]
    mixed = [*warn, {"at": 2, "do": "steer"}, {"at": 3, "do": "warn"}]
    assert decided(loop(6), steps=mixed) == [("warn", 1), ("steer", 2), ("warn", 3)]


def test_budget_labels() -> None:
    assert Budget(usd=1.5, per="day").label == "$1.5 per day"
    assert Budget(tokens=2000).label == "2,000 tokens per session"
    assert Budget(name="mine", calls=1).label == "mine"
