"""A research agent that loops: unguarded, steered, and stopped because it does not listen."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from models import chat_model, spent

from ts_langchain import Sentinel, TokenSentinelHandler, TokenSentinelMiddleware
from ts_langchain.testing import call_tool

PAGE = "Contact sales for our enterprise plan, which includes single sign-on. " * 12
POLICY = {
    "rules": {
        "tool_loop": {
            "min_severity": "high",
            "steps": [{"at": 1, "do": "steer"}, {"at": 2, "do": "reuse"}, {"at": 3, "do": "stop"}],
        }
    },
    "safe_tools": ["fetch_page"],
}


@tool
def fetch_page(url: str) -> str:
    """Fetches a web page."""
    return PAGE


LOOP = call_tool("fetch_page", url="https://example.com/pricing")
ANSWER = AIMessage("The enterprise plan has single sign-on; its price is on request.")


def listens(messages: list[Any]) -> AIMessage:
    """Goes on in circles until it is told, or for eleven turns."""
    told = any("Do not repeat" in str(m.content) for m in messages)
    return ANSWER if told or len(messages) > 22 else LOOP


def run(name: str, script: list[Any], middleware: TokenSentinelMiddleware | None, watch: Sentinel) -> float:
    """One run; prints what it cost and how it ended."""
    agent = create_agent(chat_model(script), [fetch_page], middleware=[middleware] if middleware else [])
    config: Any = {"callbacks": [TokenSentinelHandler(watch)], "recursion_limit": 60}
    out = agent.invoke({"messages": [HumanMessage("Which plan has SSO, and what does it cost?")]}, config)
    dollars = spent(watch)
    calls = sum(isinstance(m, AIMessage) for m in out["messages"])
    print(f"{name:12} {calls:2} model calls  ${dollars:.5f}  {str(out['messages'][-1].content)[:70]}")
    return dollars


def main() -> None:
    """Runs it three times."""
    unguarded = run("unguarded", [listens], None, Sentinel())
    middleware = TokenSentinelMiddleware(policy=POLICY)
    steered = run("steered", [listens], middleware, middleware.sentinel)
    stubborn = TokenSentinelMiddleware(policy=POLICY)
    run("stubborn", [LOOP], stubborn, stubborn.sentinel)
    print(f"the steered run cost {steered / unguarded:.0%} of the unguarded one")
    for decision in stubborn.sentinel.decisions():
        print(f"  {decision.action:6} {decision.outcome}: {decision.summary}")
    assert steered <= 0.4 * unguarded


if __name__ == "__main__":
    main()
