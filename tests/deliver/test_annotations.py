"""What is written of an incident, without any service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from histories import Script
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ts_importers.files import FileImporter
from ts_langchain.deliver.annotations import annotation_id, plan
from ts_langchain.deliver.record import Record, Written
from ts_langchain.history import Import
from ts_langchain.incident import MAX_CALLS_LISTED, Incident
from ts_langchain.ledger import Batch, Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from ts_langchain.ledger import History

CALLS = Script().tool("fetch", {"a": 1}).tool("fetch", {"a": 1}).calls


def incident(**kwargs: Any) -> Incident:
    given: dict[str, Any] = {
        "id": "tool_loop-0000000000000001",
        "rule": "tool_loop",
        "session_id": "s",
        "key": 1,
        "opened_at": 1.0,
        "last_seen_at": 2.0,
        "summary": "fetch was called 3 times.",
        "suggestion": "Stop.",
        "calls": 2,
        "call_ids": (CALLS[1].id, CALLS[3].id),
    }
    return Incident(**{**given, **kwargs})


@pytest.fixture
def book(tmp_path: Path) -> tuple[Ledger, History]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    return ledger, ledger.open_history("langsmith", "host/project", {}, "", {}, 0.0)


def planned(book: tuple[Ledger, History], *incidents: Incident) -> list[Any]:
    ledger, history = book
    ledger.forget(history)
    history = ledger.open_history("langsmith", "host/project", {}, "", {}, 0.0)
    ledger.save(history, Batch(closed={i.id: i for i in incidents}, calls=list(CALLS)))
    return list(plan(ledger, history))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.integers(0, 10**15), st.integers(1, MAX_CALLS_LISTED))
def test_the_parts_of_an_incident_add_up_to_its_waste(book: tuple[Ledger, History], nano: int, calls: int) -> None:
    notes = planned(book, incident(wasted_nano=nano, call_ids=tuple(f"c{n}" for n in range(calls)), calls=calls))
    assert len(notes) == calls
    assert sum(round(note.cents * 10_000) for note in notes) == nano // 1_000
    assert all(note.cents == round(note.cents, 4) for note in notes)
    assert max(n.cents for n in notes) - min(n.cents for n in notes) < 0.00011


def test_it_knows_trace_and_start_of_its_run(book: tuple[Ledger, History]) -> None:
    first, second = planned(book, incident())
    assert (first.run_id, first.trace_id, first.started_at) == (CALLS[1].id, CALLS[1].root_id, CALLS[1].started_at)
    assert (second.run_id, second.started_at) == (CALLS[3].id, CALLS[3].started_at)
    assert first.id != second.id
    assert first.key == "token_waste.tool_loop"


def by_hand() -> list[dict[str, Any]]:
    """A loop by hand as LangSmith records it: each call is a trace of its own."""
    said: list[dict[str, Any]] = [{"role": "user", "content": "Fetch the page and summarise it."}]
    rows: list[dict[str, Any]] = []

    def row(run_type: str, **fields: Any) -> None:
        at, run_id = len(rows), f"00000000-0000-4000-8000-{len(rows):012d}"
        times = {"start_time": f"2026-09-01T12:00:{at:02d}.0", "end_time": f"2026-09-01T12:00:{at:02d}.5"}
        rows.append({"id": run_id, "trace_id": run_id, "run_type": run_type, **times, **fields})

    for number in range(6):
        asked = {"id": f"call-{number}", "type": "function", "function": {"name": "fetch", "arguments": '{"a": 1}'}}
        answer = {"role": "assistant", "content": "", "tool_calls": [asked]}
        extra = {"metadata": {"ls_model_name": "gpt-4o", "ls_provider": "openai"}}
        row("llm", name="ChatOpenAI", inputs={"messages": list(said)}, outputs={"message": answer}, extra=extra)
        result = {"role": "tool", "tool_call_id": asked["id"], "content": "nothing new"}
        row("tool", name="fetch", inputs={"a": 1}, outputs={"output": result})
        said += [answer, result]
    return rows


def test_of_a_loop_by_hand_each_note_is_in_the_trace_of_its_run(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in by_hand()))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    history = Import(FileImporter(tmp_path / "runs.jsonl"), ledger).run()
    assert len({call.root_id for call in ledger.calls(history)}) == 1
    notes = list(plan(ledger, history))
    assert len({note.run_id for note in notes}) > 3
    assert [note.trace_id for note in notes] == [note.run_id for note in notes]


def test_a_tool_nobody_saw_run_is_noted_on_the_model_run_that_asked(book: tuple[Ledger, History]) -> None:
    model = CALLS[0].id
    notes = planned(book, incident(call_ids=(f"{model}/c1", f"{model}/c2")))
    assert {note.run_id for note in notes} == {model}
    assert {note.trace_id for note in notes} == {CALLS[0].root_id}
    assert len({note.id for note in notes}) == 2


def test_a_call_the_ledger_does_not_know_is_planned_without_its_trace(book: tuple[Ledger, History]) -> None:
    (note,) = planned(book, incident(call_ids=("elsewhere",)))
    assert (note.run_id, note.trace_id, note.started_at) == ("elsewhere", None, None)


def test_the_comment_says_what_the_score_cannot(book: tuple[Ledger, History]) -> None:
    many = incident(calls=35, unpriced_calls=3, estimated=True, wasted_input_tokens=1_200)
    comment = planned(book, many)[0].comment
    assert comment.startswith("fetch was called 3 times.\nWhat to do: Stop.\nIncident tool_loop-0000000000000001:")
    for said in (
        "35 calls",
        "1,200 tokens",
        "cost of 3 calls is unknown",
        "estimated",
        "first 2 of its calls",
        "cents",
    ):
        assert said in comment


def test_ids_never_change() -> None:
    history: Any = type("H", (), {"source": "langsmith", "scope": "host/project"})
    assert annotation_id(history, incident(), "c1") == "19dfb60f-0764-5042-96cb-7662791c6bbd"


def test_the_record_outlives_the_history_and_keeps_places_apart(book: tuple[Ledger, History], tmp_path: Path) -> None:
    ledger, history = book
    record = Record(ledger)
    notes = {f"id-{n}": Written("tool_loop", "run", "0") for n in range(1_234)}
    record.intend("langsmith", "host/project", notes)
    record.intend("langsmith", "host/project", notes)
    record.confirm("langsmith", "host/project", list(notes)[:1_000])
    ledger.forget(history)
    known = Record(Ledger(tmp_path / "ledger.sqlite")).annotations("langsmith", "host/project")
    assert known.keys() == notes.keys()
    assert sum(w.confirmed for w in known.values()) == 1_000
    assert record.annotations("langsmith", "host/other") == record.annotations("langfuse", "host/project") == {}
    record.forget("langsmith", "host/other", notes)
    record.forget("langsmith", "host/project", list(notes)[1:])
    assert list(record.annotations("langsmith", "host/project")) == ["id-0"]
