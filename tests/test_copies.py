"""Copies of what is watched are watched: frameworks copy models, configs and graphs, and send them to processes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from agents import ASK
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel

from ts_langchain import Policy, Sentinel, TokenSentinelHandler, TokenSentinelMiddleware, guard_model


def observed(model: FakeListChatModel, sentinel: Sentinel) -> int:
    before = sentinel.health().calls
    model.invoke("hi")
    return sentinel.health().calls - before


@pytest.mark.parametrize("mode", ["observe", "block"])
def test_a_copy_of_a_watched_model_is_watched(mode: Any) -> None:
    handler = TokenSentinelHandler(mode=mode)
    model = FakeListChatModel(responses=["a"], callbacks=[handler])
    for duplicate in (copy.deepcopy(model), model.model_copy(deep=True), copy.copy(model)):
        assert observed(duplicate, handler.sentinel) == 1
    twin = copy.deepcopy(handler)
    assert twin.sentinel is handler.sentinel
    assert twin.raise_error is handler.raise_error
    assert twin.pending() is handler.pending()


def test_a_pickled_model_is_watched_where_it_arrives() -> None:
    sentinel = Sentinel(
        ["tool_loop"], {"tool_loop.min_calls": 7}, {"mine": {"input": 1.0, "output": 2.0}}, policy=Policy.recommended()
    )
    model = FakeListChatModel(responses=["a"], callbacks=[TokenSentinelHandler(sentinel, session_id="s")])
    arrived = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
    [handler] = arrived.callbacks
    assert handler.session_id == "s"
    assert handler.sentinel is not sentinel
    assert [(r.name, r.settings) for r in handler.sentinel.rules] == [(r.name, r.settings) for r in sentinel.rules]
    assert handler.sentinel.governor.policy == sentinel.governor.policy
    assert handler.sentinel.prices.rates("mine", None, 0.0) == sentinel.prices.rates("mine", None, 0.0)
    assert observed(arrived, handler.sentinel) == 1
    assert sentinel.health().calls == 0


def test_doors_can_be_copied_and_pickled() -> None:
    sentinel = Sentinel(policy=Policy.recommended())
    guarded = guard_model(FakeListChatModel(responses=["a"]), sentinel)
    assert observed(copy.deepcopy(guarded), sentinel) == 1  # type: ignore[arg-type]
    arrived = pickle.loads(pickle.dumps(guarded))  # noqa: S301 - our own
    assert observed(arrived, arrived.sentinel) == 1
    assert arrived.interventions.handler.raise_error
    middleware = copy.deepcopy(TokenSentinelMiddleware(sentinel))
    create_agent(FakeListChatModel(responses=["a"]), [], middleware=[middleware]).invoke(ASK)
    assert sentinel.health().calls == 2
