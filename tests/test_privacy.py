"""No content and no key leaves memory: not in the ledger, not in logs, not in an incident or an exception."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from agents import agent
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from ts_importers.files import FileImporter
from ts_langchain import TokenSentinelHandler, WasteBlocked
from ts_langchain.capture.context import session_of, user_of
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.testing import call_tool

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = ["Ada Lovelace", "4111-1111", "patient 77", "zebra-quartz"]


def chat() -> dict[str, Any]:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": f"You serve {SECRETS[0]}. " + "long " * 100},
        {"role": "user", "content": f"My card is {SECRETS[1]}. " + "long " * 100},
    ]
    for n in range(8):
        args = json.dumps({"question": f"what do we know about {SECRETS[2]} and others", "n": 1})
        call = {"id": f"c{n}", "type": "function", "function": {"name": "search_notes", "arguments": args}}
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"c{n}", "content": f"{SECRETS[3]} " + "long " * 100},
        ]
    return {"id": "chat", "model": "gpt-4o", "messages": messages}


def misplaced() -> dict[str, Any]:
    """A chat in which ids and names are objects that hold what was said."""
    told = chat()
    for message in told["messages"]:
        for call in message.get("tool_calls", ()):
            call["id"] = {"said": SECRETS[3]}
        if message["role"] == "tool":
            message["tool_call_id"], message["name"] = {"said": SECRETS[3]}, [SECRETS[0]]
    call = {"id": [SECRETS[0]], "type": "function", "function": {"name": {"said": SECRETS[1]}, "arguments": "{}"}}
    told["tools"] = [{"type": "function", "function": {"name": {"said": SECRETS[2]}, "description": "d"}}]
    told["messages"].append({"role": "assistant", "content": "", "tool_calls": [call]})
    return told


@pytest.mark.parametrize("told", [chat, misplaced])
def test_nothing_said_is_in_the_ledger(told: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(told()) + "\n")
    ledger = Ledger(tmp_path / "ledger.sqlite")
    imported = Import(FileImporter(path), ledger, checkpoint_runs=2)
    history = imported.run()
    incidents = list(ledger.incidents(history))
    assert incidents
    stored = b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.name != "chat.jsonl")
    state = pickle.dumps(imported.sentinel.states())
    for secret in SECRETS:
        for place in (stored, state, repr(incidents).encode(), caplog.text.encode()):
            assert secret.encode() not in place
            assert secret.split()[0].encode() not in place


def test_nothing_said_is_in_an_incident_or_a_veto() -> None:
    handler = TokenSentinelHandler(mode="block")
    app, _ = agent([call_tool("fetch_page", url="https://example.com/?q=zebra-quartz")])
    with pytest.raises(WasteBlocked) as stopped:
        app.invoke({"messages": [("user", "Ada Lovelace")]}, {"callbacks": [handler]})
    told = repr(stopped.value) + str(stopped.value) + repr(handler.sentinel.incidents())
    assert "zebra" not in told
    assert "Ada" not in told


def test_importing_the_library_is_cheap_and_opens_nothing() -> None:
    code = (
        "import sys, ts_langchain; "
        "heavy = {'langchain_core', 'langgraph', 'sqlalchemy', 'typer', 'rich', 'httpx2', 'genai_prices', 'pydantic'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class User(BaseModel):
    name: str


@dataclass
class Account:
    owner: str


class Unprintable:
    def __eq__(self, other: object) -> bool:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize("key", ["session_id", "user_id"])
@pytest.mark.parametrize(
    "thing",
    [{"said": SECRETS[0]}, [SECRETS[0]], {SECRETS[0]}, User(name=SECRETS[0]), Account(SECRETS[0]), Unprintable()],
    ids=lambda thing: type(thing).__name__,
)
def test_an_object_is_no_id(key: str, thing: Any) -> None:
    handler = TokenSentinelHandler()
    app, _ = agent(["done"])
    app.invoke({"messages": [("user", "go")]}, {"callbacks": [handler], "metadata": {key: thing}})
    [state] = handler.sentinel.states()
    assert SECRETS[0].encode() not in pickle.dumps(state)
    assert SECRETS[0] not in str(user_of({key: thing}))
    assert SECRETS[0] not in str(session_of({key: thing}))
    assert state.totals.calls == 1


class ObjectId:
    def __str__(self) -> str:
        return "64b0c0ffee"


@pytest.mark.parametrize("thing", [7, UUID(int=7), "any words", ObjectId()])
def test_what_reads_like_an_id_is_one(thing: Any) -> None:
    assert session_of({"thread_id": thing}) == str(thing)
    assert user_of({"user_id": ""}, {"user_id": thing}) == str(thing)


@pytest.mark.parametrize(
    "name", ["look up Ada Lovelace " * 50_000, "look\x1b[2J\nERROR: look", "\ud800"], ids=["long", "odd", "half"]
)
def test_a_model_that_asks_for_a_tool_in_any_words_is_told_of_in_one_line(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = chat()
    for message in told["messages"]:
        for call in message.get("tool_calls", ()):
            call["function"]["name"] = name
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(told) + "\n")
    ledger = Ledger(tmp_path / "ledger.sqlite")
    imported = Import(FileImporter(path), ledger)
    [incident] = [i for i in ledger.incidents(imported.run()) if i.rule == "tool_loop"]
    assert incident.calls >= 7
    assert incident.summary.isprintable()
    for said in (incident.summary, str(incident.evidence), *caplog.messages):
        assert len(said) < 1_000
    assert len(pickle.dumps(imported.sentinel.states())) < 20_000
    app, _ = agent([AIMessage("", tool_calls=[{"name": name, "args": {}, "id": f"c{n}"}]) for n in range(4)] + ["done"])
    handler = TokenSentinelHandler()
    app.invoke({"messages": [("user", "go")]}, {"callbacks": [handler]})
    found = handler.sentinel.incidents()
    assert found
    assert all(i.summary.isprintable() and len(i.summary) < 1_000 for i in found)
