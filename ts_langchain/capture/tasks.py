"""Which of asyncio's tasks a call has begun in. It does not outlive it, and LangChain tells nobody that it is over."""

from __future__ import annotations

import asyncio
import functools
from typing import Any, Protocol
from weakref import WeakKeyDictionary

MANY_CALLS = 64


class Keeper(Protocol):
    """Whoever keeps the calls: a handler."""

    def is_under_way(self, run_id: Any) -> bool:
        """True for a call that has begun and not ended."""
        ...

    def abandon(self, run_id: Any) -> None:
        """Ends a call whose task is done."""
        ...


Begun = list[tuple[Keeper, Any]]
begun_in: WeakKeyDictionary[asyncio.Task[Any], Begun] = WeakKeyDictionary()
"""Calls that have begun in each task, of all handlers; some of them may have ended."""


def current_task() -> asyncio.Task[Any] | None:
    """The task that runs, None where no event loop does."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def note(task: asyncio.Task[Any], keeper: Keeper, run_id: Any) -> None:
    """Remembers which task a call has begun in."""
    calls = begun_in.get(task)
    if calls is None:
        calls = begun_in[task] = []
        task.add_done_callback(functools.partial(_done, calls))
    add(calls, keeper, run_id)


def add(calls: Begun, keeper: Keeper, run_id: Any) -> None:
    """Adds a call that has begun; from time to time those that have ended go."""
    calls.append((keeper, run_id))
    many = len(calls)
    if many >= MANY_CALLS and not many & (many - 1):
        calls[:] = [(k, i) for k, i in calls if k.is_under_way(i)]


def _done(calls: Begun, _task: object) -> None:
    """Ends the calls that the task has left behind."""
    for keeper, run_id in calls:
        keeper.abandon(run_id)
    calls.clear()
