"""The file importer: formats, order, compression, damage."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
import tracemalloc
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importers.export_history import HISTORY
from importers.fake_langsmith import agent_rows
from importers.test_rows import odd, replayed
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage, messages_to_dict

from ts_importers.base import Importer
from ts_importers.files import FileImporter
from ts_importers.formats.base import Setting
from ts_importers.formats.messages import Conversations
from ts_importers.langfuse_rows import run_from_observation
from ts_langchain.errors import ConfigurationError, UnreadableSource
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.replay import Run
from ts_langchain.report.summary import summarise

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.messages import BaseMessage

ROWS = sorted(agent_rows(30), key=lambda r: (r["start_time"], r["id"]))
DAY = date(2026, 9, 1)
CALLS = [r["id"] for r in ROWS if r["run_type"] != "chain"]


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


def ids(source: FileImporter) -> list[str]:
    return [run.id for page in source.pages() for run in page.runs]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_json_lines(tmp_path: Path) -> None:
    source = FileImporter(write(tmp_path / "a.jsonl", lines(ROWS)))
    assert isinstance(source, Importer)
    assert ids(source) == CALLS
    assert source.total == len(ROWS)
    assert source.notices == ["detected: LangSmith runs"]


def test_gzip_list_and_disorder_give_the_same(tmp_path: Path) -> None:
    shuffled = ROWS[10:] + ROWS[:10]
    packed = FileImporter(write(tmp_path / "a.jsonl.gz", gzip.compress(lines(ROWS))))
    listed = FileImporter(write(tmp_path / "a.json", json.dumps(ROWS).encode()))
    disordered = FileImporter(write(tmp_path / "b.jsonl", lines(shuffled)))
    listed_disordered = FileImporter(write(tmp_path / "b.json", json.dumps(shuffled).encode()))
    assert sorted(ids(packed)) == sorted(CALLS)
    for source in (listed, disordered, listed_disordered):
        assert ids(source) == ids(packed)
    assert any("not in order" in n for n in disordered.notices)


def test_disorder_in_gzip(tmp_path: Path) -> None:
    plain = FileImporter(write(tmp_path / "a.jsonl", lines(ROWS)))
    packed = FileImporter(write(tmp_path / "a.gz", gzip.compress(lines(ROWS[10:] + ROWS[:10]))))
    assert ids(packed) == ids(plain)


def test_any_position_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", 7)
    for path in (
        write(tmp_path / "a.jsonl", lines(ROWS)),
        write(tmp_path / "a.jsonl.gz", gzip.compress(lines(ROWS))),
        write(tmp_path / "b.jsonl", lines(ROWS[20:] + ROWS[:20])),
    ):
        pages = list(FileImporter(path).pages())
        assert len(pages) > 5
        for number in (0, 1, len(pages) // 2, len(pages) - 1):
            rest = [r.id for p in FileImporter(path).pages(pages[number].position) for r in p.runs]
            assert rest == [r.id for p in pages[number:] for r in p.runs]


def test_bad_lines_are_counted_and_named(tmp_path: Path) -> None:
    data = lines(ROWS[:4]) + b'not json\n[1, 2]\n"text"\n\n{"run_type": "llm", "id": 5}\n' + lines(ROWS[4:])
    data += b'{"run_type": "llm", "id": "cut o'
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(write(tmp_path / "a.jsonl", data)), ledger).run()
    assert history.runs == len(CALLS)
    assert history.skipped == 5
    reasons = dict(ledger.skipped(history))
    assert reasons["line 5"] == "not JSON"
    assert reasons["line 6"] == "a list, not an object"
    assert "cut off" in reasons[f"line {len(ROWS) + 6}"]
    assert summarise(ledger, history).as_dict()["rows"]["skipped"] == 5


@pytest.mark.parametrize("shape", ["lines", "disorder", "list", "printed", "pages"])
@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_truncated_gzip_keeps_what_was_read(tmp_path: Path, shape: str, cut: float) -> None:
    rows = ROWS[10:] + ROWS[:10] if shape == "disorder" else ROWS
    text = {
        "list": json.dumps(rows).encode(),
        "printed": b"\n".join(json.dumps(row, indent=2).encode() for row in rows),
        "pages": lines([{"runs": rows[at : at + 10]} for at in range(0, len(rows), 10)]),
    }.get(shape, lines(rows))
    packed = b"".join(gzip.compress(text[at : at + 10_000]) for at in range(0, len(text), 10_000))
    half = packed[: int(len(packed) * cut)]
    source = FileImporter(write(tmp_path / "a.gz", half))
    pages = list(source.pages())
    found = [run.id for page in pages for run in page.runs]
    assert 0.5 * cut < len(found) / len(CALLS) < cut + 0.2
    assert set(found) <= set(CALLS)
    [broken] = [s for page in pages for s in page.skipped]
    assert "was the file cut off?" in broken.why if shape == "list" else "cannot be read to its end" in broken.why
    if shape == "lines":  # whoever goes on from any row is told as well
        for at in range(len(found)):
            rest = FileImporter(tmp_path / "a.gz").pages({"line": at, "offset": 0, "clock": 0.0})
            assert [s for page in rest for s in page.skipped] == [broken]


@pytest.mark.parametrize("listed", [True, False])
def test_a_damaged_gzip_is_refused(tmp_path: Path, listed: bool) -> None:
    """What came before may be wrong, too: its checksum is at the end."""
    whole = gzip.compress(json.dumps(ROWS).encode() if listed else lines(ROWS))
    bad_sum = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    for damaged in (whole[:15], bad_sum, whole + b"garbage", whole[:2000] + b"\xff" * 50 + whole[2050:]):
        with pytest.raises(UnreadableSource, match=r"cannot be read to its end|holds nothing"):
            ids(FileImporter(write(tmp_path / "a.gz", damaged)))


@pytest.mark.parametrize("missing", [1, 8])
def test_a_list_that_is_whole_in_a_gzip_that_is_not(tmp_path: Path, missing: int) -> None:
    source = FileImporter(write(tmp_path / "a.gz", gzip.compress(json.dumps(ROWS).encode())[:-missing]))
    assert ids(source) == CALLS
    assert ["was the file cut off?" in s.why for page in source.pages() for s in page.skipped] == [True]


def test_where_printed_objects_are_cut_off(tmp_path: Path) -> None:
    printed = b"\n".join(json.dumps(row, indent=2).encode() for row in ROWS[:2]) + b"\n"
    source = FileImporter(write(tmp_path / "a.gz", gzip.compress(printed)[:-8]))
    [broken] = [s for page in source.pages() for s in page.skipped]
    assert broken.where == f"line {len(printed.splitlines()) + 1}"


def test_a_small_gzip_that_is_cut_off(tmp_path: Path) -> None:
    packed = gzip.compress(lines(ROWS[:3]))
    source = FileImporter(write(tmp_path / "a.gz", packed[: len(packed) - 12]), format="langsmith")
    assert len([s for page in source.pages() for s in page.skipped]) == 1


def test_a_broken_file_among_others_is_named(tmp_path: Path) -> None:
    rows = lines(ROWS)
    half = rows[: rows.index(b"\n", len(rows) // 2) + 1]
    write(tmp_path / "a.jsonl", lines(ROWS[:9]))
    write(tmp_path / "b.jsonl.gz", gzip.compress(half) + gzip.compress(rows[len(half) :])[:100])
    write(tmp_path / "c.json", b"[rubbish")
    source = FileImporter(tmp_path)
    assert any(n.startswith("c.json: left out: ") and "is none" in n for n in source.notices)
    [broken] = [s for page in source.pages() for s in page.skipped]
    assert broken.where == f"b.jsonl.gz line {len(half.splitlines()) + 1}"
    assert broken.why.startswith(f"{tmp_path}/b.jsonl.gz cannot be read to its end: ")
    assert set(ids(source)) == set(ids(FileImporter(write(tmp_path / "half", half))))
    with pytest.raises(UnreadableSource, match="No such file"):
        FileImporter([tmp_path / "a.jsonl", tmp_path / "none.jsonl"])


@pytest.mark.parametrize("given", [["."], ["monday", "tuesday"], ["monday/a.jsonl", "tuesday/a.jsonl"]])
def test_files_of_the_same_name_are_not_the_same(tmp_path: Path, given: list[str]) -> None:
    """As folders of days hold them. Their rows have no ids but their places."""
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
        write(tmp_path / day / "a.jsonl", lines([{"messages": CHAT["messages"]}]) + b"not json\n")
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter([tmp_path / name for name in given]), ledger).run()
    assert (history.runs, history.skipped, ledger.session_count(history)) == (14, 2, 2)
    assert set(dict(ledger.skipped(history))) == {"monday/a.jsonl line 2", "tuesday/a.jsonl line 2"}


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("odd", [b"NaN", b"-Infinity", b'"cut off in a letter \\ud83d"'])
def test_what_is_nearly_json_is_read(tmp_path: Path, odd: bytes, listed: bool) -> None:
    """Python writes it: `NaN`, and halves of letters where a text was cut."""
    rows = [row.replace(b'"run_type"', b'"x":' + odd + b',"run_type"', 1) for row in lines(ROWS).splitlines()]
    data = b"[" + b",\n".join(rows) + b"]" if listed else b"\n".join(rows)
    source = FileImporter(write(tmp_path / "a.json", data))
    assert ids(source) == ids(FileImporter(write(tmp_path / "b.jsonl", lines(ROWS))))
    assert not [skipped for page in source.pages() for skipped in page.skipped]


@pytest.mark.parametrize("depth", [300, 2_000, 100_000])
def test_an_element_of_a_list_that_is_nested_deeply_ends_no_import(tmp_path: Path, depth: int) -> None:
    rows = lines(ROWS).splitlines()
    odd = rows[0].replace(b'"run_type"', b'"x":' + b"[" * depth + b"]" * depth + b',"run_type"', 1)
    source = FileImporter(write(tmp_path / "a.json", b"[" + b",\n".join([*rows[1:], odd]) + b"]"), format="langsmith")
    found = ids(source)
    assert set(found) >= set(ids(FileImporter(write(tmp_path / "b.jsonl", b"\n".join(rows[1:])))))
    assert len([s for page in source.pages() for s in page.skipped]) == 1


@pytest.mark.parametrize("data", [b"\x00\xff\xfe garbage \x80" * 50, b"hello\nworld\n", b'{"a": 1}\n', b"{}\n" * 100])
def test_garbage_says_what_is_expected(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UnreadableSource, match="--format"):
        FileImporter(write(tmp_path / "a.bin", data))


def test_missing_empty_and_directory(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSource, match="No such file"):
        FileImporter(tmp_path / "none.jsonl")
    with pytest.raises(UnreadableSource, match="directory"):
        FileImporter(tmp_path)
    empty = FileImporter(write(tmp_path / "empty.jsonl", b""))
    assert ids(empty) == []
    assert "empty" in empty.notices[0]
    with pytest.raises(UnreadableSource, match="is none"):
        FileImporter(write(tmp_path / "half.json", json.dumps(ROWS).encode()[:50]))


CHAT = {
    "id": "chat-1",
    "model": "gpt-4o",
    "created_at": "2026-05-01T00:00:00Z",
    "tools": [{"type": "function", "function": {"name": "find", "description": "d", "parameters": {}}}],
    "messages": [
        {"role": "user", "content": "where is it"},
        *(
            m
            for n in range(3)
            for m in (
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": f"c{n}", "type": "function", "function": {"name": "find", "arguments": '{"what": "it"}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": f"c{n}", "content": "nowhere"},
            )
        ),
        {"role": "assistant", "content": "I do not know"},
    ],
}


def test_conversations(tmp_path: Path) -> None:
    source = FileImporter(write(tmp_path / "chats.jsonl", lines([CHAT])))
    runs = [r for p in source.pages() for r in p.runs]
    assert [r.run_type for r in runs] == ["llm", "tool"] * 3 + ["llm"]
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(source, ledger).run()
    [incident] = ledger.incidents(history)
    assert (incident.rule, incident.session_id, incident.calls, incident.estimated) == ("tool_loop", "chat-1", 2, True)
    assert summarise(ledger, history).as_dict()["first_day"] == "2026-05-01"


def test_conversations_without_model_or_time(tmp_path: Path) -> None:
    bare = {"messages": CHAT["messages"]}
    path = write(tmp_path / "chats.jsonl", lines([bare, bare, {"messages": "no"}, {"messages": ["no"]}]))
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(path), ledger).run()
    summary = summarise(ledger, history).as_dict()
    assert summary["unpriced_calls"] == 8
    assert summary["spend_usd"] == 0
    assert {i.session_id for i in ledger.incidents(history)} == {"line-1", "line-2"}
    assert dict(ledger.skipped(history)) == {"line 3": "no list of messages", "line 4": "a message is not an object"}
    priced = Ledger(tmp_path / "m.sqlite")
    named = FileImporter(path, model="gpt-4o", provider="openai")
    assert summarise(priced, Import(named, priced).run()).as_dict()["unpriced_calls"] == 0


def langchain_messages() -> list[BaseMessage]:
    """A loop as LangChain keeps it in a graph's state, with what `langchain-openai` notes of each answer."""
    about: dict[str, Any] = {"model_name": "gpt-4o", "model_provider": "openai", "finish_reason": "tool_calls"}
    usage: Any = {"input_tokens": 1000, "output_tokens": 20, "total_tokens": 1020}
    call: Any = {"name": "find", "args": {"what": "it"}, "type": "tool_call"}
    turns = [
        m
        for n in range(3)
        for m in (
            AIMessage("", tool_calls=[{**call, "id": f"c{n}"}], response_metadata=about, usage_metadata=usage),
            ToolMessage("nowhere", tool_call_id=f"c{n}", name="find"),
        )
    ]
    return [
        HumanMessage("where is it"),
        *turns,
        AIMessage("I do not know", response_metadata=about, usage_metadata=usage),
    ]


