"""Middleware: what it adds to an agent's turn while it has nothing to do, against what the handler alone adds.

    python benchmarks/middleware.py

A `create_agent` agent makes 30 turns, each with a tool; scripted model, recommended policy. Bare agent, agent with the
handler, and agent with the middleware (which watches by itself) alternate; the figures are medians of the differences
to the bare agent, per turn.
"""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from measure import paired

from ts_langchain import TokenSentinelHandler, TokenSentinelMiddleware
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Callable

TURNS = 30
ROUNDS = 25
TARGET = 3.0


@tool
def take_note(number: int) -> str:
    """Takes a note."""
    return f"note {number} taken"


def script() -> list[Any]:
    """Thirty turns, each with another call."""
    return [*(call_tool("take_note", number=i) for i in range(TURNS)), AIMessage("done")]


def agent(middleware: list[Any], callbacks: list[Any]) -> Callable[[], object]:
    """One run of an agent, on a thread of its own each time."""
    numbers = iter(range(1_000_000))

    def run() -> object:
        app = create_agent(ScriptedChatModel(script=script()), [take_note], middleware=middleware)
        config: Any = {
            "callbacks": callbacks,
            "recursion_limit": 200,
            "metadata": {"session_id": f"s{next(numbers)}"},
        }
        return app.invoke({"messages": [HumanMessage("go")]}, config)

    return run


class Plain(TokenSentinelMiddleware):
    """The hooks of the middleware doing nothing: what the framework itself charges for them."""

    def before_agent(self, state: Any, runtime: Any) -> Any:
        return None

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request)

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        return handler(request)


def main() -> int:
    """Prints the table. Exit code 1 if the target is missed."""
    sides = [
        agent([], []),
        agent([Plain()], []),
        agent([], [TokenSentinelHandler()]),
        agent([TokenSentinelMiddleware()], []),
    ]
    for side in sides:
        side()
    results = [paired(sides, ROUNDS) for _ in range(3)]
    bare, hooks, handler, middleware = (statistics.median(r[i] for r in results) / TURNS * 1e6 for i in range(4))
    print(f"bare agent                    {bare:8.0f} µs a turn")
    for name, value in (("empty middleware", hooks), ("handler", handler), ("middleware", middleware)):
        print(f"{name:22} adds   {value - bare:8.0f} µs a turn")
    ratio = (middleware - bare) / (handler - bare)
    print(f"middleware / handler   {ratio:6.2f}  target ≤ {TARGET}  {'ok' if ratio <= TARGET else 'MISSED'}")
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
