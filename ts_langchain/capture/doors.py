"""What the doors around a call (middleware, guards) and the handlers behind them tell each other."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ts_langchain.budget import Reservation
    from ts_langchain.capture.tasks import Begun
    from ts_langchain.decision import Decision
    from ts_langchain.sentinel import Sentinel


class Chosen(NamedTuple):
    """The model that a door has chosen instead of another, and why."""

    model: str
    decisions: tuple[Decision, ...]


class Reserved(NamedTuple):
    """What a door has reserved for the model call inside, and what doors around it have."""

    sentinel: Sentinel
    reservation: Reservation
    around: Reserved | None
    chosen: Chosen | None = None


reserved: ContextVar[Reserved | None] = ContextVar("ts_langchain_reserved", default=None)
"""What the doors around have reserved, the innermost first."""
begun: ContextVar[Begun | None] = ContextVar("ts_langchain_begun", default=None)
"""Calls that began behind the innermost door; a task that was started there goes on for as long as it likes."""


def reserved_by(sentinel: Sentinel) -> Reservation | None:
    """What the innermost door of this Sentinel has reserved; those of others keep other accounts."""
    found = door_of(sentinel)
    return found.reservation if found is not None else None


def door_of(sentinel: Sentinel) -> Reserved | None:
    """The innermost door of this Sentinel around a model call."""
    found = reserved.get()
    while found is not None and found.sentinel is not sentinel:
        found = found.around
    return found