SHAPES = {
    "model_dump": lambda messages: [m.model_dump() for m in messages],
    "messages_to_dict": messages_to_dict,
    "dumpd": dumpd,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wrapped", ["state", "thread", "bare", "one bare"])
def test_langchains_messages(tmp_path: Path, shape: str, wrapped: str) -> None:
    messages = SHAPES[shape](langchain_messages())
    row = {
        "state": {"thread_id": "t", "messages": messages},
        "thread": {"values": {"messages": messages}, "next": [], "checkpoint": {"thread_id": "t"}},
        "bare": messages,
        "one bare": messages,
    }[wrapped]
    data = json.dumps(row, indent=1).encode() if wrapped == "one bare" else lines([row])
    source = FileImporter(write(tmp_path / "a.jsonl", data))
    assert source.notices[0] == "detected: LangChain's messages"
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(source, ledger).run()
    assert (history.runs, history.skipped) == (7, 0)
    [incident] = ledger.incidents(history)
    assert (incident.rule, incident.calls, incident.estimated) == ("tool_loop", 2, False)
    assert incident.session_id == ("line-1" if "bare" in wrapped else "t")
    [spend] = [s for s in ledger.spend(history) if s.model]
    assert (spend.provider, spend.model, spend.input_tokens, spend.output_tokens) == ("openai", "gpt-4o", 4000, 80)
    assert spend.unpriced_calls == 0


def test_the_checkpoints_of_a_thread_hold_its_messages_again(tmp_path: Path) -> None:
    """`get_state_history` gives every state of a thread, the newest first: each answer was billed once."""
    usage = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
    messages: list[dict[str, Any]] = []
    states = []
    for step in range(8):
        said = {"id": f"m{step}", "type": "ai" if step % 2 else "human", "content": f"word {step}"}
        messages = [*messages, {**said, "usage_metadata": usage} if step % 2 else said]
        states.append(
            {
                "values": {"messages": messages},
                "next": [],
                "config": {"configurable": {"thread_id": "t", "checkpoint_id": f"c{step}"}},
                "created_at": f"2026-09-01T10:0{step}:00+00:00",
            }
        )
    ledger = Ledger(tmp_path / "l.sqlite")
    source = FileImporter(write(tmp_path / "a.jsonl", lines(states[::-1])), model="gpt-4o")
    history = Import(source, ledger).run()
    [spend] = ledger.spend(history)
    assert (spend.calls, spend.input_tokens, spend.nano) == (4, 4000, 14_000_000)


def chat_server_log(turns: int, users: int = 2) -> list[dict[str, Any]]:
    """Of each answer one row, with all that was said before it; the users take turns."""
    usage = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
    said: dict[str, list[dict[str, Any]]] = {f"chat {user}": [] for user in range(users)}
    rows = []
    for turn in range(turns):
        for chat, messages in said.items():
            messages += [
                {"type": "human", "content": f"question {turn} of {chat}"},
                {"type": "ai", "content": f"answer {turn} to {chat}", "usage_metadata": usage},
            ]
            at = f"2026-09-01T10:{len(rows):02}:00Z"
            rows.append({"session_id": chat, "created_at": at, "model": "gpt-4o", "messages": list(messages)})
    return rows


def test_a_log_that_tells_the_whole_conversation_in_each_row(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(write(tmp_path / "a.jsonl", lines(chat_server_log(10)))), ledger).run()
    [spend] = ledger.spend(history)
    assert (spend.calls, spend.input_tokens, spend.nano) == (20, 20_000, 20 * 3_500_000)
    assert ledger.session_count(history) == 2


@pytest.mark.parametrize(("turns", "told"), [(1, True), (2, False)])
def test_usage_beside_a_conversation_is_that_of_its_one_answer(tmp_path: Path, turns: int, told: bool) -> None:
    said = [{"role": role, "content": f"{role} {turn}"} for turn in range(turns) for role in ("user", "assistant")]
    row = {"model": "gpt-4o", "messages": said, "usage": {"prompt_tokens": 700, "completion_tokens": 30}}
    ledger = Ledger(tmp_path / "l.sqlite")
    [spend] = ledger.spend(Import(FileImporter(write(tmp_path / "a.jsonl", lines([row]))), ledger).run())
    assert ((spend.input_tokens, spend.output_tokens) == (700, 30)) is told
    assert spend.estimated_calls == (0 if told else turns)


def test_an_answer_that_is_given_anew_and_another_trial_of_the_same_name(tmp_path: Path) -> None:
    [*_, told] = chat_server_log(3, users=1)
    anew = {**told, "messages": [*told["messages"][:-1], {"type": "ai", "content": "in other words"}]}
    other = [*told["messages"][:2], {"type": "human", "content": "something else"}, *told["messages"][3:]]
    for second, calls in ((anew, 1), ({**told, "messages": other}, 3)):
        [page] = FileImporter(write(tmp_path / "a.jsonl", lines([told, second]))).pages()
        assert len(page.runs) == 3 + calls


def test_a_row_that_tells_no_more_than_the_one_before_is_one_more_request(tmp_path: Path) -> None:
    [row] = chat_server_log(1, users=1)
    asked_again = [{**row, "created_at": f"2026-09-01T10:00:0{second}Z"} for second in range(0, 10, 2)]
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(write(tmp_path / "a.jsonl", lines(asked_again))), ledger).run()
    [spend] = ledger.spend(history)
    assert spend.calls == 5


