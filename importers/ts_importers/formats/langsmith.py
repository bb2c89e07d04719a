"""LangSmith runs, as its API, its SDK and its exports give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ts_importers.formats.base import Key, Row, Setting
from ts_importers.langsmith_rows import run_from_row
from ts_importers.values import timestamp

if TYPE_CHECKING:
    from ts_importers.base import Skipped
    from ts_langchain.replay import Run


class LangSmithRuns:
    """One run a row."""

    name = "langsmith"
    title = "LangSmith runs"
    expects = "run_type, start_time"
    spans = False

    def recognises(self, document: Row) -> str | None:
        found = "run_type" in document or ("dotted_order" in document and "start_time" in document)
        return self.title if found else None

    def rows(self, document: Row) -> tuple[Row]:
        return (document,)

    def key(self, row: Row) -> Key:
        return Key(timestamp(row.get("start_time")))

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        del setting
        run = run_from_row(row)
        return [run] if run is not None else []
