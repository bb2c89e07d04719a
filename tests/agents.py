"""Real agents on scripted models."""

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from ts_langchain.testing import ScriptedChatModel, call_tool


@tool
def fetch_page(url: str) -> str:
    """Fetches a web page."""
    return "the same page, as ever"


@tool
def count_up(n: int) -> str:
    """Counts."""
    return f"now {n}"


LOOP = call_tool("fetch_page", url="https://example.com/a")
DONE = AIMessage("done")


def agent(script: list[Any], **kwargs: Any) -> tuple[Any, ScriptedChatModel]:
    """A `create_agent` agent and its model."""
    model = ScriptedChatModel(script=script)
    return create_agent(model, [fetch_page, count_up], **kwargs), model


def graph(script: list[Any], **kwargs: Any) -> tuple[Any, ScriptedChatModel]:
    """The same as a plain `StateGraph`."""
    model = ScriptedChatModel(script=script)
    bound = model.bind_tools([fetch_page, count_up])

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [bound.invoke(state["messages"])]}

    def route(state: MessagesState) -> str:
        return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END

    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_node("tools", ToolNode([fetch_page, count_up]))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", route)
    builder.add_edge("tools", "think")
    return builder.compile(**kwargs), model


ASK: dict[str, Any] = {"messages": [("user", "go")]}
