"""Live: what the handler adds to a model call, against what a handler that does nothing adds.

    python benchmarks/live.py

A scripted chat model is invoked with a growing conversation: each turn asks for a tool with 2 KB of arguments, the
tool runs, its answer joins the conversation. Measured is the model call, `invoke` to return, with all rules on. Bare
framework, no-op handler and ours alternate; the figures are medians of the differences to the bare framework.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool

from ts_langchain import TokenSentinelHandler

ARGUMENT = "lorem ipsum dolor sit amet " * 76  # 2 KB
ROUNDS = 400
TARGET_RATIO, TARGET_LENGTH, TARGET_HISTORY = 5.0, 1.3, 1.5


class NoOp(BaseCallbackHandler):
    """The cheapest handler there can be: inline, and with the chat hook."""

    run_inline = True

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


class Fast(BaseChatModel):
    """A model that costs as little as possible."""

    answer: Any = None

    @property
    def _llm_type(self) -> str:
        return "fast"

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        return {"ls_provider": "openai", "ls_model_name": "gpt-4o", "ls_model_type": "chat"}

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.answer)])


@tool
def write_note(text: str, number: int) -> str:
    """Writes a note."""
    return f"{len(text)} characters written as note {number}"


def turn(number: int) -> list[Any]:
    """A model turn that asks for the tool, and the tool's answer."""
    call = {"name": "write_note", "args": {"text": ARGUMENT, "number": number}, "id": f"c{number}", "type": "tool_call"}
    return [AIMessage("", tool_calls=[call]), ToolMessage(f"written {number}", tool_call_id=f"c{number}")]


def answer(number: int) -> AIMessage:
    """The model's answer in this turn."""
    call = {"name": "write_note", "args": {"text": ARGUMENT, "number": number}, "id": f"c{number}", "type": "tool_call"}
    return AIMessage(
        "",
        tool_calls=[call],
        usage_metadata={"input_tokens": 500 + number, "output_tokens": 20, "total_tokens": 520 + number},
        response_metadata={"model_name": "gpt-4o", "finish_reason": "tool_calls"},
    )


class Conversation:
    """One session, advanced turn by turn. The tool runs with its own callbacks, outside of the measurement."""

    def __init__(self, handler: BaseCallbackHandler | None, name: str, history: int) -> None:
        self.config = {"callbacks": [handler] if handler else [], "metadata": {"thread_id": name}}
        self.model = Fast()
        self.base = [SystemMessage("You take notes."), HumanMessage("Take many notes.")]
        for number in range(history // 2):
            self.base += turn(-1 - number)
        self.tail: list[Any] = []
        self.number = 0

    def step(self) -> float:
        """One turn; seconds the model call took. The conversation keeps its length: the oldest tail goes."""
        self.model.answer = answer(self.number)
        messages = self.base + self.tail
        begin = time.perf_counter()
        message = self.model.invoke(messages, self.config)
        took = time.perf_counter() - begin
        result = write_note.invoke({**message.tool_calls[0], "type": "tool_call"}, self.config)
        self.tail += [message, result]
        self.number += 1
        return took


def added(history: int, skip: int, rounds: int) -> tuple[float, float]:
    """Median µs that the no-op handler and ours add to calls `skip` to `skip + rounds` of a session."""
    sides = [
        Conversation(None, "bare", history),
        Conversation(NoOp(), "noop", history),
        Conversation(TokenSentinelHandler(), "ours", history),
    ]
    differences: list[list[float]] = [[], []]
    for number in range(skip + rounds):
        for side in sides:
            if len(side.tail) > 40:
                # a new user message starts the window again; the prefix stays the same
                side.tail = []
        order = sides if number % 2 else sides[::-1]
        times = {id(side): side.step() for side in order}
        if number >= skip:
            bare = times[id(sides[0])]
            differences[0].append(times[id(sides[1])] - bare)
            differences[1].append(times[id(sides[2])] - bare)
    return statistics.median(differences[0]) * 1e6, statistics.median(differences[1]) * 1e6


def main() -> int:
    """Prints the table. Exit code 1 if a target is missed."""
    added(2, 0, 200)  # warm
    rows: list[tuple[str, float, float]] = []
    firsts = [added(2, 0, 1) for _ in range(60)]
    rows.append(("call 1", statistics.median(f[0] for f in firsts), statistics.median(f[1] for f in firsts)))
    rows.append(("calls 10-50", *added(2, 9, 40 * 5)))
    rows.append(("calls 1000-1200", *added(2, 999, 200)))
    rows.append(("100-message history", *added(98, 9, ROUNDS)))
    rows.append(("2-message history", *added(0, 9, ROUNDS)))
    print(f"{'':22} {'no-op µs':>9} {'ours µs':>9} {'ratio':>6}")
    for name, noop, ours in rows:
        print(f"{name:22} {noop:9.1f} {ours:9.1f} {ours / noop:6.2f}")
    figures = {name: ours for name, _, ours in rows}
    ratio = rows[1][2] / rows[1][1]
    length = figures["calls 1000-1200"] / figures["calls 10-50"]
    history = figures["100-message history"] / figures["2-message history"]
    checks = [
        ("ours / no-op", ratio, TARGET_RATIO),
        ("call 1000 / call 10", length, TARGET_LENGTH),
        ("100 / 2 messages", history, TARGET_HISTORY),
    ]
    missed = 0
    for name, value, target in checks:
        missed += value > target
        print(f"{name:22} {value:6.2f}  target ≤ {target}  {'ok' if value <= target else 'MISSED'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
