"""What goes wrong inside is counted, told once, and stays inside."""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from typing import Any

import pytest
from agents import ASK, DONE, LOOP, agent
from langchain_core.messages import HumanMessage

from ts_langchain import Incident, Sentinel, TokenSentinelHandler, TokenSentinelMiddleware, WasteBlocked


class Unprintable:
    def __str__(self) -> str:
        msg = "zebra-quartz"
        raise ValueError(msg)


def fail_inside(handler: TokenSentinelHandler) -> None:
    """Has something go wrong inside."""
    handler.on_tool_start({}, "", run_id=1, inputs={})
    handler.on_tool_end(Unprintable(), run_id=1)


def test_a_fault_says_where_it_came_from_and_not_what_was_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ts_langchain")
    handler = TokenSentinelHandler()
    for _ in range(2):
        fail_inside(handler)
    told, traced = [r.getMessage() for r in caplog.records if r.name == "ts_langchain"]
    assert "ValueError was raised in handler: tool output" in told
    assert "_foreign" in traced
    assert "zebra" not in caplog.text


@pytest.mark.parametrize("mode", ["observe", "block"])
def test_a_log_that_raises_breaks_no_call(mode: Any) -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise OSError

    logger = logging.getLogger("ts_langchain")
    logger.addFilter(broken)
    handler = TokenSentinelHandler(mode=mode)
    try:
        fail_inside(handler)
    finally:
        logger.removeFilter(broken)
    assert handler.sentinel.health().faults == {"handler: tool output: ValueError": 1}


def test_a_log_that_raises_hides_no_incident() -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise OSError

    logger = logging.getLogger("ts_langchain")
    logger.addFilter(broken)
    handler = TokenSentinelHandler()
    looping, model = agent([*[LOOP] * 6, DONE])
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        looping.invoke(ASK, {"callbacks": [handler]})
    finally:
        logger.removeFilter(broken)
        logger.setLevel(level)
    assert model.calls == 7
    assert handler.sentinel.health().faults == {"log: OSError": 2}
    assert [i.severity for i in handler.sentinel.incidents()] == ["high"]


def test_incidents_are_logged_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever adds the one line and nothing else hears of waste."""
    caplog.set_level(logging.INFO, "ts_langchain")
    looping, _ = agent([*[LOOP] * 6, DONE])
    looping.invoke(ASK, {"callbacks": [TokenSentinelHandler()]})
    found = [(r.levelname, r.getMessage().split()[1]) for r in caplog.records if r.name == "ts_langchain"]
    assert found == [("INFO", "tool_loop:"), ("WARNING", "tool_loop:")]
    assert "fetch_page was called 3 times" in caplog.text
    assert "https" not in caplog.text  # what it was given


@pytest.mark.parametrize("listens", ["a callback", "a policy"])
def test_incidents_are_no_warnings_where_others_tell(listens: str, caplog: pytest.LogCaptureFixture) -> None:
    sentinel = Sentinel(policy={"rules": {"tool_loop": {"steps": []}}} if listens == "a policy" else None)
    if listens == "a callback":
        sentinel.on_incident(lambda _: None)
        caplog.set_level(logging.INFO, "ts_langchain")
    looping, _ = agent([*[LOOP] * 6, DONE])
    looping.invoke(ASK, {"callbacks": [TokenSentinelHandler(sentinel)]})
    assert [i.severity for i in sentinel.incidents()] == ["high"]
    assert "fetch_page" not in caplog.text


def test_a_call_at_the_end_of_the_stack_goes_on() -> None:
    """Where the handler has no room left, the app may have enough."""
    handler, prompt = TokenSentinelHandler(mode="block"), [[HumanMessage("hi")]]
    broke: list[int] = []

    def deep(left: int) -> None:
        if left:
            deep(left - 1)
            return
        try:
            handler.on_chat_model_start({}, prompt, run_id=depth)
        except RecursionError:
            broke.append(depth)

    room = sys.getrecursionlimit() - len(inspect.stack())
    for depth in range(room - 60, room - 2):
        with contextlib.suppress(RecursionError):
            deep(depth)
    assert sum(handler.sentinel.health().faults.values()) > 0
    assert len(broke) <= 2  # where the hook itself cannot be entered


@pytest.mark.parametrize("door", ["handler", "middleware"])
def test_an_intervention_in_a_callback_is_not_about_the_call(door: str) -> None:
    """A callback may have a model of its own write to somebody, which may be held back."""
    sentinel = Sentinel(policy={"mode": "observe", "rules": {"tool_loop": {"steps": [{"at": 1, "do": "warn"}]}}})

    def tell(incident: Incident) -> None:
        raise WasteBlocked(incident)

    sentinel.on_incident(tell)
    middleware = [TokenSentinelMiddleware(sentinel)] if door == "middleware" else []
    callbacks = [TokenSentinelHandler(sentinel, mode="block")] if door == "handler" else []
    app, model = agent([*[LOOP] * 5, DONE], middleware=middleware)
    assert app.invoke(ASK, {"callbacks": callbacks})["messages"][-1].content == "done"
    assert model.calls == 6
    assert sentinel.health().faults["on_incident callback: WasteBlocked"] >= 1