def test_what_rows_told_before_a_pause_is_known_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", 3)
    rows = chat_server_log(10)
    in_order = write(tmp_path / "a.jsonl", lines(rows))
    folder = tmp_path / "days"
    folder.mkdir()
    for number in (0, 1):
        write(folder / f"{number}.jsonl", lines(rows[number * 10 : number * 10 + 10]))
    for source in (in_order, folder):
        whole = [run.id for page in FileImporter(source).pages() for run in page.runs]
        assert len(whole) == len(set(whole)) == 20
        for pause in range(1, 6):
            first = list(islice(FileImporter(source).pages(), pause + 1))
            before = [run.id for page in first[:pause] for run in page.runs]
            after = [run.id for page in FileImporter(source).pages(first[pause].position) for run in page.runs]
            assert before + after == whole


def test_a_long_conversation_is_not_held_once_for_each_answer(tmp_path: Path) -> None:
    turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    source = FileImporter(write(tmp_path / "a.jsonl", lines([{"messages": turn * 3_000}])))
    tracemalloc.start()
    [page] = source.pages()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20_000_000  # the prompts together would take 72 MB
    assert page.runs[-1].inputs == {"messages": (turn * 3_000)[:-1]}


def test_bare_lists_of_messages_are_conversations(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines([CHAT["messages"], [1, 2], CHAT["messages"], []]))
    [page] = FileImporter(path).pages()
    assert [r.metadata["session_id"] for r in page.runs] == ["line-1"] * 7 + ["line-3"] * 7
    assert [s.why for s in page.skipped] == ["a list, not an object"] * 2


