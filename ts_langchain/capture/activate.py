"""`token_sentinel(...)`: watch everything inside a block, without passing callbacks."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from langchain_core.tracers.context import register_configure_hook

from ts_langchain.capture.context import put_back
from ts_langchain.capture.handler import TokenSentinelHandler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ts_langchain.sentinel import Mode, Sentinel

active: ContextVar[TokenSentinelHandler | None] = ContextVar("ts_langchain_handler", default=None)
"""The handler of the innermost door or `token_sentinel` block."""
around: ContextVar[TokenSentinelHandler | None] = ContextVar("ts_langchain_handler_around", default=None)
"""That of the door or block around it that belongs to another Sentinel, which is to see the same."""
# registered once: LangChain keeps every registered hook for good
register_configure_hook(active, inheritable=True)
register_configure_hook(around, inheritable=True)


def outside(sentinel: Sentinel) -> TokenSentinelHandler | None:
    """The handler around this place that belongs to another Sentinel, and goes on seeing what begins here."""
    before = active.get()
    return before if before is not None and before.sentinel is not sentinel else around.get()


@contextmanager
def token_sentinel(
    sentinel: Sentinel | None = None, *, mode: Mode = "observe", session_id: object | None = None
) -> Iterator[TokenSentinelHandler]:
    """Turns a handler on for every LangChain and LangGraph run started inside.

    A block around it that belongs to another Sentinel sees these runs, too. Threads that you start yourself begin
    outside of it: pass them the handler in `callbacks`, or run them in `contextvars.copy_context()`.

    Args:
        sentinel: The `Sentinel` to feed; a new one if left out.
        mode: `observe` or `block`, as for `TokenSentinelHandler`.
        session_id: The conversation everything inside belongs to.

    Yields:
        The handler; `handler.sentinel` holds what was found.

    Example:
        >>> with token_sentinel() as handler:
        ...     pass  # agent.invoke(...)
        >>> handler.sentinel.incidents()
        []
    """
    handler = TokenSentinelHandler(sentinel, mode=mode, session_id=session_id)
    beside = around.set(outside(handler.sentinel))
    token = active.set(handler)
    try:
        yield handler
    finally:
        put_back(active, token)
        put_back(around, beside)
