"""What the recorded exports of Langfuse hold (`tests/data/langfuse_export`): a few conversations, some with loops."""

from __future__ import annotations

from typing import Any

from rules.talk import Talk, observations

TOOLS = {
    "fetch_page": '{"description":"Reads a page.","parameters":"{\\"type\\":\\"object\\",\\"properties\\":{}}"}',
}


def talks() -> list[Talk]:
    """Every other one fetches the same page again and again."""
    made = []
    for n in range(4):
        talk = Talk(f"chat-{n}", at=n * 5_000.37).user("Which plan has SSO?")
        for turn in range(5):
            same = n % 2 == 0
            page = "the same page " * 20 if same else f"page {turn} of the plans"
            talk.ai("", ("fetch_page", {"url": "plans" if same else str(turn)}, page))
        made.append(talk.ai("The enterprise plan."))
    return made


def _with_more(row: dict[str, Any]) -> dict[str, Any]:
    """What the service adds: its own costs, the tools it finds in a request, the prompt that was used."""
    row = {**row, "environment": "production"}
    if row["type"] != "GENERATION":
        return row
    used = row["usageDetails"]
    sent, got = round(used["input"] * 2.5e-6, 12), round(used["output"] * 1e-5, 12)
    costs = {"input": sent, "output": got, "total": round(sent + got, 12)}
    prompt = {"promptName": "plans", "promptVersion": 3}
    return {**row, **prompt, "costDetails": costs, "toolDefinitions": TOOLS}


_CALLS = [_with_more(row) for row in observations(*talks())]
_SPAN = {**_CALLS[0], "id": "span", "type": "SPAN", "usageDetails": {}, "costDetails": {}, "toolDefinitions": {}}
_FAILED = {**_CALLS[0], "id": "failed", "level": "ERROR", "statusMessage": "429 rate limit", "output": None}
HISTORY = [*_CALLS, _SPAN, _FAILED]
"""As the API gives it: calls, a span that is none, and a call that failed."""