def test_the_same_file_twice_counts_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines(ROWS))
    ledger = Ledger(tmp_path / "l.sqlite")
    first = summarise(ledger, Import(FileImporter(path), ledger).run()).as_dict()
    again = Import(FileImporter(path), ledger)
    second = summarise(ledger, again.run()).as_dict()
    assert again.duplicates == len(CALLS)
    assert second == first


def test_what_follows_a_message_of_the_user_is_a_trace(tmp_path: Path) -> None:
    turns = [{"role": role, "content": f"{n}"} for n, role in enumerate(["system", "user", "assistant"] * 3)]
    path = write(tmp_path / "chats.jsonl", lines([{"messages": [{"role": "assistant", "content": "hi"}, *turns]}]))
    [page] = FileImporter(path).pages()
    ids = [run.id for run in page.runs]
    assert len(set(ids)) == 4
    assert [run.trace_id for run in page.runs] == [ids[0].removesuffix("/0"), *(f"{ids[0][:-1]}{n}" for n in (2, 5, 8))]


# --- LangSmith's runs in other clothes -------------------------------------------------------------


def nested(rows: list[Any]) -> list[Any]:
    """Runs as LangSmith's SDK gives them with `load_child_runs=True`: roots that hold those inside them."""
    known = {r["id"]: {**r, "child_runs": []} for r in rows}
    roots = []
    for row in known.values():
        parent = known.get(row["parent_run_id"])
        if parent is None:
            roots.append(row)
        else:
            inside = {k: v for k, v in row.items() if k not in ("parent_run_id", "trace_id", "thread_id")}
            parent["child_runs"].append(inside)
            known[row["id"]].update(child_runs=inside["child_runs"])
    return roots


def test_runs_within_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", 7)
    trees = nested(ROWS)
    assert 1 < len(trees) < len(ROWS)
    flat = [r for p in FileImporter(write(tmp_path / "flat.jsonl", lines(ROWS))).pages() for r in p.runs]
    plain = write(tmp_path / "a.jsonl", lines([*trees[1:], trees[0]]))
    for source in (
        FileImporter(plain),
        FileImporter(write(tmp_path / "b.json", json.dumps(trees).encode())),
        FileImporter([plain, write(tmp_path / "c.jsonl", b"")]),
    ):
        pages = list(source.pages())
        assert [r for p in pages for r in p.runs] == flat
        rest = [r for p in source.pages(pages[3].position) for r in p.runs]
        assert rest == [r for p in pages[3:] for r in p.runs]


def test_what_is_none_among_the_rows_within_a_row_is_named(tmp_path: Path) -> None:
    source = FileImporter(write(tmp_path / "a.jsonl", lines([{**ROWS[0], "child_runs": [ROWS[1], "x", None]}])))
    [page] = source.pages()
    assert [s.why for s in page.skipped] == ["no run_type"] * 2
    assert source.total == len(page.runs) + page.ignored + 2
    known = {"id": "o", "traceId": "t", "type": "GENERATION", "startTime": "2026-09-01T10:00:00Z", "output": "Hi"}
    path = write(tmp_path / "b.jsonl", lines([{"id": "t", "observations": [known, "x", None]}]))
    [page] = FileImporter(path).pages()
    assert ([r.id for r in page.runs], [s.why for s in page.skipped]) == (["o"], ["no type"] * 2)


def test_nested_fields_as_json_strings(tmp_path: Path) -> None:
    """As a table of runs keeps them that was written to lines."""
    fields = ("inputs", "outputs", "extra", "tags")
    rows = [{**r, **{k: json.dumps(r[k]) for k in fields if k in r}} for r in ROWS]
    plain = FileImporter(write(tmp_path / "a.jsonl", lines(ROWS)))
    strings = FileImporter(write(tmp_path / "b.jsonl", lines(rows)))
    assert [r for p in strings.pages() for r in p.runs] == [r for p in plain.pages() for r in p.runs]


