"""Paired measuring: a candidate and its floor alternate in one process; the median of the differences counts."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def child(script: str, *args: str) -> bytes:
    """What a script prints in a process of its own, with compiled modules kept as on a user's machine."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, script, *args], check=True, stdout=subprocess.PIPE, env=env)
    return done.stdout


def paired(calls: list[Callable[[], object]], rounds: int, inner: int = 1) -> list[float]:
    """Median seconds of each call, all of them run in turn in each round."""
    times: list[list[float]] = [[] for _ in calls]
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            order = range(len(calls)) if number % 2 else reversed(range(len(calls)))
            for which in order:
                begin = time.perf_counter()
                for _ in range(inner):
                    calls[which]()
                times[which].append((time.perf_counter() - begin) / inner)
    finally:
        gc.enable()
    return [statistics.median(t) for t in times]
