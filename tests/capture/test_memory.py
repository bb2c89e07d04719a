"""Which of the tool calls that a model asked for a run without an id is."""

from __future__ import annotations

import pytest
from histories import START

from ts_langchain.call import Call, ToolCall
from ts_langchain.capture.memory import MAX_REQUESTED, Memory
from ts_langchain.fingerprint import arguments

ONE, TWO, THREE = (arguments({"n": n}) for n in (1, 2, 3))


def asked(*calls: ToolCall) -> Memory:
    memory = Memory()
    memory.request(Call("m", "model", "s", "r", "gpt", START, START + 1, tool_calls=calls))
    return memory


@pytest.fixture
def memory() -> Memory:
    return asked(
        ToolCall("a", "fetch", ONE.fingerprint),
        ToolCall("b", "fetch", TWO.fingerprint),
        ToolCall("c", "fetch", TWO.fingerprint),
        ToolCall("d", "send", THREE.fingerprint),
    )


def test_the_oldest_with_these_arguments_comes_first(memory: Memory) -> None:
    assert [memory.find("fetch", given) for given in (ONE, TWO)] == ["a", "b"]
    del memory.requested["b"]
    assert memory.find("fetch", TWO) == "c"


def test_else_the_oldest_of_the_tool(memory: Memory) -> None:
    """Some write arguments down in a form of their own."""
    assert [memory.find(name, THREE) for name in ("fetch", "send", "open")] == ["a", "d", None]
    assert memory.find("fetch", None) is None
    assert Memory().find("fetch", ONE) is None


def test_what_has_waited_comes_behind_what_has_not_run(memory: Memory) -> None:
    memory.wait(None, "fetch", TWO)
    assert [call_id for call_id, call in memory.requested.items() if call.waited] == ["b"]
    assert memory.find("fetch", TWO) == "c"
    memory.wait("a", "fetch", TWO)
    memory.wait("unknown", "fetch", TWO)
    memory.wait(None, "open", None)
    assert [call_id for call_id, call in memory.requested.items() if call.waited] == ["b", "a"]


def test_what_is_remembered_is_bounded() -> None:
    many = [ToolCall(str(n), "fetch", n) for n in range(MAX_REQUESTED + 5)]
    memory = asked(ToolCall("", "fetch", 0), ToolCall("broken", "fetch", 0, valid=False), *many)
    assert list(memory.requested) == [str(n) for n in range(5, MAX_REQUESTED + 5)]