def _seconds(row: dict[str, Any]) -> int:
    return round(datetime.fromisoformat(row["start_time"]).timestamp() * 1000)


@pytest.mark.parametrize(
    "time",
    [_seconds, lambda row: _seconds(row) / 1000, lambda row: row["start_time"].replace(".009652", "")],
    ids=["milliseconds", "seconds", "texts of all lengths"],
)
def test_newest_first_is_sorted_whatever_times_look_like(tmp_path: Path, time: Callable[[Any], Any]) -> None:
    """As tables of runs are written to lines, newest first."""
    rows = [{**r, "start_time": time(r)} for r in ROWS]
    newest_first = FileImporter(write(tmp_path / "a.jsonl", lines(rows[::-1])))
    assert any("not in order" in n for n in newest_first.notices)
    times = [r.started_at for p in newest_first.pages() for r in p.runs]
    assert times == sorted(times)
    oldest_first = FileImporter(write(tmp_path / "b.jsonl", lines(rows)))
    assert not any("not in order" in n for n in oldest_first.notices)


# --- several files ---------------------------------------------------------------------------------


def test_several_files_are_one_history_in_order_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", 7)
    whole = FileImporter(write(tmp_path / "whole.jsonl", lines(ROWS)))
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    one = write(folder / "a.jsonl", lines(ROWS[::3]))
    two = write(folder / "b.jsonl.gz", gzip.compress(lines(ROWS[1::3])))
    three = write(folder / "deeper" / "c.json", json.dumps(ROWS[2::3]).encode())
    write(folder / "readme.md", b"not history")
    write(folder / ".hidden.json", b"{}")
    by_name = FileImporter([three, one, two])
    by_folder = FileImporter(folder)
    assert ids(by_name) == ids(by_folder) == ids(whole)
    assert by_folder.scope == str(folder)
    assert by_name.scope == f"{folder}: a.jsonl, b.jsonl.gz, deeper/c.json"
    assert by_name.scope == FileImporter([one, two, three]).scope
    assert by_folder.notices == [
        f"{folder}: 1 files with other endings were left out",
        "a.jsonl, b.jsonl.gz, deeper/c.json: detected: LangSmith runs",
    ]
    pages = list(by_folder.pages())
    for number, page in enumerate(pages):
        rest = [r.id for p in FileImporter(folder).pages(page.position) for r in p.runs]
        assert rest == [r.id for p in pages[number:] for r in p.runs]


def test_the_order_in_which_files_are_given_does_not_matter(tmp_path: Path) -> None:
    """Not even where nothing in them says when it was."""
    one, two = (write(tmp_path / name, lines([{"messages": CHAT["messages"]}])) for name in ("a.jsonl", "b.jsonl"))
    assert list(FileImporter([two, one], day=DAY).pages()) == list(FileImporter([one, two], day=DAY).pages())


def test_files_of_several_formats(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.jsonl", lines(ROWS)),
        write(tmp_path / "b.jsonl", lines([CHAT, {"messages": 5}])),
        write(tmp_path / "c.json", b'{"nothing": "known"}\n'),
    ]
    source = FileImporter(paths)
    assert source.format == "langsmith, messages"
    assert "c.json: left out: nothing in it is known" in source.notices
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(source, ledger).run()
    assert history.runs == len(CALLS) + 7
    assert dict(ledger.skipped(history)) == {"b.jsonl line 2": "no list of messages"}
    with pytest.raises(UnreadableSource, match="none of the files can be read"):
        FileImporter([paths[2], paths[2]])
    with pytest.raises(ConfigurationError, match="there are langsmith, otlp"):
        FileImporter(paths, format="xml")


def test_a_folder_that_grew_meanwhile_begins_anew_and_counts_once(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "a.jsonl", lines(ROWS[::2]))
    ledger = Ledger(tmp_path / "l.sqlite")
    first = Import(FileImporter(folder), ledger, checkpoint_runs=10)
    first.run(lambda _: first.stop())
    write(folder / "b.jsonl", lines(ROWS[1::2]))
    again = Import(FileImporter(folder), ledger)
    assert again.resumes
    assert again.run().runs == len(CALLS)


def test_conversations_with_times_are_sorted(tmp_path: Path) -> None:
    later = {**CHAT, "id": "chat-2", "created_at": "2026-05-02T00:00:00Z"}
    source = FileImporter(write(tmp_path / "chats.jsonl", lines([later, CHAT])))
    assert [r.metadata["session_id"] for p in source.pages() for r in p.runs] == ["chat-1"] * 7 + ["chat-2"] * 7


def test_objects_printed_over_many_lines(tmp_path: Path) -> None:
    printed = "\n".join(json.dumps(r, indent=4) for r in ROWS)
    source = FileImporter(write(tmp_path / "a.json", printed.encode()))
    assert ids(source) == CALLS
    cut = FileImporter(write(tmp_path / "b.json", printed.encode()[:-3]))
    [skipped] = [s for p in cut.pages() for s in p.skipped]
    assert "cut off" in skipped.why


@pytest.mark.parametrize("indent", [None, 2])
def test_lists_behind_one_another_are_all_read(indent: int | None, tmp_path: Path) -> None:
    """Pages saved to one file."""
    pages = "".join(json.dumps(ROWS[i : i + 10], indent=indent) for i in range(0, len(ROWS), 10))
    source = FileImporter(write(tmp_path / "pages.json", pages.encode()))
    assert ids(source) == CALLS
    assert not [s for p in source.pages() for s in p.skipped]
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    talks = FileImporter(write(tmp_path / "talks.json", json.dumps(talk, indent=indent).encode() * 3), model="gpt-4o")
    assert len(ids(talks)) == 3


