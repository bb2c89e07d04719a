"""`token_sentinel(...)`: watch everything inside a block, without passing callbacks."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from langchain_core.tracers.context import register_configure_hook

from ts_langchain.capture.handler import TokenSentinelHandler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ts_langchain.sentinel import Mode, Sentinel

MAX_BLOCKS = 64  # as many as contexts, see there
MAX_SEEN = 8


class Block(NamedTuple):
    """A door or `token_sentinel` block that is open."""

    handler: TokenSentinelHandler
    seen: tuple[TokenSentinelHandler, ...]
    """Who sees what begins here, the innermost first: of each Sentinel one."""
    around: Block | None
    depth: int = 0
    """How many are around it."""


_innermost: ContextVar[Block | None] = ContextVar("ts_langchain_block", default=None)
_places: list[ContextVar[TokenSentinelHandler | None]] = []
"""Where LangChain finds who sees. It looks at each for every run, and for good: there are as many as were needed."""


def _place(number: int) -> ContextVar[TokenSentinelHandler | None]:
    while number >= len(_places):
        made: ContextVar[TokenSentinelHandler | None] = ContextVar("ts_langchain_handler", default=None)
        register_configure_hook(made, inheritable=True)
        _places.append(made)
    return _places[number]


def innermost() -> Block | None:
    """The innermost door or block."""
    return _innermost.get()


def is_seeing(handler: TokenSentinelHandler) -> bool:
    """True if it is the innermost of its Sentinel around this place."""
    block = _innermost.get()
    return block is not None and handler in block.seen


def begin(handler: TokenSentinelHandler) -> Block:
    """Has this handler see what begins from here on, and those around it that belong to other Sentinels."""
    outer = _innermost.get()
    if outer is None:
        block = Block(handler, (handler,), None)
        _place(0).set(handler)
    else:
        others = tuple(h for h in outer.seen if h.sentinel is not handler.sentinel)
        if outer.depth < MAX_BLOCKS:
            block = Block(handler, (handler, *others)[:MAX_SEEN], outer, outer.depth + 1)
        else:
            block = Block(handler, (handler,), None)
        _show(block.seen, outer.seen)
    _innermost.set(block)
    return block


def end(block: Block) -> None:
    """Ends this block and all inside of it, unless it began in another context."""
    now = found = _innermost.get()
    while found is not None and found is not block:
        found = found.around
    if found is not None and now is not None:
        _innermost.set(block.around)
        _show(block.around.seen if block.around is not None else (), now.seen)


def _show(seen: tuple[TokenSentinelHandler, ...], before: tuple[TokenSentinelHandler, ...]) -> None:
    for number in range(max(len(seen), len(before))):
        _place(number).set(seen[number] if number < len(seen) else None)


@contextmanager
def token_sentinel(
    sentinel: Sentinel | None = None, *, mode: Mode = "observe", session_id: object | None = None
) -> Iterator[TokenSentinelHandler]:
    """Turns a handler on for every LangChain and LangGraph run started inside.

    Blocks around it that belong to other Sentinels see these runs, too. Threads that you start yourself begin
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
    block = begin(handler)
    try:
        yield handler
    finally:
        end(block)
