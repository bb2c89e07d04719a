"""The client: what it tries again, what it refuses at once, and that it keeps secrets."""

from __future__ import annotations

import gzip
import json
import logging
import time
import tracemalloc
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from servers.serving import Quiet, listening

from ts_importers.http import Client, HTTPFailure, TooLarge
from ts_importers.retrying import retry_after
from ts_langchain.errors import AuthenticationFailed, ConfigurationError, SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "sk-very-secret-0123456789"


@contextmanager
def answering(*answers: tuple[int, str, dict[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers in turn, the last one for good."""
    left, asked = list(answers), []

    class Handler(Quiet):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, body, headers = left.pop(0) if len(left) > 1 else left[0]
            self.send(status, body.encode(), **headers)

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}", asked


def client(url: str, naps: list[float] | None = None, key: str = SECRET, **kwargs: Any) -> Client:
    waits: list[float] = naps if naps is not None else []
    return Client(
        url,
        {"x-api-key": key},
        service="Service",
        key_hint="Set KEY.",
        address_hint="Set URL.",
        sleep=waits.append,
        **kwargs,
    )


OK = (200, '{"fine": true}', {"content-type": "application/json"})


@pytest.mark.parametrize(
    ("bad", "naps"),
    [
        ((429, "", {"retry-after": "3"}), [3.0]),
        ((429, "", {"retry-after": "1e400"}), [300.0]),
        ((503, "", {}), None),
        ((408, "", {}), None),
        ((425, "", {}), None),
        ((200, '{"fine": true}', {"content-encoding": "gzip"}), None),
        ((500, "<html>", {"content-type": "text/html"}), None),
        ((200, '{"half', {"content-type": "application/json"}), None),
    ],
)
def test_what_is_tried_again(bad: Any, naps: list[float] | None) -> None:
    with answering(bad, OK) as (url, asked):
        waited: list[float] = []
        assert client(url, waited).get("/x") == {"fine": True}
        assert len(asked) == 2
        assert len(waited) == 1
        assert naps is None or waited == naps


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((400, '{"detail": "no such field"}', {}), "HTTP 400 .no such field."),
        ((404, "", {}), "HTTP 404"),
        ((501, "", {}), "HTTP 501"),
        ((302, "", {"location": "https://elsewhere.example"}), "redirect.*Set URL"),
        ((200, "<html>log in</html>", {"content-type": "text/html; charset=utf-8"}), "web page.*Set URL"),
    ],
)
def test_what_is_refused_at_once(bad: Any, message: str) -> None:
    with answering(bad) as (url, asked):
        with pytest.raises(HTTPFailure, match=message):
            client(url).get("/x")
        assert len(asked) == 1


def test_who_says_to_wait_no_time_at_all_is_not_asked_eight_times_at_once() -> None:
    """Services round seconds down."""
    naps: list[float] = []
    with answering((429, "", {"retry-after": "0"})) as (url, _), pytest.raises(SourceUnavailable, match="HTTP 429"):
        client(url, naps).get("/x")
    assert len(naps) == 7
    assert all(naps)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_tried_again(status: int) -> None:
    with answering((status, "{}", {})) as (url, asked):
        with pytest.raises(AuthenticationFailed, match="Set KEY"):
            client(url).get("/x")
        assert len(asked) == 1


def test_it_gives_up_and_says_so() -> None:
    with answering((502, "", {})) as (url, asked), pytest.raises(SourceUnavailable, match="HTTP 502, after 4 attempts"):
        client(url, attempts=4).get("/x")
    assert len(asked) == 4


@pytest.mark.parametrize(
    "url", ["api.example.com", "ftp://example.com", "https://", "", "https://user:pw@example.com", "http://[::"]
)
def test_an_address_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"https://host.*Set URL") as refused:
        client(url)
    assert "pw" not in str(refused.value)


@pytest.mark.parametrize("key", ["geheimnis-ä-0123456789", "two\nlines-0123456789", "nul\0-0123456789"])
def test_a_key_that_is_none_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ConfigurationError, match="Set KEY") as refused:
        client("https://example.com", key=key)
    assert "0123456789" not in _told(refused.value)


def test_white_space_around_a_key_is_forgiven() -> None:
    with answering(OK) as (url, _):
        assert client(url, key=f" {SECRET}\n").get("/x") == {"fine": True}


def test_a_server_that_quotes_the_key_does_not_make_us_tell_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = json.dumps({"detail": f"key {SECRET} may not do that"})
    for status in (400, 401, 404, 500):
        with answering((status, body, {})) as (url, _), pytest.raises(Exception) as refused:
            client(url, attempts=2).get("/x")
        assert SECRET not in _told(refused.value)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("before", range(170, 200, 5))
def test_no_part_of_a_key_is_told_where_a_long_message_is_cut(before: int) -> None:
    body = json.dumps({"detail": "x" * before + SECRET})
    with answering((400, body, {})) as (url, _), pytest.raises(HTTPFailure, match=r"HTTP 400 \(x+") as refused:
        client(url).get("/x")
    assert SECRET[:4] not in _told(refused.value)


def _told(error: BaseException | None) -> str:
    """All that a traceback could show of the messages."""
    told = ""
    while error is not None:
        told += f"{error!r} {error} {vars(error)}"
        error = error.__cause__ or error.__context__
    return told


@contextmanager
def sending(*, packed: str = "", pieces: Any = ()) -> Iterator[str]:
    """A server whose answer is these pieces, which may have no end."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            if packed:
                self.send_header("content-encoding", packed)
            self.end_headers()
            with suppress(OSError):
                for piece in pieces():
                    self.wfile.write(piece)
                    self.wfile.flush()

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def blown_up(bits: int, megabytes: int = 64) -> bytes:
    pack = zlib.compressobj(9, zlib.DEFLATED, bits)
    return b"".join(pack.compress(b" " * 1024 * 1024) for _ in range(megabytes)) + pack.flush()


def endless(first: bytes = b"") -> Iterator[bytes]:
    yield first
    while True:
        yield b" " * 65_536


MB = 1024 * 1024


@pytest.mark.parametrize(
    ("packed", "pieces"),
    [
        ("gzip", lambda: [blown_up(31)]),
        ("deflate", lambda: [blown_up(15)]),
        ("deflate", lambda: [blown_up(-15)]),
        ("", endless),
        ("gzip", lambda: endless(gzip.compress(b"{}"))),
    ],
    ids=["gzip", "deflate", "deflate without a header", "endless", "endless behind the end"],
)
def test_an_answer_that_fills_the_memory_is_not_read(packed: str, pieces: Any) -> None:
    blown_up(31)  # so that what zlib needs is not counted
    with sending(packed=packed, pieces=pieces) as url:
        asking = client(url, most_bytes=8 * MB)
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge, match=r"more than 8,388,608 bytes.*Set URL"):
                asking.get("/x")
            assert tracemalloc.get_traced_memory()[1] < 24 * MB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("packed", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data, wbits=-15)),
        ("identity", bytes),
        ("gzip, identity", gzip.compress),
    ],
)
def test_packed_answers_are_read(packed: str, pack: Any) -> None:
    whole = {"fine": "x" * 3 * MB}
    with sending(packed=packed, pieces=lambda: [pack(json.dumps(whole).encode())]) as url:
        assert client(url).get("/x") == whole


def test_an_answer_that_drips_is_not_waited_for_for_ever() -> None:
    def dripping() -> Iterator[bytes]:
        for _ in range(200):
            yield b" "
            time.sleep(0.05)

    begin = time.monotonic()
    with sending(pieces=dripping) as url, pytest.raises(SourceUnavailable, match="no answer in time, after 2"):
        client(url, timeout=0.1, attempts=2).get("/x")
    assert time.monotonic() - begin < 8


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("5", 5.0), ("-5", 0.0), ("nan", 0.0), ("soon", None), ("Mon, 01 Jan 99999 00:00:00 GMT", None)],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds
