"""Callbacks that users have asked to be told by."""

from __future__ import annotations

import copy
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ts_langchain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ts_langchain.health import Faults

T = TypeVar("T")


class Listeners(Generic[T]):
    """Each is told with a copy; what one raises is counted and goes no further.

    Args:
        what: What they are, for the count of faults.
        faults: Where what they raise is counted.
    """

    def __init__(self, what: str, faults: Faults) -> None:
        self._what = what
        self._faults = faults
        self._callbacks: list[Callable[[T], object]] = []

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def add(self, callback: Callable[[T], object]) -> None:
        """Takes one more.

        Raises:
            ConfigurationError: It cannot be called where nobody awaits: not callable, or a coroutine function.
        """
        _check(callback)
        self._callbacks.append(callback)

    def tell(self, found: T) -> None:
        """Calls all of them. No lock may be held."""
        for callback in self._callbacks:
            with self._faults.fail_open(self._what):
                callback(copy.copy(found))


def _check(callback: Any) -> None:
    """Raises if the callback is no plain function."""
    if not callable(callback):
        msg = f"the callback is {callback!r}, expected a function of one argument"
        raise ConfigurationError(msg)
    if iscoroutinefunction(callback) or iscoroutinefunction(getattr(callback, "__call__", None)):  # noqa: B004
        msg = (
            "the callback is a coroutine function, and nobody would await it: calls end in any thread. Give a plain "
            "function that hands over, for example lambda found: asyncio.run_coroutine_threadsafe(tell(found), loop)"
        )
        raise ConfigurationError(msg)