@pytest.mark.parametrize("what", [b"oops, ", b'{"a": 01}, ', b"] and "])
def test_a_list_that_is_broken_in_the_middle_says_that_the_rest_is_not_read(what: bytes, tmp_path: Path) -> None:
    whole = b",\n".join(json.dumps(r).encode() for r in ROWS)
    at = whole.index(b"\n", len(whole) // 2) + 1
    source = FileImporter(write(tmp_path / "a.json", b"[" + whole[:at] + what + whole[at:] + b"]"))
    assert set(ids(source)) < set(CALLS)
    [skipped] = [s for p in source.pages() for s in p.skipped]
    assert skipped.why == "not JSON, and what follows was not read"


def test_a_conversation_that_breaks_off_is_one(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "?"}]
    source = FileImporter(write(tmp_path / "a.json", json.dumps(talk).encode()[:-10]), model="gpt-4o")
    assert len(ids(source)) == 1
    [skipped] = [s for p in source.pages() for s in p.skipped]
    assert "cut off" in skipped.why


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["row", "message", "call"]), st.sampled_from(sorted({*CHAT, "role", "content", "tool_calls"})), odd
)
def test_one_field_of_a_conversation_of_any_type(where: str, field: str, value: Any) -> None:
    row = json.loads(json.dumps(CHAT))
    {"row": row, "message": row["messages"][1], "call": row["messages"][1]["tool_calls"][0]}[where][field] = value
    form = Conversations()
    form.recognises(row)
    form.key(row)
    for run in form.runs(row, Setting("line 1", 1_788_000_000.0)):
        if isinstance(run, Run):
            assert replayed(run).health().faults == {}


# --- what services gave, saved ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data", "runs"])
@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("given_format", [None, "langsmith"])
def test_pages_of_an_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, pages: int, given_format: str | None
) -> None:
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", 7)
    saved = [{name: ROWS[n::pages], "cursors": {"next": None}} for n in range(pages)]
    path = write(tmp_path / "a.json", lines(saved) if pages > 1 else json.dumps(saved[0], indent=2).encode())
    source = FileImporter(path, format=given_format)
    if given_format is None:
        assert source.notices[0] == "detected: LangSmith runs, in pages of an API"
    assert source.total == len(ROWS)
    read = list(source.pages())
    assert sorted(r.id for p in read for r in p.runs) == sorted(CALLS)
    rest = [r.id for p in FileImporter(path).pages(read[2].position) for r in p.runs]
    assert rest == [r.id for p in read[2:] for r in p.runs]


