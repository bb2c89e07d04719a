"""A looping agent is stopped before the next call is billed. Runs without keys."""

from langchain.agents import create_agent
from langchain_core.tools import tool

from ts_langchain import TokenSentinelHandler, WasteBlocked
from ts_langchain.testing import ScriptedChatModel, call_tool


@tool
def fetch_page(url: str) -> str:
    """Fetches a web page."""
    return "Ask sales for details."


# a model that never learns; with a key, put init_chat_model("gpt-4o") here
model = ScriptedChatModel(script=[call_tool("fetch_page", url="https://example.com/pricing")])
agent = create_agent(model, [fetch_page])
handler = TokenSentinelHandler(mode="block")

try:
    agent.invoke({"messages": [("user", "Which plan has SSO?")]}, {"callbacks": [handler]})
except WasteBlocked as blocked:
    print(f"stopped: {blocked.incident.summary}")
print(f"{model.calls} calls were billed; wasted ${handler.sentinel.incidents()[0].wasted_usd:.6f}")
assert model.calls == 3
