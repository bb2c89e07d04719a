"""Agents at work as they should be: whatever looks like a loop and is none raises nothing, in block mode neither."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState
from langgraph.types import Command

from ts_langchain import TokenSentinelHandler
from ts_langchain.testing import ScriptedChatModel, call_tool

DONE = AIMessage("That is all, and this is what came of it.")
WORDS = ("costs", "time", "risks", "people", "law", "taxes", "travel", "tools")


@tool
def edit_file(path: str, old: str, new: str) -> str:
    """Edits."""
    return f"Edited {path}"


@tool
def run_tests() -> str:
    """Tests."""
    return "1 failed, 41 passed"


def _fail() -> str:
    """Tests."""
    raise ToolException("1 failed, 41 passed")


failing_tests = tool("failing_tests")(_fail)
failing_tests.handle_tool_error = True


@tool
def bash(command: str) -> str:
    """Runs a command."""
    return "1 failed" if "pytest" in command else ""


@tool
def browser_click(ref: str) -> str:
    """Clicks."""
    return "clicked"


@tool
def browser_snapshot() -> str:
    """Looks."""
    return "a page with a form"


@tool
def browser_wait_for(time: int) -> str:
    """Waits."""
    return f"waited {time} s"


@tool
def list_items(cursor: str = "") -> str:
    """Lists."""
    return f"items after {cursor}"


@tool
def guess(n: int) -> str:
    """Guesses."""
    return "too low" if n < 90 else "right"


@tool
def think(thought: str) -> str:
    """Thinks."""
    return "Your thought has been logged."


@tool
def do_task(task: str) -> str:
    """Works."""
    return "ok"


@tool
def process(item: str) -> str:
    """Works."""
    return "done"


@tool
def write_todos(todos: list[str]) -> str:
    """Plans."""
    return "Updated the list."


@tool
def send_email(to: str, body: str) -> str:
    """Sends."""
    return "sent"


@tool
def send_message(text: str) -> str:
    """Sends."""
    return "sent"


@tool
def ask_user(question: str) -> str:
    """Asks."""
    return "yes"


@tool
def run_sql(query: str) -> str:
    """Asks a database."""
    return "[]"


@tool
def get_order(number: str) -> str:
    """Looks an order up."""
    return f"order {number} is on its way"


def edited(n: int) -> AIMessage:
    return call_tool("edit_file", path="a.py", old=f"x{n}", new=f"x{n + 1}")


SCRIPTS: dict[str, tuple[list[AIMessage], list[Any]]] = {
    "edits, and the same test fails": (
        [step for n in range(6) for step in (edited(n), call_tool("run_tests"))],
        [edit_file, run_tests],
    ),
    "edits, and the same error comes": (
        [step for n in range(6) for step in (edited(n), call_tool("failing_tests"))],
        [edit_file, failing_tests],
    ),
    "commands, and the same test fails": (
        [
            call_tool("bash", command=command)
            for n in range(6)
            for command in (f"sed -i s/x{n}/x{n + 1}/ a.py", "pytest -q")
        ],
        [bash],
    ),
    "a form is filled in": (
        [s for n in range(6) for s in (call_tool("browser_click", ref=f"field {n}"), call_tool("browser_snapshot"))],
        [browser_click, browser_snapshot],
    ),
    "one document after the other": (
        [step for w in WORDS for step in (call_tool("process", item=w), call_tool("do_task", task=f"file {w}"))],
        [process, do_task],
    ),
    "waiting for a page": (
        [step for _ in range(6) for step in (call_tool("browser_wait_for", time=3), call_tool("browser_snapshot"))],
        [browser_wait_for, browser_snapshot],
    ),
    "pages of a list": ([call_tool("list_items", cursor=f"c{n}") for n in range(8)], [list_items]),
    "guesses": ([call_tool("guess", n=n * 10) for n in range(1, 10)], [guess]),
    "thoughts": ([call_tool("think", thought=f"Now I weigh the {w} of this plan.") for w in WORDS], [think]),
    "tasks and plans": (
        [
            step
            for n, word in enumerate(WORDS)
            for step in (call_tool("do_task", task=word), call_tool("write_todos", todos=list(WORDS[:n])))
        ],
        [do_task, write_todos],
    ),
    "a message to each of many": (
        [call_tool("send_message", text=f"Dear {w} team, the meeting is moved to Monday at ten.") for w in WORDS],
        [send_message],
    ),
    "questions to a person": ([call_tool("ask_user", question="Shall I go on?") for _ in range(6)], [ask_user]),
    "one mail to many": (
        [call_tool("send_email", to=f"{w}@example.org", body="The meeting is moved to Monday at ten.") for w in WORDS],
        [send_email],
    ),
    "queries that find nothing": (
        [call_tool("run_sql", query=f"open orders of customer {n} please") for n in range(8)],
        [run_sql],
    ),
}


@pytest.mark.parametrize("mode", ["observe", "block"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_an_agent(name: str, mode: Any) -> None:
    script, tools = SCRIPTS[name]
    model = ScriptedChatModel(script=[*script, DONE])
    handler = TokenSentinelHandler(mode=mode)
    app = create_agent(model, tools)
    out = app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 200})
    assert out["messages"][-1].content == DONE.content
    assert model.calls == len(script) + 1
    assert handler.sentinel.incidents() == []
    assert handler.sentinel.health().ok


def test_a_writer_and_a_critic() -> None:
    """A supervisor gives the task to one and to the other, until the text is good."""

    def handoff(to: str) -> Any:
        def transfer(
            state: Annotated[dict[str, Any], InjectedState], tool_call_id: Annotated[str, InjectedToolCallId]
        ) -> Command[Any]:
            """Gives the task to an agent."""
            done = ToolMessage(f"Successfully transferred to {to}", tool_call_id=tool_call_id)
            return Command(goto=to, graph=Command.PARENT, update={"messages": [*state["messages"], done]})

        return tool(f"transfer_to_{to}")(transfer)

    turns = [call_tool("transfer_to_writer"), call_tool("transfer_to_critic")] * 4
    boss = ScriptedChatModel(script=[*turns, DONE])
    writer = ScriptedChatModel(script=[AIMessage(f"Of the sea and its {w}, verse {n}") for n, w in enumerate(WORDS)])
    critic = ScriptedChatModel(script=[AIMessage(f"It lacks {w}; say more of them.") for w in WORDS])
    builder = StateGraph(MessagesState)
    tools = [handoff("writer"), handoff("critic")]
    builder.add_node("boss", create_agent(boss, tools), destinations=("writer", "critic"))
    for name, model in (("writer", writer), ("critic", critic)):
        builder.add_node(name, create_agent(model, []))
        builder.add_edge(name, "boss")
    builder.add_edge(START, "boss")
    handler = TokenSentinelHandler(mode="block")
    config: Any = {"callbacks": [handler], "recursion_limit": 200}
    out = builder.compile().invoke({"messages": [HumanMessage("Write a poem.")]}, config)
    assert out["messages"][-1].content == DONE.content
    assert (boss.calls, writer.calls, critic.calls) == (9, 4, 4)
    assert handler.sentinel.incidents() == []


def test_a_chat_in_which_the_user_asks_the_same_again() -> None:
    """What was looked up again is told, as small waste; nothing is stopped."""
    script = [step for n in range(12) for step in (call_tool("get_order", number=f"o{n % 3}"), AIMessage(f"Yes. {n}"))]
    app = create_agent(ScriptedChatModel(script=script), [get_order], checkpointer=InMemorySaver())
    handler = TokenSentinelHandler(mode="block")
    config: Any = {"callbacks": [handler], "configurable": {"thread_id": "t"}}
    for n in range(12):
        app.invoke({"messages": [HumanMessage(f"Where is my order o{n % 3}?")]}, config)
    found = handler.sentinel.incidents()
    assert [(i.rule, i.severity, i.calls) for i in found] == [("tool_loop", "low", 3)] * 3
