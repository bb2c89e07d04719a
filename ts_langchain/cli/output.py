"""Exit codes, and where the command writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.segment import Segment

from ts_langchain.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ImporterError,
    LedgerError,
    SourceUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import ConsoleOptions, RenderableType

FAILED = 1
USAGE = 2
NO_ACCESS = 3
UNAVAILABLE = 4
INTERRUPTED = 130
BROKEN_PIPE = 141


class _Console(Console):
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """What others have named or said (a session, a model, a server) moves no cursor and turns no text round."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_UNSEEN.sub("\ufffd", segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Nobody reads on, as behind `| head`: ends like other commands, which SIGPIPE ends."""
        with suppress(SystemExit):
            super().on_broken_pipe()
        raise SystemExit(BROKEN_PIPE)


_UNSEEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What a terminal obeys and does not show: control characters but the end of a line, and marks of direction."""

out = _Console(soft_wrap=False, highlight=False)
err = _Console(stderr=True, highlight=False)


@contextmanager
def clear_errors(*, resumes: bool = False) -> Iterator[None]:
    """Turns our exceptions into one clear line and an exit code.

    Args:
        resumes: The same command, run again, goes on where this one is interrupted.
    """
    try:
        yield
    except ConfigurationError as error:
        _stop(error, USAGE)
    except AuthenticationFailed as error:
        _stop(error, NO_ACCESS)
    except SourceUnavailable as error:
        _stop(error, UNAVAILABLE)
    except (ImporterError, LedgerError) as error:
        _stop(error, FAILED)
    except KeyboardInterrupt:
        err.print(
            "\n[yellow]Interrupted.[/]" + (" What is done is kept; run the same command to go on." if resumes else "")
        )
        raise typer.Exit(INTERRUPTED) from None


def _stop(error: Exception, code: int) -> None:
    err.print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True)  # paths and commands stay whole
    raise typer.Exit(code) from None


def print_json(value: object) -> None:
    """JSON on stdout."""
    try:
        out.file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
    except BrokenPipeError:
        out.on_broken_pipe()
