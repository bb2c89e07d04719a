"""An object store as DuckDB asks it: S3's lists, heads and ranges over a folder, with faults to switch on."""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from servers.serving import Quiet, listening

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

LISTED_AT_A_TIME = 2


class S3:
    """A bucket.

    Attributes:
        folder: What is in it.
        key_id: Whose requests are answered; everybody's if empty.
        spoil: How many of a hundred requests fail, each in one of three ways: 503, hung up, broken off.
        faults: Taken one per request, before others fail by chance; None lets it pass.
        seen: What was asked for, method and path.
    """

    def __init__(self, folder: Path, *, key_id: str = "AKIATEST", spoil: int = 0) -> None:
        self.folder, self.key_id, self.spoil = folder, key_id, spoil
        self.faults: list[str | None] = []
        self.seen: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.chance = random.Random(1)
        self.port = 0

    def fault(self) -> str | None:
        with self.lock:
            if self.faults:
                return self.faults.pop(0)
            if self.chance.randrange(100) < self.spoil:
                return self.chance.choice(("busy", "hung_up", "broken_off"))
            return None

    def names(self, prefix: str) -> list[str]:
        found = (str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file())
        return sorted(name for name in found if name.startswith(prefix))


@contextmanager
def object_store(bucket: S3, tls: ssl.SSLContext | None = None) -> Iterator[S3]:
    """Answers for the bucket `bucket` on a free port, in S3's path style."""

    class Handler(Quiet):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            url = urlsplit(self.path)
            with bucket.lock:
                bucket.seen.append((self.command, unquote(url.path)))
            fault = bucket.fault()
            who = self.headers.get("authorization", "")
            _, _, rest = unquote(url.path).partition("/")
            name, _, key = rest.partition("/")
            if fault == "hung_up":
                self.close_connection = True
            elif fault == "busy":
                self.refuse(503, "SlowDown")
            elif bucket.key_id and f"Credential={bucket.key_id}/" not in who:
                self.refuse(403, "InvalidAccessKeyId")
            elif name != "bucket":
                self.refuse(404, "NoSuchBucket")
            elif not key:
                query = {k: v[0] for k, v in parse_qs(url.query).items()}
                self.send(200, self.listed(query).encode(), content_type="application/xml")
            elif not (bucket.folder / key).is_file():
                self.refuse(404, "NoSuchKey")
            else:
                self.part((bucket.folder / key).read_bytes(), broken_off=fault == "broken_off")

        def refuse(self, status: int, code: str) -> None:
            self.close_connection = True
            self.send(status, b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode())

        def listed(self, query: dict[str, str]) -> str:
            """Names in alphabetic order, few at a time: the token is the last of them."""
            names = bucket.names(query.get("prefix", ""))
            rest = [n for n in names if n > bytes.fromhex(query.get("continuation-token", "")).decode()]
            page, more = rest[:LISTED_AT_A_TIME], len(rest) > LISTED_AT_A_TIME
            spelled = quote if query.get("encoding-type") == "url" else escape
            contents = "".join(
                f"<Contents><Key>{spelled(n)}</Key><LastModified>2026-09-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;e&quot;</ETag><Size>{(bucket.folder / n).stat().st_size}</Size></Contents>"
                for n in page
            )
            token = f"<NextContinuationToken>{page[-1].encode().hex()}</NextContinuationToken>" if more else ""
            return (
                f'<?xml version="1.0"?><ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>'
                f"{token}{contents}</ListBucketResult>"
            )

        def part(self, data: bytes, *, broken_off: bool) -> None:
            asked = self.headers.get("range", "").removeprefix("bytes=")
            first, _, last = asked.partition("-")
            begin, end = int(first or 0), int(last or len(data) - 1) + 1
            headers = {"etag": '"e"', "last_modified": "Tue, 01 Sep 2026 00:00:00 GMT", "accept_ranges": "bytes"}
            if asked:
                headers["content_range"] = f"bytes {begin}-{min(end, len(data)) - 1}/{len(data)}"
            found = data[begin:end]
            if self.command == "HEAD":
                self.send(200, b"", len(found), **headers)
            elif broken_off:
                self.close_connection = True
                self.send(206 if asked else 200, found[: len(found) // 2], len(found), **headers)
            else:
                self.send(206 if asked else 200, found, **headers)

    with listening(Handler, tls) as port:
        bucket.port = port
        yield bucket
