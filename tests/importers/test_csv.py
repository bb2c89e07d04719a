"""Tables as text, as Langfuse's web page, databases and pandas write them: the same as JSON lines of the same rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from importers.export_history import HISTORY
from importers.fake_langsmith import agent_rows
from rules.talk import Talk
from rules.talk_files import phoenix

from ts_importers.files import FileImporter
from ts_langchain.errors import UnreadableSource
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from ts_langchain.replay import Run

DATA = Path(__file__).parent.parent / "data"
EXPORT = DATA / "langfuse_export" / "enriched" / "observations_v2" / "2026-09-01T08-00-00-000Z.jsonl.gz"
Rows = list[dict[str, Any]]


def langfuse() -> Rows:
    rows = [json.loads(line) for line in gzip.decompress(EXPORT.read_bytes()).splitlines()]
    return [{**row, "prompt_version": str(row["prompt_version"] or "")} for row in rows]


def web_page() -> Rows:
    """Observations as Langfuse's web page exports them: what went in and out as text, JSON or not."""
    names = {"trace_id": "traceId", "start_time": "startTime", "end_time": "endTime"}
    names |= {"parent_observation_id": "parentObservationId", "usage_details": "usageDetails", "user_id": "userId"}
    names |= {"cost_details": "costDetails", "provided_model_name": "model", "model_parameters": "modelParameters"}
    return [{names[k]: v for k, v in row.items() if k in names} | {k: row[k] for k in KEPT} for row in langfuse()]


KEPT = ("id", "type", "name", "level", "input", "output", "metadata")


def dataframe() -> Rows:
    """Spans as Phoenix gives them to pandas."""
    talk = Talk().user("Hi").tool("search", {"q": "llamas"}, "two llamas").tool("search", {"q": "alpacas"}, "one")
    return [
        columns({k: v for k, v in span.items() if k != "attributes"}) | columns(span["attributes"], "attributes.")
        for span in phoenix([talk])
    ]


def columns(value: dict[str, Any], under: str = "") -> dict[str, Any]:
    """Dictionaries in columns of their own, lists as they are."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= columns(inner, f"{under}{name}.") if isinstance(inner, dict) else {under + name: inner}
    return found


SOURCES: dict[str, Callable[[], Rows]] = {
    "LangSmith runs": lambda: sorted(agent_rows(30), key=lambda r: (r["start_time"], r["id"])),
    "LiteLLM's logs": lambda: [json.loads(line) for line in (DATA / "litellm.jsonl").read_text().splitlines()],
    "Langfuse observations (blob storage export)": langfuse,
    "Langfuse observations": web_page,
    "OpenInference spans": dataframe,
}


def table(rows: Rows, write: Callable[[Any], object] = json.dumps, delimiter: str = ",") -> bytes:
    """A table; `write` says how lists and dictionaries are written."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(names)
    for row in rows:
        writer.writerow([write(v) if isinstance(v := row.get(name), (dict, list)) else v for name in names])
    return text.getvalue().encode()


def runs(path: Path, data: bytes) -> tuple[list[Run], FileImporter]:
    path.write_bytes(data)
    source = FileImporter(path)
    pages = list(source.pages())
    assert [s for page in pages for s in page.skipped] == []
    return [run for page in pages for run in page.runs], source


