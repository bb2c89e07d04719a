"""Every importer keeps to what importers must keep to, and so does one that another package brings."""

from __future__ import annotations

import gzip
import json
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from importers.fake_langsmith import FakeLangSmith, agent_rows
from importers.fake_langsmith import serve as serve_langsmith
from importers.test_helicone import FakeHelicone
from importers.test_langfuse import FakeLangfuse
from rules.talk_files import chat_completions, genai_attributes, otlp, phoenix
from typer.testing import CliRunner

from importers import test_helicone, test_langfuse, test_langsmith, test_parquet
from ts_importers import windows
from ts_importers.base import Page, Skipped
from ts_importers.files import FileImporter
from ts_importers.langsmith_rows import run_from_row
from ts_importers.parquet import ParquetImporter
from ts_langchain.cli import importing, plugins
from ts_langchain.cli.app import app
from ts_langchain.replay import Run
from ts_langchain.testing import check_importer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS = sorted(agent_rows(30), key=lambda r: (r["start_time"], r["id"]))
BROKEN = [{**ROWS[5], "id": "broken-1", "start_time": None}, {**ROWS[9], "id": "", "end_time": "never"}]
TALKS = test_langfuse.talks(12)


def lines(path: Path, rows: list[Any]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def from_langsmith(folder: Path, stack: ExitStack, **kind: Any) -> Callable[[], Any]:
    fake = stack.enter_context(serve_langsmith(FakeLangSmith([*ROWS, *BROKEN[1:]], **kind)))
    return lambda: test_langsmith.importer(fake)


def from_langfuse(folder: Path, stack: ExitStack, *, v2: bool) -> Callable[[], Any]:
    fake = stack.enter_context(test_langfuse.serve(FakeLangfuse(v2)))
    return lambda: test_langfuse.importer(fake)


def from_helicone(folder: Path, stack: ExitStack) -> Callable[[], Any]:
    fake = stack.enter_context(test_helicone.serve(FakeHelicone()))
    return lambda: test_helicone.importer(fake)


def from_parquet(folder: Path, stack: ExitStack) -> Callable[[], Any]:
    place = test_parquet.export(folder, ROWS)
    return lambda: ParquetImporter(str(place))


def from_folder(folder: Path, stack: ExitStack) -> Callable[[], Any]:
    lines(folder / "a.jsonl", ROWS[::2])
    lines(folder / "b.jsonl.gz", ROWS[1::2])
    return lambda: FileImporter(folder)


def from_file(rows: list[Any], name: str = "rows.jsonl") -> Callable[[Path, ExitStack], Callable[[], Any]]:
    def make(folder: Path, stack: ExitStack) -> Callable[[], Any]:
        path = lines(folder / name, rows)
        return lambda: FileImporter(path)

    return make


CONVERSATIONS = [
    {
        "id": f"talk-{n}",
        "messages": [{"role": "user", "content": f"Is {n} odd?"}, {"role": "assistant", "content": "?"}],
    }
    for n in range(300)
]
KINDS: dict[str, Callable[[Path, ExitStack], Callable[[], Any]]] = {
    "LangSmith": from_langsmith,
    "LangSmith v1": lambda folder, stack: from_langsmith(folder, stack, v2=False),
    "Langfuse": lambda folder, stack: from_langfuse(folder, stack, v2=True),
    "Langfuse, older": lambda folder, stack: from_langfuse(folder, stack, v2=False),
    "Helicone": from_helicone,
    "Parquet": from_parquet,
    "a folder": from_folder,
    "LangSmith runs": from_file([*ROWS, *BROKEN]),
    "LangSmith runs in no order": from_file([*ROWS[::-3], *BROKEN, *(r for r in ROWS if r not in ROWS[::-3])]),
    "LangSmith runs, gzipped": from_file([*ROWS, *BROKEN], "rows.jsonl.gz"),
    "conversations": from_file(CONVERSATIONS),
    "OTLP": from_file(otlp(TALKS, genai_attributes), "spans.jsonl"),
    "Phoenix": from_file(phoenix(TALKS)),
    "exchanges": from_file(chat_completions(TALKS)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_importer_keeps_to_the_protocol(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_ROWS", 120)
    monkeypatch.setattr(windows, "FEW_ROWS", 30)
    with ExitStack() as stack:
        check_importer(KINDS[kind](tmp_path, stack))


class Notes:
    """An importer as another package would bring it: one page for every 50 rows of a list."""

    source, total = "notes", None

    def __init__(self, *, path: str, only: str | None = None) -> None:
        self.scope = path
        self.notices: list[str] = []
        self.rows = [row for row in map(json.loads, Path(path).read_text().splitlines()) if only in (None, row["name"])]

    def pages(self, position: Any = None) -> Iterator[Page]:
        for start in range((position or {}).get("row", 0), len(self.rows), 50):
            page = Page([], {"row": start})
            for row in self.rows[start : start + 50]:
                run = run_from_row(row)
                if isinstance(run, Run):
                    page.runs.append(run)
                elif isinstance(run, Skipped):
                    page.skipped.append(run)
                else:
                    page.ignored += 1
            yield page

    def describe(self) -> dict[str, str]:
        return {"notes": self.scope}


class Unordered(Notes):
    def pages(self, position: Any = None) -> Iterator[Page]:
        for page in super().pages(position):
            yield replace(page, runs=page.runs[::-1])


class Forgetful(Notes):
    def pages(self, position: Any = None) -> Iterator[Page]:
        return super().pages(None)


class Repeating(Notes):
    def pages(self, position: Any = None) -> Iterator[Page]:
        for page in super().pages(position):
            yield replace(page, runs=[*page.runs, page.runs[-1]])


class Talkative(Notes):
    def pages(self, position: Any = None) -> Iterator[Page]:
        for page in super().pages(position):
            yield replace(page, position={**page.position, "seen": "x" * 3_000})


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Unordered, "began before"),
        (Forgetful, "other rows come"),
        (Repeating, "comes twice"),
        (Talkative, "bytes long"),
    ],
)
def test_what_does_not_is_told(kind: type[Notes], wrong: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "notes.jsonl", ROWS)
    check_importer(lambda: Notes(path=str(path)))
    with pytest.raises(AssertionError, match=wrong):
        check_importer(lambda: kind(path=str(path)))


def test_another_package_brings_an_importer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path / "notes.jsonl", ROWS)
    brought = [EntryPoint("notes", f"{__name__}:Notes", importing.IMPORTERS)]
    for module in (importing, plugins):
        monkeypatch.setattr(module, "entry_points", lambda group: brought if group == importing.IMPORTERS else [])

    def run(*args: str) -> Any:
        env = {"TS_LANGCHAIN_LEDGER": str(tmp_path / "ledger.sqlite"), "COLUMNS": "120"}
        return CliRunner().invoke(app, ["import", "plugin", *args], env=env)

    assert run().stdout == "notes\n"
    done = run("notes", "-o", f"path={path}", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["rows"]["replayed"] == len([r for r in ROWS if r["run_type"] != "chain"])
    for args, says in (
        (["nots"], "the installed importers: notes"),
        (["notes", "-o", "pth=x"], "does not take these options"),
        (["notes", "-o", "path"], "KEY=VALUE"),
    ):
        refused = run(*args)
        assert refused.exit_code == 2
        assert says in " ".join(refused.stderr.split())
