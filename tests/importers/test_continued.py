"""Requests that name no conversation: which of them belong together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from importers.test_exchanges import ASKED, COMPLETION
from importers.test_rows import odd

from ts_importers.files import FileImporter
from ts_importers.formats import continued
from ts_importers.formats.continued import Asked, Continued
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

OPENING = [{"role": "system", "content": "You watch a page."}, {"role": "user", "content": "Look and report."}]
CALL = {"id": "c1", "type": "function", "function": {"name": "fetch", "arguments": '{"url": "u"}'}}
ROUND = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "All is well."},
]


def told(*requests: tuple[Any, float | None] | Asked) -> list[str | None]:
    """The conversation of each request, given as a prompt and its time, or in full; ids are their numbers."""
    conversations = Continued()
    asked = (r if isinstance(r, Asked) else Asked("", r[0], started=r[1]) for r in requests)
    return [conversations.conversation(r._replace(id=str(n))) for n, r in enumerate(asked)]


def test_a_prompt_that_goes_on_belongs_to_what_was_sent_before() -> None:
    further = [*OPENING, *ROUND]
    assert told((OPENING, 0), (further, 3), ([*further, *ROUND], 6)) == ["0", "0", "0"]
    assert told((further, 0), (OPENING, 3)) == ["0", "1"]
    assert told((OPENING, None), (further, None), (OPENING, None)) == ["0", "0", "2"]


@pytest.mark.parametrize("every", [3.0, 20.0, 3600.0])
def test_runs_that_open_alike_are_not_one(every: float) -> None:
    run = [(OPENING, 0.0), ([*OPENING, *ROUND], 1.5)]
    runs = [(prompt, n * every + at) for n in range(4) for prompt, at in run]
    assert told(*runs) == ["0", "0", "2", "2", "4", "4", "6", "6"]


def test_users_keys_and_models_tell_apart() -> None:
    whos: list[tuple[str | None, ...]] = [("ada", "gpt"), ("bob", "gpt"), ("ada", "claude"), (None, "gpt")]
    begun = [Asked("", OPENING, started=0.0, who=who) for who in whos]
    further = [Asked("", [*OPENING, *ROUND], started=9.0, who=who) for who in whos]
    assert told(*begun, *further) == ["0", "1", "2", "3"] * 2


@pytest.mark.parametrize(
    ("failed", "ended", "at", "same"),
    [
        (False, 2.0, 3.0, True),
        (False, 2.0, 60.0, False),
        (False, 2.0, 1.0, False),  # at the same time: no retry
        (True, 2.0, 60.0, True),
        (True, 2.0, 3600.0, False),
        (False, None, 3.0, True),
        (True, None, None, True),
        (False, None, None, False),
    ],
)
def test_a_retry_belongs_to_what_it_repeats(failed: bool, ended: float | None, at: float | None, same: bool) -> None:
    once = Asked("", OPENING, started=None if at is None else 0.0, ended=ended, failed=failed)
    assert told(once, (OPENING, at)) == ["0", "0" if same else "1"]


def test_of_prompts_alike_that_one_goes_on_whose_answer_came_back() -> None:
    def said(text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}

    begun = [Asked("", OPENING, said(text), n * 60.0) for n, text in enumerate(["one", "two", "three"])]
    further = [([*OPENING, said(text), {"role": "user", "content": "And?"}], 300.0) for text in ("one", "three", "two")]
    assert told(*begun, *further) == ["0", "1", "2", "0", "2", "1"]


@pytest.mark.parametrize("said", ["", None, "[REDACTED]", "redacted-by-litellm", "***", []])
def test_what_says_nothing_is_joined_with_nothing(said: Any) -> None:
    prompt = [{"role": "system", "content": "S"}, {"role": "user", "content": said}]
    assert told((prompt, 0), (prompt, 1), ([*prompt, *ROUND], 2)) == [None, None, None]
    assert told(([], 0), (None, 1)) == [None, None]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continued, "MOST_PROMPTS", 5)
    conversations = Continued()
    for n in range(100):
        conversations.conversation(Asked(f"a{n}", OPENING, started=n * 3600.0))
        conversations.conversation(Asked(f"b{n}", [{"role": "user", "content": str(n)}], started=n * 3600.0))
    assert len(conversations._last) == 5
    assert sum(map(len, conversations._last.values())) <= 5 * continued.MOST_ALIKE


@given(st.lists(st.one_of(odd, st.lists(odd, max_size=4)), max_size=6))
def test_prompts_of_any_type(prompts: list[Any]) -> None:
    told(*((prompt, 0.0) for prompt in prompts))


def _log(path: Path, runs: int, every: float, **more: Any) -> Path:
    rows = []
    for n in range(runs):
        for at, messages in ((0.0, OPENING), (3.0, [*OPENING, *ROUND])):
            response = {**COMPLETION, "id": f"r{n}-{at}", "temperature": 0}
            request = {**ASKED, "messages": messages, **more}
            rows.append({"timestamp": 1_788_000_000 + n * every + at, "duration": 1.0,
                         "request": request, "response": response})  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_script_that_runs_every_hour_is_no_loop(tmp_path: Path) -> None:
    path = _log(tmp_path / "a.jsonl", 6, 3600.0)
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(path), ledger).run()
    assert {i.rule for i in ledger.incidents(history)} <= {"duplicate_work"}
    sessions = [run.metadata["session_id"] for page in FileImporter(path).pages() for run in page.runs]
    assert sessions == [f"r{n}-0.0" for n in range(6) for _ in range(2)]


@pytest.mark.parametrize("several", [False, True], ids=["one file", "two files"])
def test_wherever_it_goes_on_conversations_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", 3)
    paths = [_log(tmp_path / "a.jsonl", 5, 3600.0)]
    if several:
        paths.append(_log(tmp_path / "b.jsonl", 5, 1800.0, user="bob"))
    pages = list(FileImporter(paths).pages())
    for number, page in enumerate(pages):
        rest = [r.metadata["session_id"] for p in FileImporter(paths).pages(page.position) for r in p.runs]
        assert rest == [r.metadata["session_id"] for p in pages[number:] for r in p.runs]
