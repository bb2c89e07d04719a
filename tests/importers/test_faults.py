"""Whatever the network and the service do, an import gives what it gives on a good day, row for row."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from importers.fake_langsmith import BEGIN, KEY, FakeLangSmith, agent_rows
from importers.fake_langsmith import serve as serve_langsmith
from importers.test_helicone import FakeHelicone
from importers.test_langfuse import FakeLangfuse
from servers.cloud import KEY as CLOUD_KEY
from servers.cloud import CloudServer
from servers.langsmith import LangSmithServer
from servers.proxy import Proxy, among_rubbish, in_no_order, through, twice, with_half_a_letter
from servers.serving import OPENSSL, own_certificate, serving
from typer.testing import CliRunner

from importers import test_helicone, test_langfuse, test_langsmith
from ts_importers import windows
from ts_importers.http import Client, TooLarge
from ts_langchain.cli.app import app
from ts_langchain.errors import ConfigurationError, SourceUnavailable, UnreadableSource
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FAULTS = [
    "rate_seconds", "rate_date", "rate_bare", "error_500", "error_502", "error_503", "hung_up", "reset", "cut", "page",
    "slow", "packed", "misnamed", "error_408",
]  # fmt: skip
SOON = BEGIN + timedelta(hours=14)
SERVICES = ["langsmith", "langsmith v1", "langfuse", "langfuse, older", "helicone"]


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Callable[..., Any]]]:
    """A local server, and what makes an importer for it."""
    name: str = request.param
    if name.startswith("langsmith"):
        with serve_langsmith(FakeLangSmith(agent_rows(15), v2=name == "langsmith")) as fake:
            yield fake, test_langsmith.importer
    elif name.startswith("langfuse"):
        with test_langfuse.serve(FakeLangfuse(v2=name == "langfuse")) as fake_langfuse:
            yield fake_langfuse, partial(test_langfuse.importer, until=SOON)
    else:
        with test_helicone.serve(FakeHelicone()) as fake_helicone:
            yield fake_helicone, partial(test_helicone.importer, until=SOON)


class Address:
    """What an importer of the tests wants to know of a server."""

    def __init__(self, url: str) -> None:
        self.url = url


def imported(source: Any, folder: Path, name: str) -> Any:
    """Rows and incidents of an import through the ledger."""
    ledger = Ledger(folder / f"{name}.sqlite")
    history = Import(source, ledger).run()
    rows = [(c.id, c.kind, c.started_at, c.usage, c.answer, c.request) for c in ledger.calls(history)]
    return rows, [asdict(i) for i in ledger.incidents(history)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_nothing(service: Any, fault: str, tmp_path: Path) -> None:
    server, importer = service
    calm = imported(importer(server, page_size=15), tmp_path, "calm")
    assert calm[0]
    assert calm[1]
    with through(Proxy(server.url)) as proxy:
        source = importer(Address(proxy.url), page_size=15)
        # all of them may meet the same request, which is tried eight times
        proxy.faults = [None, fault] * (4 if fault == "slow" else 7)
        assert imported(source, tmp_path, "stormy") == calm
        assert len(proxy.faults) <= 8  # there has been a storm


def test_all_of_them_at_random(service: Any, tmp_path: Path) -> None:
    server, importer = service
    calm = imported(importer(server, page_size=10), tmp_path, "calm")
    for seed in range(2):
        chance = random.Random(seed)
        with through(Proxy(server.url)) as proxy:
            source = importer(Address(proxy.url), page_size=10)
            quick = [f for f in FAULTS if f != "slow"]
            proxy.faults = [chance.choice(quick) if chance.random() < 0.2 else None for _ in range(400)]
            assert imported(source, tmp_path, f"stormy{seed}") == calm


@pytest.mark.parametrize("spoil", [twice, in_no_order, with_half_a_letter])
def test_rows_twice_in_no_order_and_with_half_a_letter(service: Any, spoil: Any, tmp_path: Path) -> None:
    server, importer = service
    calm = imported(importer(server, page_size=15), tmp_path, "calm")
    with through(Proxy(server.url)) as proxy:
        source = importer(Address(proxy.url), page_size=15)
        proxy.rows = spoil
        assert imported(source, tmp_path, "spoiled") == calm


def test_an_answer_that_is_too_large_is_asked_for_in_smaller_ones(tmp_path: Path) -> None:
    with serve_langsmith(FakeLangSmith(agent_rows(15))) as fake:
        calm = imported(test_langsmith.importer(fake), tmp_path, "calm")
        source = test_langsmith.importer(fake)
        for client in source._clients():
            client.most_bytes = 30_000
        assert imported(source, tmp_path, "small") == calm
        for client in source._clients():
            client.most_bytes = 200
        with pytest.raises(TooLarge, match="more than 200 bytes"):
            list(source.pages())


@pytest.mark.parametrize("answer", [b'{"message": "ok"}', b'{"data": "none", "items": 7, "runs": {}}', b"[]", b"7"])
def test_an_answer_without_rows_is_not_taken_for_an_empty_one(service: Any, answer: bytes) -> None:
    server, importer = service
    with through(Proxy(server.url)) as proxy:
        source = importer(Address(proxy.url))
        proxy.spoiled = lambda _: answer  # type: ignore[method-assign]
        with pytest.raises(UnreadableSource, match="without a list of rows"):
            list(source.pages())


def test_what_is_no_row_is_counted_and_named(service: Any, tmp_path: Path) -> None:
    server, importer = service
    calm = imported(importer(server, page_size=15), tmp_path, "calm")
    with through(Proxy(server.url)) as proxy:
        source = importer(Address(proxy.url), page_size=15)
        proxy.rows = among_rubbish
        assert imported(source, tmp_path, "rubbish") == calm
    [history] = Ledger(tmp_path / "rubbish.sqlite").histories()
    assert history.skipped > 0


def test_rows_that_arrive_while_paging_are_read_if_they_lie_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "WINDOW_ROWS", 60)
    monkeypatch.setattr(windows, "FEW_ROWS", 20)
    rows = sorted(agent_rows(40), key=lambda r: r["start_time"])
    half = len(rows) // 2
    with serve_langsmith(FakeLangSmith(rows[:half] + rows[-1:])) as fake:
        source = test_langsmith.importer(fake, page_size=20)
        source.at_once = 1
        pages = source.pages()
        seen = [run.id for run in next(pages).runs]
        fake.rows = list(rows)
        seen += [run.id for page in pages for run in page.runs]
    assert len(seen) == len(set(seen))
    ahead = [r["id"] for r in rows[half:] if r["run_type"] != "chain"]
    assert set(ahead) <= set(seen)


def test_names_with_half_a_letter_can_be_reported_and_written_back(tmp_path: Path) -> None:
    def cut(value: Any) -> Any:
        return json.loads(
            json.dumps(value).replace("fetch_page", "fetch_\\ud83d").replace("thread-", "\\udc00\\u0000-")
        )

    with serving(LangSmithServer([cut(row) for row in agent_rows(9)])) as server, serving(CloudServer()) as cloud:
        env = {
            "TS_LANGCHAIN_LEDGER": str(tmp_path / "l.sqlite"),
            "LANGSMITH_API_KEY": KEY,
            "LANGSMITH_ENDPOINT": server.url,
            "TOKEN_SENTINEL_API_KEY": CLOUD_KEY,
            "TOKEN_SENTINEL_ENDPOINT": cloud.url,
        }
        span = ["--since", "2026-08-31", "--until", "2026-09-30"]
        for command in (
            ["import", "langsmith", "--project", "my-agent", *span, "--json"],
            ["report", "--json"],
            ["annotate"],
            ["backfill", "--project", "shop"],
        ):
            done = CliRunner().invoke(app, command, env=env)
            assert done.exit_code == 0, done.output
        assert len(cloud.events) == 3
        assert len(server.feedback) == 9


def test_offsets_that_shift_under_the_reader_lose_no_row() -> None:
    with test_helicone.serve(FakeHelicone()) as fake:
        there = [row["request_id"] for row in fake.held]
        fake.late = True  # with each page asked for, one more row turns up at the front
        ids = [r.id for p in test_helicone.importer(fake, page_size=10).pages() for r in p.runs]
    assert len(fake.held) > len(there) + 3
    assert sorted(i for i in ids if not i.startswith("late-")) == sorted(there)
    assert len(ids) == len(set(ids))


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_langsmith(FakeLangSmith(agent_rows(3))) as fake, through(Proxy(fake.url)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        source = test_langsmith.importer(Address("http://langsmith.example"))
        assert source.projects
    assert {address for _, address in proxy.seen} == {"http://langsmith.example/api/v1/sessions?name=my-agent&limit=1"}


@pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine to make a certificate with")
def test_a_certificate_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, certificate = own_certificate(tmp_path)
    monkeypatch.setenv("NO_PROXY", "localhost")
    naps: list[float] = []
    with serve_langsmith(FakeLangSmith(agent_rows(3))) as fake, through(Proxy(fake.url), tls) as proxy:
        with pytest.raises(SourceUnavailable, match=r"certificate.*SSL_CERT_FILE"):
            test_langsmith.importer(Address(proxy.url), naps)
        assert naps == []  # it would not become better
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert test_langsmith.importer(Address(proxy.url)).projects


@pytest.mark.parametrize(
    ("name", "value"),
    [("SSL_CERT_FILE", "/no/such/file.pem"), ("HTTPS_PROXY", "ftp://user:hunter2@proxy")],
)
def test_a_useless_environment_is_told(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=r"HTTPS_PROXY.*SSL_CERT_FILE") as told:
        Client("https://service.example", {"x-api-key": KEY}, service="X", key_hint="")
    assert "hunter2" not in str(told.value)
