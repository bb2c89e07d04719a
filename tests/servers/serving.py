"""A local server for an app that answers requests, with faults to switch on."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass
class Request:
    """What came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass
class Answer:
    """What goes out; a body of None is an empty one."""

    status: int = 200
    body: Any = None


@dataclass
class Faults:
    """How a server misbehaves.

    Attributes:
        queue: Taken one per writing request: rate_seconds, rate_date, rate_bare, bad_gateway, truncated, lost (the
            request is carried out and its answer lost), reset (it is not carried out), fine.
        stop_after: After so many of the listed writing requests nobody is answered any more.
        reached: Set when that is so.
    """

    queue: list[str] = field(default_factory=list)
    stop_after: int | None = None
    reached: threading.Event = field(default_factory=threading.Event)


class Quiet(BaseHTTPRequestHandler):
    """Logs nothing, and sends an answer with its length."""

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def send(self, status: int, data: bytes, length: int | None = None, **headers: str) -> None:
        """An answer that promises this length, by default its own; `retry_after` is the header `retry-after`."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answers on a free port of the loopback interface, which it gives, in threads of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


OPENSSL = shutil.which("openssl")


def own_certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """What a server on localhost speaks TLS with, and the certificate that its clients are to trust."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            str(OPENSSL), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return tls, certificate


class App(Protocol):
    """What a server is."""

    url: str
    faults: Faults
    requests: list[Request]

    def answer(self, request: Request) -> Answer: ...


A = TypeVar("A", bound=App)


@contextmanager
def serving(app: A) -> Iterator[A]:
    """Runs the app on a free port of the loopback interface."""
    lock = threading.Lock()
    faults = app.faults
    released = threading.Event()

    class Handler(Quiet):
        def reply(self, answer: Answer, length: int | None = None, **headers: str) -> None:
            data = json.dumps(answer.body).encode() if answer.body is not None else b""
            self.send(answer.status, data[:length], **headers)

        def do_GET(self) -> None:
            self.respond()

        def do_POST(self) -> None:
            self.respond()

        def do_PATCH(self) -> None:
            self.respond()

        def do_DELETE(self) -> None:
            self.respond()

        def respond(self) -> None:
            url = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            body = json.loads(raw) if raw else None
            query = {k: v[0] for k, v in parse_qs(url.query).items()}
            request = Request(self.command, url.path, query, self.headers, body)
            writes = self.command != "GET" and not url.path.endswith("/query")
            with lock:
                app.requests.append(request)
                fault = faults.queue.pop(0) if writes and faults.queue else None
                done = 0
                if faults.stop_after is not None:
                    done = sum(r.method != "GET" and not r.path.endswith("/query") for r in app.requests)
            if writes and faults.stop_after is not None and done > faults.stop_after:
                faults.reached.set()
                released.wait(30)
                self.close_connection = True
                return
            if fault == "rate_seconds":
                self.reply(Answer(429, {}), retry_after="0.2")
            elif fault == "rate_date":
                self.reply(Answer(429, {}), retry_after=formatdate(time.time() + 30, usegmt=True))
            elif fault == "rate_bare":
                self.reply(Answer(429, {}))
            elif fault == "bad_gateway":
                self.reply(Answer(502, {}))
            elif fault == "reset":
                self.close_connection = True
            else:
                with lock:
                    answer = app.answer(request)
                if fault == "lost":
                    self.close_connection = True
                elif fault == "truncated" and answer.body:
                    self.reply(answer, len(json.dumps(answer.body)) // 2)
                else:
                    self.reply(answer)

    with listening(Handler) as port:
        app.url = f"http://127.0.0.1:{port}"
        try:
            yield app
        finally:
            released.set()
