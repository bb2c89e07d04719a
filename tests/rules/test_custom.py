"""A rule of a user's own: passed to a Sentinel, published under an entry point, checked by the kit."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from histories import Script
from pydantic import Field
from rules.test_tables import HEALTHY, loop

from ts_langchain import Sentinel
from ts_langchain import rules as registry
from ts_langchain.errors import ConfigurationError
from ts_langchain.rules import RULES, Claim, Finding, Rule, RuleSettings
from ts_langchain.testing import check_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ts_langchain.call import Call, Kind


class Chatty(Rule["list[int]"]):
    """Answers of more than `max_tokens` tokens."""

    name = "chatty"
    specificity = 1
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    suggestion = "Ask for shorter answers."

    class Settings(RuleSettings):
        """Settings of chatty."""

        max_tokens: int = Field(100, gt=0, description="Longest answer.")

    settings: Settings

    def new_state(self) -> list[int]:
        return [0]

    def observe(self, call: Call, state: list[int]) -> Finding | None:
        if call.usage.output_tokens <= self.settings.max_tokens:
            return None
        state[0] += 1
        extra = call.usage.output_tokens - self.settings.max_tokens
        return Finding(0, f"{state[0]} long answers.", claims=(Claim(call.id, "call", 0, extra),), calls=(call.id,))


class Unreadable(Chatty):
    needs = None  # type: ignore[assignment]


LONG, SHORT = Script().say("x", got=500), Script().say("x", got=50)


def test_a_sentinel_takes_it() -> None:
    sentinel = LONG.run(rules=["tool_loop", Chatty], settings={"chatty.max_tokens": 200})
    assert [(i.rule, i.wasted_tokens) for i in sentinel.incidents()] == [("chatty", 300)]
    policy = {"mode": "observe", "rules": {"chatty": {"steps": [{"at": 1, "do": "stop"}]}}}
    assert [d.action for d in LONG.run(rules=[Chatty], policy=policy).decisions()] == ["stop"]
    with pytest.raises(ConfigurationError, match=r"chatty\.max_tokens"):
        Sentinel(rules=[Chatty], settings={"chatty.max_tokens": 0})


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Publishes rules as another package would."""

    def names(*values: str) -> None:
        entries = [EntryPoint(value, value, "ts_langchain.rules") for value in values]
        monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == "ts_langchain.rules" else [])
        registry.published.cache_clear()

    yield names
    monkeypatch.undo()
    registry.published.cache_clear()


def test_a_package_can_publish_it(publish: Callable[..., None]) -> None:
    publish(f"{__name__}:Chatty")
    assert [i.rule for i in LONG.run().incidents()] == ["chatty"]
    assert [i.rule for i in LONG.run(rules=["chatty"]).incidents()] == ["chatty"]


def test_a_broken_package_does_not_break_the_app(
    publish: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    publish("no_such_package.rules:Chatty", f"{__name__}:LONG", f"{__name__}:Chatty")
    assert [i.rule for i in LONG.run().incidents()] == ["chatty"]
    assert "no_such_package.rules:Chatty cannot be loaded (ModuleNotFoundError)" in caplog.text
    assert f"{__name__}:LONG cannot be loaded (it is no rule)" in caplog.text


def test_what_a_rule_needs_is_looked_at_when_it_is_made() -> None:
    with pytest.raises(TypeError):
        Sentinel(rules=["tool_loop", Unreadable])
    with pytest.raises(AssertionError, match="needs of chatty is None"):
        check_rule(Unreadable, fires=[], healthy=[])


@pytest.mark.parametrize(("letters", "fits"), [(80, True), (81, False)])
def test_a_name_must_fit_into_a_ledger(letters: int, fits: bool) -> None:
    wordy = type("Wordy", (Chatty,), {"name": "x" * letters})
    if fits:
        assert [i.rule for i in LONG.run(rules=[wordy]).incidents()] == ["x" * letters]
    else:
        with pytest.raises(ConfigurationError, match="81 letters, expected 80 at most"):
            Sentinel(rules=[wordy])


def test_the_kit_accepts_it() -> None:
    check_rule(Chatty, fires=[LONG.calls], healthy=[SHORT.calls, []])
    check_rule(Chatty, fires=[LONG.calls], healthy=[SHORT.calls], settings={"chatty.max_tokens": 200})


class Raises(Chatty):
    def observe(self, call: Call, state: Any) -> Finding | None:
        raise ValueError


class Greedy(Chatty):
    def observe(self, call: Call, state: Any) -> Finding | None:
        state.append(call.id)
        return super().observe(call, state)


class Blind(Chatty):
    def observe(self, call: Call, state: Any) -> Finding | None:
        return None


class Fragile(Chatty):
    def observe(self, call: Call, state: Any) -> Finding | None:
        return super().observe(call, state) if call.model.startswith("gpt") else None  # type: ignore[union-attr]


class Trusting(Chatty):
    def observe(self, call: Call, state: Any) -> Finding | None:
        long = call.usage.output_tokens > 100
        return super().observe(call, state) if long and call.model.startswith("gpt") else None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (Raises, "raised"),
        (Greedy, "not bounded"),
        (Blind, "does not fire"),
        (Fragile, "raised"),
        (Trusting, "raised"),
    ],
)
def test_the_kit_refuses_what_is_wrong(rule: type[Rule[Any]], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_rule(rule, fires=[LONG.calls], healthy=[SHORT.calls])


@pytest.mark.parametrize("rule", RULES)
def test_the_built_in_rules_pass_the_kit(rule: str) -> None:
    fires = [loop(5).calls] if rule == "tool_loop" else []
    check_rule(RULES[rule], fires=fires, healthy=[script.calls for script in HEALTHY.values()])
