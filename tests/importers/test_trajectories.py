"""Trajectories of agents, as their own programs write them; made by hand in the shapes of those files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from importers.test_exchanges import calls, write

from ts_importers.files import FileImporter
from ts_langchain.call import Usage
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.report.summary import summarise

if TYPE_CHECKING:
    from pathlib import Path


def asked(number: int, **args: Any) -> dict[str, Any]:
    function = {"name": "open_file", "arguments": json.dumps(args)}
    return {"id": f"c{number}", "type": "function", "function": function}


def swe_agent(*paths: str) -> list[dict[str, Any]]:
    """SWE-agent's history: what answers a call lists the call's id."""
    history: list[dict[str, Any]] = [
        {"role": "system", "content": "You fix bugs.", "agent": "main", "message_type": "system_prompt"},
        {"role": "assistant", "content": "This is how it is done.", "is_demo": True},
        {"role": "user", "content": "Fix it.", "agent": "main"},
    ]
    for n, path in enumerate(paths):
        history += [
            {"role": "assistant", "content": "I look.", "action": f"open {path}", "tool_calls": [asked(n, path=path)]},
            {"role": "tool", "content": f"the {n}th text of {path}", "tool_call_ids": [f"c{n}"]},
        ]
    return history


def test_swe_agents_trajectories(tmp_path: Path) -> None:
    files = [f"{n}.py" for n in range(6)]
    document = {"trajectory": [], "history": swe_agent(*files), "info": {"exit_status": "submitted"}}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.traj").write_text(json.dumps(document, indent=2))
    source = FileImporter(tmp_path / "in", model="gpt-4o")
    runs = [run for page in source.pages() for run in page.runs]
    assert [r.run_type for r in runs] == ["llm", "tool"] * 6
    tools = [r for r in runs if r.run_type == "tool"]
    assert [(r.name, dict(r.inputs), r.tool_call_id) for r in tools] == [
        ("open_file", {"path": path}, f"c{n}") for n, path in enumerate(files)
    ]
    ledger = Ledger(tmp_path / "l.db")
    assert list(ledger.incidents(Import(FileImporter(tmp_path / "in"), ledger).run())) == []


def test_what_mini_swe_agent_keeps_of_the_providers_answer(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 60}}
    response = {"model": "claude-sonnet-4-5-20250929", "usage": usage, "created": 1_788_000_000}
    messages = [
        {"role": "system", "content": "You fix bugs."},
        {"role": "user", "content": "Fix it."},
        {"role": "assistant", "content": "I look.", "extra": {"response": response, "cost": 0.25, "actions": []}},
        {"role": "exit", "content": "", "extra": {"exit_status": "Submitted"}},
    ]
    path = write(tmp_path / "a.json", {"messages": messages, "trajectory_format": "mini-swe-agent-1.1"})
    [call] = calls(path)
    assert (call.usage, call.model) == (Usage(100, 20, 60), "claude-sonnet-4-5-20250929")
    ledger = Ledger(tmp_path / "l.db")
    history = Import(FileImporter(path), ledger).run()
    assert summarise(ledger, history).as_dict()["spend_usd"] == 0.25


@pytest.mark.parametrize("kind", ["τ-bench", "τ²-bench"])
def test_tau_benchs_results(tmp_path: Path, kind: str) -> None:
    def conversation(number: int) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": f"{number}: where are they?"}]
        for n in range(6):  # six different things are looked up
            call = asked(n, path=f"{n}.py")
            if kind == "τ²-bench":  # arguments under their own name
                call = {"id": f"c{n}", "name": "open_file", "arguments": {"path": f"{n}.py"}, "requestor": "assistant"}
            messages += [
                {"role": "assistant", "content": None, "tool_calls": [call], "cost": 0.01,
                 "usage": {"prompt_tokens": 100 + n, "completion_tokens": 20}},
                {"role": "tool", "tool_call_id": f"c{n}", "id": f"c{n}", "content": "[]"},
            ]  # fmt: skip
        return {"task_id": number, "traj" if kind == "τ-bench" else "messages": messages}

    both = [conversation(1), conversation(2)]
    data = both if kind == "τ-bench" else {"timestamp": "x", "info": {}, "simulations": both}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data, indent=2))
    ledger = Ledger(tmp_path / "l.db")
    history = Import(FileImporter(path, model="gpt-4o"), ledger).run()
    summary = summarise(ledger, history).as_dict()
    assert (summary["sessions"], summary["calls"], summary["estimated_calls"]) == (2, 24, 0)
    assert summary["spend_usd"] == 0.12
    assert "tool_loop" not in {i.rule for i in ledger.incidents(history)}


def test_a_list_by_the_same_name_is_no_conversation(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"history": [{"date": "2026-09-01", "role": "admin"}, {"date": "2026-09-02"}]})
    with pytest.raises(Exception, match="nothing that is known"):
        FileImporter(path)
