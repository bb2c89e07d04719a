"""Forks, as gunicorn with `--preload`, Celery and multiprocessing make them.

In the child all other threads are gone: what they watched is watched no longer, and a lock that one of them held would
stay held for ever. Whoever owns locks or threads makes them anew there, in an order of its own.
"""

from __future__ import annotations

import logging
import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something with locks or threads."""

    def after_fork(self) -> None:
        """Makes them anew. Called in the child, where no other thread runs."""
        ...


_known: weakref.WeakSet[Forked] = weakref.WeakSet()


def survives_fork(owner: Forked) -> None:
    """Has `owner.after_fork()` called in each forked child for as long as the owner lives."""
    _known.add(owner)


def _in_child() -> None:
    for owner in list(_known):
        try:
            owner.after_fork()
        except Exception as error:  # noqa: BLE001 - fails open, and others come after it
            logging.getLogger("ts_langchain").warning("ts-langchain: %s after a fork", type(error).__name__)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_in_child)