def test_a_page_of_something_else_is_refused(tmp_path: Path) -> None:
    for number, rows in enumerate(([{"object": "model"}], [], "text", [1, 2])):
        with pytest.raises(UnreadableSource, match="nothing that is known"):
            FileImporter(write(tmp_path / f"{number}.json", lines([{"data": rows}])))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n', "its first line has been looked at.\n"),
        (b'{"a": 1}\n{"b": 2}\n', "its first 2 lines have been looked at.\n"),
        (b'{"a": 1}\n[1]\n', "looked at; line 2 is a list, not an object.\n"),
        (b"\x00\x01\n\xff", "looked at; line 1 is not JSON.\n"),
        (b'{"a": 1}\n{"b": ', "looked at; line 2 is not JSON (it ends in the middle: was the file cut off?).\n"),
    ],
)
def test_a_file_that_is_not_known_says_why(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UnreadableSource) as refused:
        FileImporter(write(tmp_path / "a.json", content))
    assert said in str(refused.value)
    assert "\n  LangSmith runs (run_type, start_time)\n" in str(refused.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}},
            "import its output",
        ),
        (
            {"type": "user", "uuid": "u", "sessionId": "s", "message": {"role": "user", "content": "?"}},
            "a coding agent",
        ),
        ({"timestamp": "2026-09-01", "type": "session_meta", "payload": {"id": "s"}}, "a coding agent"),
    ],
)
def test_what_is_known_and_not_read_says_what_to_do(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(UnreadableSource, match=said):
        FileImporter(write(tmp_path / "a.jsonl", lines([{"type": "summary"}, row])))


def test_langfuses_observations_and_traces(tmp_path: Path) -> None:
    def observation(number: int, kind: str, **more: Any) -> dict[str, Any]:
        at = f"2026-09-01T10:00:{number:02d}Z"
        about = {"id": f"o{number}", "traceId": "t", "type": kind, "startTime": at, "endTime": at, "output": "It is."}
        return {**about, "parentObservationId": None, "input": [{"role": "user", "content": f"{number}?"}], **more}

    used = {"model": "gpt-4o", "usageDetails": {"input": 100, "output": 10, "total": 110}}
    rows = [
        observation(0, "SPAN"),
        observation(1, "GENERATION", **used),
        observation(2, "TOOL"),
        observation(3, "AGENT"),
    ]
    trace = {"id": "t", "timestamp": "2026-09-01T10:00:00Z", "sessionId": "s", "userId": "ada", "observations": rows}
    flat = FileImporter(write(tmp_path / "a.json", json.dumps(rows[::-1]).encode()))
    assert flat.notices[0] == "detected: Langfuse observations"
    [page] = flat.pages()
    assert [(r.id, r.run_type, r.thread_id) for r in page.runs] == [("o1", "llm", None), ("o2", "tool", None)]
    assert page.ignored == 2
    apart = {"trace": {k: v for k, v in trace.items() if k != "observations"}, "observations": rows}
    wrapped = lines([trace]), json.dumps({"data": [trace]}).encode(), json.dumps(apart, indent=2).encode()
    for name, data in zip(("b.jsonl", "c.json", "d.json"), wrapped, strict=True):
        [page] = FileImporter(write(tmp_path / name, data)).pages()
        assert [(r.id, r.trace_id, r.thread_id, r.metadata["user_id"]) for r in page.runs] == [
            ("o1", "t", "s", "ada"),
            ("o2", "t", "s", "ada"),
        ]
        assert page.runs[0].usage is not None
        assert page.runs[0].usage["input_tokens"] == 100


def test_what_langsmiths_command_line_exports(tmp_path: Path) -> None:
    """`langsmith trace export --full`: other names, a file a trace. Parameters and kinds of tokens are not in it."""

    def exported(row: dict[str, Any]) -> dict[str, Any]:
        counted = {"prompt_tokens": row.get("prompt_tokens"), "completion_tokens": row.get("completion_tokens")}
        costs = {k: row.get(k) for k in ("prompt_cost", "completion_cost", "total_cost")}
        shared = ("trace_id", "name", "run_type", "parent_run_id", "start_time", "end_time", "status", "tags", "inputs")
        return {
            **{name: row.get(name) for name in (*shared, "outputs", "error")},
            "run_id": row["id"],
            "duration_ms": 900,
            "custom_metadata": (row.get("extra") or {}).get("metadata"),
            "token_usage": {k: v for k, v in counted.items() if v} or None,
            "costs": {k: float(v) for k, v in costs.items() if v} or None,
            "feedback_stats": None,
        }

    by_trace: dict[str, list[dict[str, Any]]] = {}
    for row in ROWS:
        metadata = {"thread_id": row["trace_id"], "ls_model_name": "gpt-4o"}
        told = {**row, "thread_id": None, "extra": {"metadata": metadata}, "prompt_token_details": None}
        by_trace.setdefault(row["trace_id"], []).append(told)
    for name in ("cli", "api"):
        (tmp_path / name).mkdir()
    for trace, rows in by_trace.items():
        write(tmp_path / "cli" / f"{trace}.jsonl", lines([exported(row) for row in rows]))
        write(tmp_path / "api" / f"{trace}.jsonl", lines(rows))
    sums = []
    for name in ("cli", "api"):
        book = Ledger(tmp_path / f"{name}.sqlite")
        history = Import(FileImporter(tmp_path / name), book).run()
        sums.append({**summarise(book, history).as_dict(), "scope": None})
        assert history.skipped == 0
    assert sums[0] == sums[1]
    assert sums[0]["rules"]


@pytest.mark.parametrize(
    ("end", "broken"),
    [(b"\n]", 0), (b",\n]\n", 0), (b",\n", 0), (b"", 0), (b',\n{"id": "cut o', 1)],
)
def test_a_list_that_breaks_off_is_read_up_to_there(tmp_path: Path, end: bytes, broken: int) -> None:
    """As a program leaves it that was killed, or that puts a comma behind each row."""
    rows = b"[\n" + b",\n".join(json.dumps(row, indent=2).encode() for row in ROWS) + end
    source = FileImporter(write(tmp_path / "a.json", rows))
    pages = list(source.pages())
    assert [run.id for page in pages for run in page.runs] == ids(FileImporter(write(tmp_path / "b", lines(ROWS))))
    cut_off = "not JSON (it ends in the middle: was the file cut off?)"
    assert [row.why for page in pages for row in page.skipped] == [cut_off] * broken


def test_calls_that_tell_nothing_are_counted_as_unknown(tmp_path: Path) -> None:
    """Inputs and outputs hidden, tokens not exported: not free of charge, nor a waste of nothing."""
    told = {"inputs": {"messages": [{"role": "user", "content": "hi"}]}, "outputs": {"message": {"content": "hello"}}}
    at = {"start_time": "2026-09-01T10:00:00Z", "end_time": "2026-09-01T10:00:01Z", "run_type": "llm", "name": "m"}
    named = {"extra": {"metadata": {"ls_model_name": "gpt-4o", "ls_provider": "openai"}}}
    rows = [
        {**at, "id": "nothing"},
        {**at, **named, "id": "a model"},
        {**at, **named, "id": "failed", "error": "Timeout()"},
        {**at, **named, "id": "priced", "total_cost": 0.5},
        {**at, **named, **told, "id": "estimated"},
        {**at, **named, "id": "counted", "prompt_tokens": 7, "completion_tokens": 1},
        {**at, "id": "a tool", "run_type": "tool"},
    ]
    book = Ledger(tmp_path / "l.sqlite")
    summary = summarise(book, Import(FileImporter(write(tmp_path / "a.jsonl", lines(rows))), book).run())
    assert (summary.uncounted_calls, summary.estimated_calls, summary.calls) == (2, 1, 7)
    assert summary.as_dict()["uncounted_calls"] == 2


def test_langfuses_exports_to_object_stores(tmp_path: Path) -> None:
    """Written by ClickHouse, as Langfuse has it written."""
    exports = Path(__file__).parent.parent / "data" / "langfuse_export"
    told = ({**row, "userId": "ada", "tags": ["exported"]} for row in HISTORY)
    expected = [run for row in told if isinstance(run := run_from_observation(row), Run)]
    expected.sort(key=lambda run: (run.started_at, run.id))

    def read(source: FileImporter) -> list[Run]:
        return sorted((r for p in source.pages() for r in p.runs), key=lambda run: (run.started_at, run.id))

    [enriched] = (exports / "enriched" / "observations_v2").glob("*.gz")
    source = FileImporter(enriched)
    assert source.notices[0] == "detected: Langfuse observations (blob storage export)"
    assert read(source) == expected
    rows = [json.loads(line) for line in gzip.decompress(enriched.read_bytes()).splitlines()]
    in_order = write(tmp_path / "a.jsonl", lines(sorted(rows, key=lambda r: r["start_time"])))
    assert read(FileImporter(in_order)) == expected
    assert read(FileImporter(write(tmp_path / "a.json", json.dumps(rows, indent=1).encode()))) == expected
    for part in ("enriched", "legacy"):
        shutil.copytree(exports / part, tmp_path / "prefix" / "project", dirs_exist_ok=True)
    both = FileImporter(tmp_path / "prefix")
    assert "a blob storage export of Langfuse, of which observations_v2 is read" in both.notices[0]
    assert read(both) == expected
    older = FileImporter(exports / "legacy")
    assert any(n.startswith("traces/") and "holds traces or scores of Langfuse" in n for n in older.notices)
    assert [(run.id, run.thread_id) for run in read(older)] == [(run.id, None) for run in expected]


def test_many_files_are_told_of_together(tmp_path: Path) -> None:
    for hour in range(30):
        write(tmp_path / f"{hour:02}.jsonl", lines(ROWS[hour * 5 : hour * 5 + 5]))
        write(tmp_path / f"{hour:02}.json", b'{"nothing": "known"}')
    notices = FileImporter(tmp_path).notices
    assert "00.jsonl, 01.jsonl, 02.jsonl and 27 more files: detected: LangSmith runs" in notices
    assert "00.json, 01.json, 02.json and 27 more files: left out: nothing in it is known" in notices
    assert len(notices) == 2


def test_a_call_that_two_of_langfuses_observations_tell_is_billed_once(tmp_path: Path) -> None:
    """A framework's generation around that of the client library, which counts what was sent."""

    def told(run_id: str, parent: str | None, tokens: int, kind: str = "GENERATION") -> dict[str, Any]:
        at = {"startTime": "2026-09-01T10:00:00Z", "endTime": "2026-09-01T10:00:01Z"}
        used = {"usageDetails": {"input": tokens, "output": 10, "total": tokens + 10}} if tokens else {}
        return {
            **at,
            "id": run_id,
            "traceId": "t",
            "type": kind,
            "parentObservationId": parent,
            "model": "gpt-4o",
            **used,
        }

    rows = [
        told("agent", None, 0, "AGENT"),
        told("outer", "agent", 300),
        told("inner", "outer", 100),
        told("alone", "agent", 50),
    ]
    for number, saved in enumerate(([{"id": "t", "observations": rows}], rows)):  # with its trace, and row by row
        book = Ledger(tmp_path / f"{number}.sqlite")
        history = Import(FileImporter(write(tmp_path / f"{number}.jsonl", lines(saved))), book).run()
        assert sorted(call.id for call in book.calls(history)) == ["alone", "inner"]
        assert summarise(book, history).tokens == 110 + 60


@pytest.mark.parametrize("data", [lines(ROWS), json.dumps(ROWS).encode(), json.dumps(ROWS[0], indent=2).encode()])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path, data: bytes) -> None:
    plain, marked = (write(tmp_path / name, mark + data) for name, mark in (("a", b""), ("b", b"\xef\xbb\xbf")))
    assert ids(FileImporter(marked)) == ids(FileImporter(plain))
    assert [s for page in FileImporter(marked).pages() for s in page.skipped] == []


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / os.fsdecode(b"caf\xe9.jsonl"), lines(ROWS))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    history = Import(FileImporter([path, write(tmp_path / "b.jsonl", b"rubbish")], format="langsmith"), ledger).run()
    assert r"caf\xe9.jsonl" in history.scope
    assert history.runs == len(CALLS)


