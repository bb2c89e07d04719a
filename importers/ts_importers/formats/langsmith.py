"""LangSmith runs, as its API, its SDK, its exports and its command line give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ts_importers.formats.base import Key, Row, Setting
from ts_importers.langsmith_rows import from_cli, run_from_row
from ts_importers.values import timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ts_importers.base import Skipped
    from ts_langchain.replay import Run


class LangSmithRuns:
    """One run a row, or a run with those inside it (`child_runs`)."""

    name = "langsmith"
    title = "LangSmith runs"
    expects = "run_type, start_time"
    spans = False

    def recognises(self, document: Row) -> str | None:
        found = "run_type" in document or ("dotted_order" in document and "start_time" in document)
        return self.title if found else None

    def rows(self, document: Row) -> Iterable[Row]:
        return _flat(document) if document.get("child_runs") else (document,)

    def key(self, row: Row) -> Key:
        return Key(timestamp(row.get("start_time")))

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        del setting
        run = run_from_row(from_cli(row) if "run_id" in row and "id" not in row else row)
        return [run] if run is not None else []


def _flat(document: Row) -> Iterator[Row]:
    """A run and those inside it, which may leave out what they share with it."""
    trace = document.get("trace_id") or document.get("id")
    waiting = [(document, document.get("parent_run_id"), document.get("thread_id"))]
    while waiting:
        run, parent, thread = waiting.pop()
        inside = run.get("child_runs")
        flat = {k: v for k, v in run.items() if k != "child_runs"}
        flat |= {
            "trace_id": run.get("trace_id") or trace,
            "parent_run_id": run.get("parent_run_id") or parent,
            "thread_id": run.get("thread_id") or thread,
        }
        yield flat
        if isinstance(inside, list):  # what is no run is a row of which nothing can be read
            waiting += [(c if isinstance(c, dict) else {}, run.get("id"), flat["thread_id"]) for c in inside]
