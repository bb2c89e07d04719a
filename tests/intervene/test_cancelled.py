"""A call behind a door that is cancelled or dropped ends as it does without one."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel

from ts_langchain import Policy, Sentinel, guard_model


def test_a_cancelled_call_stays_cancelled_whatever_goes_wrong_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(FakeListChatModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(60)

    guarded = guard_model(Slow(responses=["a"]), Sentinel(policy=Policy.recommended()))

    def broken(*args: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(guarded.interventions.handler, "cancelled", broken)

    async def cancel() -> None:
        task = asyncio.create_task(guarded.ainvoke("hi"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert guarded.sentinel.health().faults["intervene: cancelled: RuntimeError"] == 1


def test_a_call_that_is_dropped_half_way_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    """Loops that are closed drop their tasks, whose `finally` then run in another context."""

    class Waits(FakeListChatModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(60)

    guarded = guard_model(Waits(responses=["a"]), Sentinel(policy=Policy.recommended()))
    loop = asyncio.new_event_loop()
    dropped: list[Any] = []
    before, sys.unraisablehook = sys.unraisablehook, dropped.append
    try:
        coroutine = guarded.ainvoke("hi")
        task = loop.create_task(coroutine)
        loop.run_until_complete(asyncio.sleep(0.01, None))
        coroutine.close()
        assert task is not None
    except ValueError as error:
        pytest.fail(str(error))
    finally:
        sys.unraisablehook = before
        loop.close()
    assert dropped == []