def test_no_room_for_the_index_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / name, gzip.compress(lines(ROWS))) for name in ("a.gz", "b.gz")]
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "wb"))  # noqa: PTH123, SIM115 - a device
    with pytest.raises(UnreadableSource, match="TMPDIR"):
        FileImporter(paths)


def test_a_pipe_says_what_to_do(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableSource, match="save what it gives"):
        FileImporter(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("name", "data", "hint"),
    [
        ("a.parquet", b"PAR1\x15\x04\x15\x10\nPAR1", "import parquet"),
        ("export", b"PAR1\x15\x04\x15\x10\nPAR1", "import parquet"),
        ("a.zip", b"PK\x03\x04\x14\x00\n", "unpack it"),
        ("a.jsonl", '{"messages": []}\n'.encode("utf-16"), "UTF-8"),
    ],
)
def test_files_of_another_kind_say_what_to_do(tmp_path: Path, name: str, data: bytes, hint: str) -> None:
    with pytest.raises(UnreadableSource, match=hint):
        FileImporter(write(tmp_path / name, data))


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([r for r in ROWS if r["run_type"] == "chain"], "those inside the root runs"),
        ([{"messages": [{"role": "user", "content": "Hi"}]}], "of an assistant"),
        ([{"request": {"model": "m"}, "response": {"choices": []}}, 5], None),
    ],
)
def test_rows_without_calls_are_told(tmp_path: Path, rows: list[Any], why: str | None) -> None:
    source = FileImporter(write(tmp_path / "a.jsonl", lines(rows)))
    runs = [r for p in source.pages() for r in p.runs]
    told = [n for n in source.notices if n.startswith("no calls")]
    assert bool(told) is not bool(runs)
    assert why is None or why in told[0]


def test_rows_with_calls_are_not_said_to_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", 7)
    source = FileImporter(write(tmp_path / "a.jsonl", lines(ROWS)))
    last = list(source.pages())[-1]
    list(source.pages(last.position))
    assert source.notices == ["detected: LangSmith runs"]


def test_a_folder_named_as_one_of_langfuses_is_left_out_of_its_project_only(tmp_path: Path) -> None:
    exports = Path(__file__).parent.parent / "data" / "langfuse_export"
    shutil.copytree(exports / "enriched", tmp_path / "one")
    shutil.copytree(exports / "legacy" / "observations", tmp_path / "two" / "observations")
    (tmp_path / "traces").mkdir()
    write(tmp_path / "traces" / "a.jsonl", lines(ROWS))
    source = FileImporter(tmp_path)
    assert set(ids(source)) > set(CALLS)
    assert any("two/observations/" in notice for notice in source.notices)


@pytest.mark.parametrize(
    ("begins", "fills", "says"),
    [
        (b'{"a": "', b"x" * 1_000, "has a line of over 1,000,000 bytes"),
        (b"[", b"1," * 500, "is one JSON list of over 1,000,000 bytes"),
        (b'{\n"a": "', b"x" * 1_000, "has a line of over 1,000,000 bytes"),
    ],
    ids=["line", "list", "object"],
)
def test_a_small_file_that_unpacks_to_more_than_memory_holds(
    begins: bytes, fills: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ts_importers.documents.MAX_WHOLE_BYTES", 1_000_000)
    path = tmp_path / "bomb.json.gz"
    with gzip.open(path, "wb") as file:
        file.write(begins)
        for _ in range(50_000):
            file.write(fills)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableSource, match=f"bomb.json.gz {says}"):
            FileImporter(path)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_of_a_file_with_an_endless_line_what_comes_before_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ts_importers.documents.MAX_WHOLE_BYTES", 1_000_000)
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b"".join(json.dumps(r).encode() + b"\n" for r in ROWS) + b" " * 2_000_000)
    pages = list(FileImporter(path).pages())
    assert sum(len(p.runs) for p in pages) == len([r for r in ROWS if r["run_type"] != "chain"])
    assert ["over 1,000,000 bytes" in s.why for p in pages for s in p.skipped] == [True]
