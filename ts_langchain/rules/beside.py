"""Calls that follow one another, and those that are made side by side.

Tasks of one superstep of LangGraph do not know of each other, whether they run at the same time or in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ts_langchain.call import Call

Made = tuple[Any, ...]
"""Of each call its turn or run, its superstep and task, and when it was made; flat, since there are many."""


def then(made: Made, call: Call, of: int | str, at: float, kept: int) -> Made:
    """Calls that follow one another, and this one. Of tasks side by side only the newest counts.

    Args:
        made: The calls so far.
        call: The call.
        of: Its turn, or its run.
        at: When it was made.
        kept: How many calls are kept, the newest.
    """
    known: list[Any] = []
    for i in range(0, len(made), 4):
        if made[i] != of or made[i + 1] != call.step or made[i + 2] == call.task:
            known += made[i : i + 4]
    return (*known, of, call.step, call.task, at)[-4 * kept :]


def times(made: Made, of: int | str) -> list[float]:
    """When the calls of one turn or run were made."""
    return [at for whose, at in zip(made[::4], made[3::4], strict=True) if whose == of]


def fall(times: list[float], count: int, seconds: float) -> bool:
    """True if the newest `count` times lie within so many seconds."""
    return len(times) >= count and times[-1] - times[-count] <= seconds


def begun_anew(made: Made, of: int | str) -> Made:
    """The newest call alone, if it is of this turn or run; else all."""
    return made[-4:] if made[-4:-3] == (of,) else made
