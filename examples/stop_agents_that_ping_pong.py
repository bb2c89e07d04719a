"""Two agents of a plain LangGraph pass a task back and forth: one call guards the graph, and ends it cleanly."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from models import chat_model

from ts_langchain import Sentinel, guard
from ts_langchain.testing import call_tool

POLICY = {"rules": {"handoff_loop": {"steps": [{"at": 1, "do": "steer"}, {"at": 2, "do": "stop"}]}}}


@tool
def hand_over(to: str, task: str) -> str:
    """Hands the task over to another agent."""
    return f"{to} has the task"


def build() -> tuple[StateGraph[Any, Any, Any, Any], Any, Any]:
    """Writer and reviewer, each sure that it is the other's turn."""
    writer = chat_model([call_tool("hand_over", to="reviewer", task="check the draft")])
    reviewer = chat_model([call_tool("hand_over", to="writer", task="mend the draft")])
    models = {"writer": writer.bind_tools([hand_over]), "reviewer": reviewer.bind_tools([hand_over])}

    def node(name: str) -> Any:
        def act(state: MessagesState) -> dict[str, Any]:
            return {"messages": [models[name].invoke(state["messages"])]}

        return act

    def route(state: MessagesState) -> str:
        return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END

    def whose_turn(state: MessagesState) -> str:
        asked = next(m for m in reversed(state["messages"]) if isinstance(m, AIMessage))
        return str(asked.tool_calls[0]["args"]["to"])

    builder = StateGraph(MessagesState)
    for name in models:
        builder.add_node(name, node(name))
        builder.add_conditional_edges(name, route, ["tools", END])
    builder.add_node("tools", ToolNode([hand_over]))
    builder.add_conditional_edges("tools", whose_turn, list(models))
    builder.add_edge(START, "writer")
    return builder, writer, reviewer


def main() -> None:
    """Without a guard this runs into LangGraph's recursion limit, and the work so far is lost."""
    builder, writer, reviewer = build()
    sentinel = Sentinel(policy=POLICY)
    graph = guard(builder, sentinel).compile()
    out = graph.invoke({"messages": [HumanMessage("Write the release notes.")]}, {"recursion_limit": 100})
    print(f"{getattr(writer, 'calls', '?')} + {getattr(reviewer, 'calls', '?')} model calls")
    print(out["messages"][-1].content)
    for decision in sentinel.decisions():
        print(f"  {decision.action} {decision.outcome}: {decision.summary}")


if __name__ == "__main__":
    main()
