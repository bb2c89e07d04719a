"""What an app hands over may be anything: it is left as it is, and its calls count."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
from agents import ASK
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel
from recorder import recorded

from ts_langchain import Sentinel, TokenSentinelHandler
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Iterator


class Table:
    """As pandas' tables and numpy's arrays do."""

    def __bool__(self) -> bool:
        msg = "the truth value is ambiguous"
        raise ValueError(msg)

    def __str__(self) -> str:
        return "a | b"


class Columns(Table):
    """A table whose columns are called like parts of a message."""

    type = content = Table()


class Unprintable:
    def __str__(self) -> str:
        msg = "zebra-quartz"
        raise ValueError(msg)


class UnprintableError(Exception, Unprintable):
    __str__ = Unprintable.__str__


class Once(list[int]):
    """A result that is fetched as it is gone through."""

    def __iter__(self) -> Iterator[int]:
        while len(self):
            yield self.pop(0)


class Queried(dict[str, int]):
    def values(self) -> Any:
        raise AssertionError

    items = values


class Loud(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise AssertionError


class Row(BaseModel):
    number: int


class Holder(BaseModel, arbitrary_types_allowed=True):
    table: Table


def tool_that_gives(result: Any) -> StructuredTool:
    given = [result]

    def look(n: int) -> Any:
        return given[0]

    return StructuredTool.from_function(look, description="Looks.")


@pytest.mark.parametrize(
    "result",
    [
        Table(),
        [Table()],
        Columns(),
        Loud("text"),
        [Loud("text")],
        Row.model_construct(number="one"),
        10**5000,
        [10**5000],
        Holder(table=Table()),
    ],
    ids=lambda result: type(result).__name__,
)
def test_a_tool_may_give_anything(result: Any) -> None:
    recorder, handler = recorded()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tool_that_gives(result).invoke({"n": 1}, {"callbacks": [handler]}) is result
    [call] = recorder.seen
    assert call.answer != 0
    assert recorder.health().faults == {}


@pytest.mark.parametrize("result", [{"rows": Once([1, 2, 3])}, {"rows": Queried(a=1)}], ids=["list", "dict"])
def test_methods_of_what_a_tool_gives_are_not_called(result: Any) -> None:
    recorder, handler = recorded()
    assert tool_that_gives(result).invoke({"n": 1}, {"callbacks": [handler]}) is result
    assert len(result["rows"]) in (1, 3)
    assert recorder.seen[0].answer != 0
    assert recorder.health().faults == {}


def test_what_cannot_be_read_counts_as_not_recorded() -> None:
    recorder, handler = recorded()
    tool_that_gives(Unprintable()).invoke({"n": 1}, {"callbacks": [handler]})
    [call] = recorder.seen
    assert (call.status, call.answer) == ("ok", 0)
    assert recorder.health().faults == {"handler: tool output: ValueError": 1}


def test_arguments_that_cannot_be_read_count_as_not_recorded() -> None:
    recorder, handler = recorded()

    @tool
    def take(thing: Any) -> str:
        """Takes."""
        return "taken"

    take.invoke({"thing": Unprintable()}, {"callbacks": [handler]})
    [call] = recorder.seen
    assert (call.name, call.arguments) == ("take", None)


def test_an_error_without_words_is_an_error() -> None:
    recorder, handler = recorded()

    @tool
    def fail(n: int) -> str:
        """Fails."""
        raise UnprintableError

    with pytest.raises(UnprintableError):
        fail.invoke({"n": 1}, {"callbacks": [handler]})
    [call] = recorder.seen
    assert (call.status, call.error) == ("error", "UnprintableError")


def test_a_prompt_that_cannot_be_read_is_billed_all_the_same() -> None:
    recorder, handler = recorded()
    model = ScriptedChatModel(script=["done"])
    fine = HumanMessage("x" * 400)
    odd = HumanMessage([{"type": "media", "what": Unprintable()}])
    model.invoke([fine, odd], {"callbacks": [handler]})
    model.invoke([fine, AIMessage("ok")], {"callbacks": [handler]})
    first, second = recorder.seen
    assert first.usage.input_tokens > 100
    assert first.prompt is not None
    assert first.prompt.messages == 0
    assert second.prompt is not None
    assert second.prompt.chars == 402
    assert recorder.health().faults == {"handler: prompt: ValueError": 1}


def test_an_answer_that_cannot_be_read_settles_what_was_reserved() -> None:
    sentinel = Sentinel(policy={"mode": "enforce", "budgets": [{"per": "session", "usd": 1.0}]})
    handler = TokenSentinelHandler(sentinel)
    odd = AIMessage([{"type": "media", "what": Unprintable()}])
    ScriptedChatModel(script=[odd]).invoke("x" * 40, {"callbacks": [handler], "metadata": {"session_id": "s"}})
    totals = sentinel.totals("s")
    assert totals is not None
    assert (totals.model_calls, totals.estimated_calls) == (1, 1)
    assert totals.input_tokens == 10
    assert sentinel.in_flight.reservations == {}
    assert sentinel.health().faults == {"handler: answer: ValueError": 1}


def test_an_agent_whose_tool_gives_a_table_is_watched() -> None:
    recorder, handler = recorded()
    agent = create_agent(ScriptedChatModel(script=[call_tool("look", n=1), "done"]), [tool_that_gives(Table())])
    agent.invoke(ASK, {"callbacks": [handler]})
    assert recorder.kinds() == ["model", "tool", "model"]
