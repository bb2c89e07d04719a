"""Helicone's requests, as its request query gives them and exports keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ts_importers.formats.base import Key, Row, Setting
from ts_importers.helicone_rows import run_from_request
from ts_importers.values import timestamp

if TYPE_CHECKING:
    from ts_importers.base import Skipped
    from ts_langchain.replay import Run


class HeliconeRequests:
    """One request a row, its bodies in `request_body` and `response_body`."""

    name = "helicone"
    title = "Helicone requests"
    expects = "request_id, request_created_at"
    spans = False

    def recognises(self, document: Row) -> str | None:
        return self.title if {"request_id", "request_created_at"} <= document.keys() else None

    def rows(self, document: Row) -> tuple[Row]:
        return (document,)

    def key(self, row: Row) -> Key:
        return Key(timestamp(row.get("request_created_at")))

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        del setting
        return [run_from_request(row)]
