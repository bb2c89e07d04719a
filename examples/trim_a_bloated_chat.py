"""A support chat that drags every tool result along: the policy leaves old ones out of the next requests."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from models import chat_model, spent

from ts_langchain import TokenSentinelMiddleware
from ts_langchain.testing import call_tool

POLICY = {
    "settings": {"context_bloat.min_tokens": 4_000, "context_bloat.min_slope": 300},  # a small chat, to show it
    "rules": {"context_bloat": {"steps": [{"at": 1, "do": "trim"}]}},
    "trim": {"keep_results": 1},
}


@tool
def get_order(number: int) -> str:
    """Looks up all orders of the customer."""
    return f"order {number}: " + "blue socks, size 42, in stock, delivered by van, paid by card; " * 60


def turns() -> list[Any]:
    """Each question is looked up, then answered; the same record is looked up again and again."""
    return [step for n in range(10) for step in (call_tool("get_order", number=n % 2), AIMessage(f"Answer {n}."))]


def main() -> None:
    """The same chat with and without the policy."""
    for mode in ("observe", "enforce"):
        middleware = TokenSentinelMiddleware(policy={**POLICY, "mode": mode})
        agent = create_agent(chat_model(turns()), [get_order], middleware=[middleware], checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "chat"}}
        for n in range(10):
            agent.invoke({"messages": [HumanMessage(f"Question {n} about my order?")]}, config)
        totals = middleware.sentinel.totals("chat")
        assert totals is not None
        print(f"{mode:8} {totals.input_tokens:7,} input tokens  ${spent(middleware.sentinel):.4f}")
        for decision in middleware.sentinel.decisions()[:1]:
            print(f"  {decision.action} {decision.outcome}: {decision.summary}")


if __name__ == "__main__":
    main()
