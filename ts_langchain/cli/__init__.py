"""The `ts-langchain` command."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress


def main() -> None:
    """Runs the command."""
    ended_by = _end_like_ctrl_c()
    try:
        from ts_langchain.cli.app import run

        run()
    except KeyboardInterrupt:  # loading, and making the commands, takes a second or two
        pass
    except SystemExit as ended:
        if ended.code != 128 + signal.SIGINT:
            raise
    else:
        return
    code = 128 + ended_by[-1]
    if threading.active_count() > 1:
        _leave(code)
    sys.exit(code)


def _end_like_ctrl_c() -> list[int]:
    """Has what schedulers send (SIGTERM), and a terminal that goes away (SIGHUP, unless `nohup` has it ignored), do so.

    Returns:
        Signals that have come, the last one last; as long as none has, that of Ctrl-C.
    """
    came: list[int] = [signal.SIGINT]

    def end(number: int, _: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
    return came


def _leave(code: int) -> None:
    """Ends at once: Python would wait for threads that a silent server holds, for a minute and more."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
