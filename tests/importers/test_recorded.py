"""Recorded answers, read back without a server: what each service's answers look like, pinned down.

No account of any service was at hand. The cassettes hold what the local servers of these tests answered to the
importers; those servers follow the vendors' documentation and SDKs. LangSmith's own SDK is driven against the same
server below: it asks as the importer asks, and reads the same rows. `TS_LANGCHAIN_RECORD=1` records them anew.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import vcr
from importers.fake_langsmith import BEGIN, KEY, FakeLangSmith, agent_rows
from importers.fake_langsmith import serve as serve_langsmith
from importers.test_helicone import FakeHelicone
from importers.test_langfuse import AUTH, SECRET, FakeLangfuse, importer
from importers.test_langsmith import importer as langsmith_importer
from langsmith import Client

from importers import test_helicone, test_langfuse
from ts_langchain import Sentinel
from ts_langchain.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(__file__).parent.parent / "cassettes"
RECORDING = bool(os.environ.get("TS_LANGCHAIN_RECORD"))
ROWS = agent_rows(7)
HOSTS = {"langsmith": "api.smith.langchain.com", "langfuse": "cloud.langfuse.com", "helicone": "api.helicone.ai"}
SECRETS = (KEY, SECRET, AUTH.removeprefix("Basic "), test_helicone.KEY, test_helicone.SIGNATURE)


class Address:
    def __init__(self, url: str) -> None:
        self.url = url


def importer_of(name: str, url: str) -> Any:
    at = Address(url)
    if name.startswith("langsmith"):
        return langsmith_importer(at, page_size=20)
    return importer(at, page_size=50) if name.startswith("langfuse") else test_helicone.importer(at, page_size=50)


@contextmanager
def server_of(name: str) -> Iterator[Any]:
    if name.startswith("langsmith"):
        with serve_langsmith(FakeLangSmith(ROWS, v2=name.endswith("v2"))) as langsmith:
            yield langsmith
    elif name.startswith("langfuse"):
        with test_langfuse.serve(FakeLangfuse(v2=name.endswith("v2"))) as langfuse:
            yield langfuse
    else:
        with test_helicone.serve(FakeHelicone()) as helicone:
            yield helicone


def under_its_own_name(name: str) -> Callable[[Any], Any]:
    """Requests are stored with the service's address, and without what must stay secret."""

    def change(request: Any) -> Any:
        parts = urlsplit(request.uri)
        query = "" if "signature" in parts.query.lower() else parts.query
        request.uri = urlunsplit(("https", HOSTS[name.partition("_")[0]], parts.path, query, ""))
        return request

    return change


def without_places(name: str, port: int | None) -> Callable[[Any], Any]:
    def change(response: Any) -> Any:
        body = response["body"]["string"]
        if port is not None:
            body = body.replace(
                f"http://127.0.0.1:{port}".encode(), f"https://{HOSTS[name.partition('_')[0]]}".encode()
            )
        response["body"]["string"] = body.replace(test_helicone.SIGNATURE.encode(), b"[signature]")
        response["headers"] = {}
        return response

    return change


def cassette(name: str, port: int | None = None) -> Any:
    recorder = vcr.VCR(
        record_mode="all" if RECORDING else "none",
        match_on=["method", "path", "query", "body"],
        filter_headers=[
            "x-api-key", "authorization", "host", "user-agent", "accept-encoding", "connection", "accept",
            "content-length",
        ],
        before_record_request=under_its_own_name(name),
        before_record_response=without_places(name, port),
    )  # fmt: skip
    return recorder.use_cassette(str(FOLDER / f"{name}.yaml"))


def found(source: Any) -> tuple[int, list[tuple[str, str, int, int]]]:
    """Rows, and incidents."""
    sentinel = Sentinel()
    replay, rows = Replay(sentinel), 0
    for page in source.pages():
        for run in page.runs:
            replay.feed(run)
            rows += 1
    replay.finish()
    assert sentinel.health().faults == {}
    return rows, [(i.id, i.rule, i.calls, i.wasted_nano) for i in sentinel.incidents()]


NAMES = ["langsmith_v2", "langsmith_v1", "langfuse_v2", "langfuse_v1", "helicone"]


@pytest.mark.parametrize("name", NAMES)
def test_recorded_answers_are_read_as_the_servers_are(name: str) -> None:
    with server_of(name) as server:
        live = found(importer_of(name, server.url))
        if RECORDING:
            (FOLDER / f"{name}.yaml").unlink(missing_ok=True)
            with cassette(name, urlsplit(server.url).port):
                found(importer_of(name, server.url))
    if not RECORDING:
        with cassette(name) as tape:
            assert found(importer_of(name, f"https://{HOSTS[name.partition('_')[0]]}")) == live
            assert tape.all_played
    assert live[0] > 30
    assert live[1]


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_lies_in_a_cassette(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    assert HOSTS[name.partition("_")[0]] in text
    for secret in (*SECRETS, "127.0.0.1", "x-api-key", "authorization"):
        assert secret.lower() not in text.lower()


def test_langsmiths_own_sdk_asks_as_the_importer_does() -> None:
    """The same questions to the same server: address and body, page by page, and the same rows."""
    wanted = {"filter": 'eq(run_type, "llm")', "trace_filter": 'eq(name, "agent")'}
    with serve_langsmith(FakeLangSmith(list(ROWS))) as fake:
        runs = [r.id for p in langsmith_importer(fake, page_size=2, **wanted).pages() for r in p.runs]
        ours = [body for path, body in fake.requests if path == "/api/v2/runs/query"]
        fake.requests.clear()
        first = ours[0]

        async def ask() -> list[str]:
            client = Client(api_url=fake.url, api_key=KEY)
            answers = client.runs.query(
                project_ids=first["project_ids"],
                min_start_time=BEGIN,
                max_start_time=BEGIN + timedelta(days=30),
                page_size=2,
                selects=first["selects"],
                **wanted,
            )
            return [str(run.id) async for run in answers]

        theirs = asyncio.run(ask())
        asked = [body for path, body in fake.requests if path == "/api/v2/runs/query"]
    assert sorted(theirs) == sorted(runs)
    fixed = {k: v for k, v in first.items() if "start_time" not in k}
    assert {k: v for k, v in asked[0].items() if "start_time" not in k} == fixed
    assert set(asked[0]) == set(first)
    assert {k for body in asked for k in body} == {k for body in ours for k in body}  # with a cursor behind it
    assert all(datetime.fromisoformat(body[k]).tzinfo for body in (asked[0], first) for k in first if "start_time" in k)
