"""Failing open: what goes wrong inside is counted, logged once, and never reaches the app."""

from __future__ import annotations

import logging
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("ts_langchain")

MAX_PLACES = 100


def announce(rule: str, summary: str, suggestion: str, level: int) -> None:
    """One line about what was found or done: names and numbers."""
    logger.log(level, "ts-langchain: %s: %s", rule, f"{summary} {suggestion}".strip())


class Faults:
    """Counts what went wrong, by place and exception type."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._counts: dict[str, int] = {}
        self.total = 0

    def after_fork(self) -> None:
        """Has a lock of its own in a forked process."""
        self._lock = threading.RLock()

    def record(self, where: str, error: BaseException) -> None:
        """Counts an exception; the first of its kind at this place is logged, at level DEBUG with where it came from.

        Its message is left out: it may quote a prompt. Never raises, whatever the app has made of its logging, and if
        there is no room left on the stack.
        """
        try:  # noqa: SIM105 - `suppress` takes room, too
            self._record(where, error)
        except Exception:  # noqa: BLE001, S110 - there is nobody left to tell
            pass

    def _record(self, where: str, error: BaseException) -> None:
        key = f"{where}: {type(error).__name__}"
        with self._lock:
            self.total += 1
            if key not in self._counts and len(self._counts) >= MAX_PLACES:
                key = "others"
            count = self._counts[key] = self._counts.get(key, 0) + 1
        if count == 1:
            logger.warning(
                "ts-langchain: %s was raised in %s and swallowed; observation of this event is incomplete, your "
                "app is not affected. Further ones are only counted, see sentinel.health().",
                type(error).__name__,
                where,
            )
            if logger.isEnabledFor(logging.DEBUG):
                frames = "".join(traceback.format_tb(error.__traceback__))
                logger.debug("ts-langchain: %s came from\n%s", type(error).__name__, frames)

    @contextmanager
    def fail_open(self, where: str) -> Iterator[None]:
        """Swallows and counts every exception but the ones that end the program.

        Interventions as well: what a user's callback calls itself may be held back, which is not about the app's call.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the one place that fails open
            self.record(where, error)

    def counts(self) -> dict[str, int]:
        """Place and exception type to number of times."""
        with self._lock:
            return dict(self._counts)
