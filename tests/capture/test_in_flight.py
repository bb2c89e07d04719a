"""Calls that have begun: shared by all handlers of a Sentinel, bounded, and without leftovers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from histories import START
from langchain_core.messages import HumanMessage

from ts_langchain import Sentinel, TokenSentinelHandler
from ts_langchain.call import Call
from ts_langchain.capture import in_flight
from ts_langchain.fingerprint import arguments, name_hash
from ts_langchain.intervene.inside import DoorHandler
from ts_langchain.session import MAX_INCIDENTS

HOOKS = sorted(
    name for name in vars(TokenSentinelHandler) if name.startswith("on_") and callable(vars(TokenSentinelHandler)[name])
)


def test_handlers_made_at_once_share_what_is_in_flight() -> None:
    for _ in range(50):
        sentinel = Sentinel(rules=[])
        with ThreadPoolExecutor(4) as pool:
            handlers = list(pool.map(lambda _, s=sentinel: TokenSentinelHandler(s), range(4)))
        run = uuid4()
        handlers[0].on_chat_model_start({}, [[HumanMessage("hi")]], run_id=run)
        assert all(run in handler.pending() for handler in handlers)


def test_a_call_that_never_ends_gives_its_reservation_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "MAX_PENDING", 3)
    sentinel = Sentinel(policy={"budgets": [{"calls": 100}]})
    handler = TokenSentinelHandler(sentinel)
    for _ in range(10):
        handler.on_chat_model_start({}, [[HumanMessage("hi")]], run_id=uuid4())
    flight = sentinel.in_flight
    assert (len(flight.started), len(flight.reservations)) == (3, 3)
    assert flight.started.keys() == flight.reservations.keys()
    assert list(sentinel.health().faults.values()) == [7]


def test_an_incident_that_is_opened_is_never_the_one_that_is_closed_for_it() -> None:
    sentinel = Sentinel(policy={"rules": {"tool_loop": {"steps": [{"at": 1, "do": "warn"}]}}})

    def loop(tool: str, at: float) -> None:
        for number in range(3):
            asked = arguments({"q": tool})
            sentinel.observe(
                Call(f"{tool}{number}", "tool", "s", "s", tool, at + number, at + number, answer=1, arguments=asked)
            )

    for number in range(MAX_INCIDENTS):
        loop(f"tool{number}", START + 100 + 5 * number)
    loop("late", START)  # begun before all others
    state = sentinel.get("s").state
    assert any(incident.evidence.get("tool") == "late" for incident in state.incidents.values())
    assert len(state.incidents) == MAX_INCIDENTS
    assert set(state.standing) <= set(state.incidents)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("kind", [TokenSentinelHandler, DoorHandler])
def test_nothing_leaves_a_hook(kind: Any, hook: str) -> None:
    handler = kind(Sentinel())
    handler.raise_error = True  # what it raised would reach the app
    for table in (handler.sentinel.in_flight.started, handler.sentinel.in_flight.roots):
        table["other"] = "other"
    content: Any = RuntimeError("down") if hook.endswith("_error") else "content"
    unhashable: Any = []
    first = ({}, content) if hook.endswith("_start") else (content,)
    getattr(handler, hook)(*first, run_id=unhashable)
    assert [place for place in handler.sentinel.health().faults if hook in place], handler.sentinel.health().faults


def test_ids_of_runs_do_not_push_names_out_of_their_cache() -> None:
    handler = TokenSentinelHandler(Sentinel(rules=[]))
    handler.on_chat_model_start({}, [[HumanMessage("hi")]], run_id=uuid4())
    before = name_hash.cache_info().currsize
    for _ in range(10):
        handler.on_chat_model_start({}, [[HumanMessage("hi")]], run_id=uuid4())
    assert name_hash.cache_info().currsize == before