@pytest.mark.parametrize("title", SOURCES)
@pytest.mark.parametrize(
    ("name", "write", "delimiter"),
    [("a.csv", json.dumps, ","), ("a.csv", str, ";"), ("a.TSV", json.dumps, "\t"), ("a.csv.gz", str, ",")],
)
def test_a_table_is_what_json_lines_of_its_rows_are(
    tmp_path: Path, title: str, name: str, write: Callable[[Any], object], delimiter: str
) -> None:
    rows = SOURCES[title]()
    wanted, source = runs(tmp_path / "a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    assert f"detected: {title}" in source.notices
    data = table(rows, write, delimiter)
    found, source = runs(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)
    assert f"detected: {title}" in source.notices
    assert len(wanted) > 1
    assert found == wanted


def test_any_position_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", 7)
    path = tmp_path / "a.csv"
    path.write_bytes(table(SOURCES["LangSmith runs"]()))
    pages = list(FileImporter(path).pages())
    assert len(pages) > 5
    for number in (0, 2, len(pages) - 1):
        rest = [r.id for p in FileImporter(path).pages(pages[number].position) for r in p.runs]
        assert rest == [r.id for p in pages[number:] for r in p.runs]


def test_rows_that_are_none_are_counted_and_named(tmp_path: Path) -> None:
    rows = SOURCES["LangSmith runs"]()
    whole = table(rows)
    begin, end = whole.split(b"\r\n", 3)[:3], whole.split(b"\r\n", 3)[3]
    path = tmp_path / "a.csv"
    path.write_bytes(b"\r\n".join([*begin, b"1,2,3", b'"a"b,c', b"", end[:-40]]))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    history = Import(FileImporter(path), ledger).run()
    reasons = dict(ledger.skipped(history))
    columns = len({name for row in rows for name in row})
    assert reasons["line 4"] == f"a row of 3 cells under a header of {columns}"
    assert reasons["line 5"].startswith("no row of a table")
    assert history.skipped == 3  # and the last, of which the end is missing
    assert history.runs == len([r for r in rows[:-1] if r["run_type"] != "chain"])


def test_cells_that_only_look_like_json_are_text(tmp_path: Path) -> None:
    said = [
        r"[see \d below",
        "{curly}",
        "{1, 2}",
        "[UUID('a')]",
        "[[[[" * 5_000,
        "007",
        'a "quoted"\nline',
        "{'a': b''}",
    ]
    row = next(r for r in SOURCES["LangSmith runs"]() if r["run_type"] == "tool")
    rows = [{**row, "id": str(n), "outputs": text} for n, text in enumerate(said)]
    with warnings.catch_warnings(action="error", category=SyntaxWarning):
        found, _ = runs(tmp_path / "a.csv", table(rows))
    wanted, _ = runs(tmp_path / "a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    assert found == wanted


def test_bytes_that_are_no_utf8_and_long_cells(tmp_path: Path) -> None:
    row = next(r for r in SOURCES["LangSmith runs"]() if r["run_type"] == "tool")
    data = table([{**row, "inputs": {"input": "x" * 300_000 + "#"}, "name": "caf@"}])
    found, _ = runs(tmp_path / "a.csv", b"\xef\xbb\xbf" + data.replace(b"@", b"\xe9").replace(b"#", b"\xff"))
    assert [run.name for run in found] == ["caf?"]


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"date,amount\n2026-09-01,12\n", "its columns are date, amount"),
        (b"%s,amount\n2026-09-01,12\n" % (b"a" * 99), "its columns are a{40}, amount"),
        (b"\x01\xff\x7f\n\x02\n", "is no table of text"),
        (b'"a"b,c\n1,2\n', "no header of a table"),
        (b"id,run_type\n1\n2\n", "line 2: a row of 1 cells"),
        (b"id,timestamp,name,sessionId\n1,2026-09-01,a,b\n", "export its table of observations"),
        (b'response_id,request_created_at,request_body\n1,2026-09-01,"{""""a"""":1}"\n', "which holds no answers"),
    ],
)
def test_tables_of_another_kind_say_what_to_do(tmp_path: Path, data: bytes, hint: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(UnreadableSource, match=hint):
        FileImporter(tmp_path / "a.csv")


def test_json_lines_under_the_name_of_a_table(tmp_path: Path) -> None:
    found, _ = runs(tmp_path / "a.csv", b"".join(json.dumps(row).encode() + b"\n" for row in HISTORY))
    assert found


def test_a_folder_of_tables(tmp_path: Path) -> None:
    rows = SOURCES["Langfuse observations"]()
    (tmp_path / "a.csv").write_bytes(table(rows[:20]))
    (tmp_path / "b.csv").write_bytes(table(rows[20:]))
    found = [run.id for page in FileImporter(tmp_path).pages() for run in page.runs]
    whole, _ = runs(tmp_path / "whole.csv", table(rows))
    assert sorted(found) == sorted(run.id for run in whole)
