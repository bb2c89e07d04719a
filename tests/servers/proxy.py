"""A proxy between an importer and a local server, that spoils answers: the network and the service at their worst."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from servers.serving import Quiet, listening

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

ROW_LISTS = ("items", "runs", "data")


class Proxy:
    """How answers are spoiled.

    Attributes:
        faults: Taken one per request, None lets it pass: rate_seconds, rate_date, rate_bare, error_500, error_502,
            error_503, hung_up (nothing is answered), reset (the answer breaks off), cut (a shorter answer that says it
            is whole), page (a web page instead), slow (answers after a second), packed (a gzipped answer that breaks
            off), misnamed (an answer that says it is gzipped and is not).
        rows: Changes the list of rows in each answer.
        seen: What was asked for: method and address, as they came in.
    """

    def __init__(self, target: str, faults: list[str | None] | None = None) -> None:
        self.target = urlsplit(target)
        self.faults = list(faults or [])
        self.rows: Callable[[list[Any]], list[Any]] | None = None
        self.seen: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.url = ""

    def next_fault(self) -> str | None:
        with self.lock:
            return self.faults.pop(0) if self.faults else None

    def spoiled(self, data: bytes) -> bytes:
        """The answer with other rows; addresses in it that name the server behind name the proxy."""
        data = data.replace(self.target.netloc.encode(), urlsplit(self.url).netloc.encode())
        if self.rows is None:
            return data
        answer = json.loads(data)
        if isinstance(answer, dict):
            for name in ROW_LISTS:
                if isinstance(answer.get(name), list):
                    answer[name] = self.rows(answer[name])
        return json.dumps(answer).encode()


@contextmanager
def through(proxy: Proxy, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Runs the proxy on a free port; with a certificate it speaks HTTPS."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.forward(None)

        def do_POST(self) -> None:
            self.forward(self.rfile.read(int(self.headers["content-length"])))

        def forward(self, body: bytes | None) -> None:
            with proxy.lock:
                proxy.seen.append((self.command, self.path))
            fault = proxy.next_fault()
            if fault == "rate_seconds":
                self.send(429, b"{}", retry_after="3")
            elif fault == "rate_date":
                self.send(429, b"{}", retry_after=formatdate(time.time() + 20, usegmt=True))
            elif fault == "rate_bare":
                self.send(429, b"{}")
            elif fault is not None and fault.startswith("error_"):
                self.send(int(fault[6:]), b"oh dear")
            elif fault == "hung_up":
                self.close_connection = True
            elif fault == "page":
                self.send(503, b"<html>Down for maintenance</html>", content_type="text/html")
            else:
                if fault == "slow":
                    time.sleep(1.0)
                self.answer(body, fault)

        def answer(self, body: bytes | None, fault: str | None) -> None:
            behind = http.client.HTTPConnection(proxy.target.hostname or "", proxy.target.port or 80)
            address = urlsplit(self.path)  # asked as a proxy proper it comes with the whole address
            path = address.path + (f"?{address.query}" if address.query else "")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "accept-encoding")}
            behind.request(self.command, path, body, headers)
            found = behind.getresponse()
            data = proxy.spoiled(found.read())
            behind.close()
            if fault == "reset":
                self.send(found.status, data[: len(data) // 2], len(data))
                self.close_connection = True
            elif fault == "packed":
                packed = gzip.compress(data)
                self.send(found.status, packed[: len(packed) // 2], content_encoding="gzip")
            elif fault == "misnamed":
                self.send(found.status, data, content_encoding="gzip")
            elif fault == "cut":
                self.send(found.status, data[: len(data) // 2])
            else:
                self.send(found.status, data)

    with listening(Handler, tls) as port:
        proxy.url = f"http://127.0.0.1:{port}" if tls is None else f"https://localhost:{port}"
        yield proxy


def twice(rows: list[Any]) -> list[Any]:
    """Each row comes twice."""
    return [row for row in rows for _ in range(2)]


def in_no_order(rows: list[Any]) -> list[Any]:
    """The rows of a page in no order."""
    return random.Random(len(rows)).sample(rows, len(rows))


def with_half_a_letter(rows: list[Any]) -> list[Any]:
    """Each row holds a text that was cut in the middle of a surrogate pair, and one with a NUL."""
    return [{**row, "cut": "so \ud83d", "nul": "\0"} if isinstance(row, dict) else row for row in rows]


def among_rubbish(rows: list[Any]) -> list[Any]:
    """Between the rows there are things that are none."""
    rubbish: list[Any] = [None, 7, "row", [], {}, {"id": 3}, {"id": "odd", "start_time": "yesterday"}]
    return [thing for row in rows for thing in (row, *rubbish[:1])] + rubbish
