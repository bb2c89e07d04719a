"""Trying again what may pass: how often, and how long is waited in between."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import tenacity

from ts_importers.base import Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from ts_importers.base import OnWait

ATTEMPTS = 8
LONGEST_BACKOFF = 60.0
LONGEST_RETRY_AFTER = 300.0


class MayPass(Exception):
    """Worth another try.

    Attributes:
        reason: What happened, for people.
        after: Seconds that the service asks to wait for, None if it does not say.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        self.reason = reason
        self.after = after
        super().__init__(reason)


def retrying(
    service: str,
    *,
    on_wait: OnWait | None,
    sleep: Callable[[float], None],
    attempts: int = ATTEMPTS,
    unless: tenacity.stop.stop_base = tenacity.stop_never,
) -> tenacity.Retrying:
    """Calls a function again while it raises `MayPass`, and raises the last of them.

    Args:
        service: Who is asked, for messages.
        on_wait: Told of each wait.
        sleep: Waits for so many seconds.
        attempts: How often the function is called at most.
        unless: Ends it sooner.

    Returns:
        Calls it. Waits for as long as the service asks, up to five minutes, else by jittered exponential back-off.
    """
    backoff = tenacity.wait_random_exponential(multiplier=1, max=LONGEST_BACKOFF)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        after = error.after if isinstance(error, MayPass) else None
        # services round down: after no time at all they would be asked eight times in one second
        return min(after, LONGEST_RETRY_AFTER) if after else backoff(state)

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if on_wait is not None and isinstance(error, MayPass):
            seconds = state.next_action.sleep if state.next_action else 0.0
            on_wait(Wait(seconds, f"{service}: {error.reason}", state.attempt_number))

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(MayPass),
        stop=tenacity.stop_any(tenacity.stop_after_attempt(attempts), unless),
        wait=wait,
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )


def retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a number or an HTTP date; None if it says nothing sensible."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
