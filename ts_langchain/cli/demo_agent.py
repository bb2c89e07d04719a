"""The agent of the demo: a plain LangGraph graph on a scripted model that never learns."""

from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from ts_langchain.testing import ScriptedChatModel, call_tool

PAGE = "Pricing. Plans: Basic, Team, Enterprise. Ask sales for details. " * 40
STEPS = 12


@tool
def fetch_page(url: str) -> str:
    """Fetches a web page."""
    del url
    return PAGE


def looping_graph(steps: int = STEPS) -> tuple[Any, ScriptedChatModel]:
    """An agent that fetches the same page until it gives up at call number `steps`, and its model."""
    again = call_tool("fetch_page", url="https://example.com/pricing")
    model = ScriptedChatModel(script=[*[again] * (steps - 1), AIMessage("I could not find out.")])
    bound = model.bind_tools([fetch_page])

    def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [bound.invoke(state["messages"])]}

    def route(state: MessagesState) -> str:
        return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END

    graph = StateGraph(MessagesState)
    graph.add_node("agent", agent)
    graph.add_node("tools", ToolNode([fetch_page]))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", route)
    graph.add_edge("tools", "agent")
    return graph.compile(), model
