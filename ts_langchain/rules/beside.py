"""Calls that follow one another, and those that are made side by side.

Tasks of one superstep of LangGraph do not know of each other, whether they run at the same time or in turn.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ts_langchain.call import Call

_ONE = Struct("=qqqd")
NEVER = b""

Made = bytes
"""Of each call its turn or run, its superstep and task, and when it was made; packed, since there are many."""


def then(made: Made, call: Call, of: int, at: float, kept: int) -> Made:
    """Calls that follow one another, and this one. Of tasks side by side only the newest counts.

    Args:
        made: The calls so far.
        call: The call.
        of: Its turn, or its run.
        at: When it was made.
        kept: How many calls are kept, the newest.
    """
    whose, step, task = hash(of), hash(call.step), hash(call.task)
    if made:
        known = list(_ONE.iter_unpack(made))
        others = [one for one in known if one[0] != whose or one[1] != step or one[2] == task]
        if len(others) < len(known):
            made = b"".join(_ONE.pack(*one) for one in others)
    return (made + _ONE.pack(whose, step, task, at))[-_ONE.size * kept :]


def alone(call: Call, of: int, at: float) -> Made:
    """This call, which follows none."""
    return _ONE.pack(hash(of), hash(call.step), hash(call.task), at)


def number_of(made: Made) -> int:
    """How many calls these are."""
    return len(made) // _ONE.size


def times(made: Made, of: int) -> list[float]:
    """When the calls of one turn or run were made."""
    whose = hash(of)
    return [at for other, _, _, at in _ONE.iter_unpack(made) if other == whose]


def fall(times: list[float], count: int, seconds: float) -> bool:
    """True if the newest `count` times lie within so many seconds."""
    return len(times) >= count and times[-1] - times[-count] <= seconds


def begun_anew(made: Made, of: int) -> Made:
    """The newest call alone, if it is of this turn or run; else all."""
    newest = made[-_ONE.size :]
    return newest if times(newest, of) else made
