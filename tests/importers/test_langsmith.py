"""The LangSmith importer against a local server: all rows, in order, once, whatever the server does."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from importers.fake_langsmith import BEGIN, KEY, PROJECT, FakeLangSmith, agent_rows, serve

from ts_importers import windows
from ts_importers.base import Importer
from ts_importers.langsmith import LangSmithImporter
from ts_langchain.errors import AuthenticationFailed, ProjectNotFound, SourceUnavailable, UnreadableSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ts_langchain.replay import Run

ROWS = agent_rows(60)
CALLS = [r for r in ROWS if r["run_type"] != "chain"]


@pytest.fixture
def fake() -> Iterator[FakeLangSmith]:
    with serve(FakeLangSmith(list(ROWS))) as server:
        yield server


def importer(fake: FakeLangSmith, waits: list[float] | None = None, **kwargs: Any) -> LangSmithImporter:
    naps: list[float] = waits if waits is not None else []
    given: dict[str, Any] = {
        "project": "my-agent",
        "api_key": KEY,
        "since": BEGIN,
        "until": BEGIN + timedelta(days=30),
        "endpoint": fake.url,
        "sleep": naps.append,
    }
    return LangSmithImporter(**(given | kwargs))


def runs_of(source: LangSmithImporter) -> list[Run]:
    return [run for page in source.pages() for run in page.runs]


def test_is_an_importer(fake: FakeLangSmith) -> None:
    assert isinstance(importer(fake), Importer)


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("page_size", [7, 100])
def test_every_call_once_oldest_first(fake: FakeLangSmith, v2: bool, page_size: int) -> None:
    fake.v2 = v2
    source = importer(fake, page_size=page_size)
    pages = list(source.pages())
    runs = [run for page in pages for run in page.runs]

    assert [r.id for r in sorted(runs, key=lambda r: (r.started_at, r.id))] == [r.id for r in runs]
    assert {r.id for r in runs} == {r["id"] for r in CALLS}
    assert len(runs) == len(CALLS)
    assert sum(p.ignored for p in pages) == len(ROWS) - len(CALLS)
    assert any("v1" in n for n in source.notices) is not v2


def test_min_start_time_is_always_sent(fake: FakeLangSmith) -> None:
    runs_of(importer(fake))
    queries = [body for path, body in fake.requests if path == "/api/v2/runs/query"]
    assert queries
    assert all(body["min_start_time"] and body["project_ids"] == [PROJECT] for body in queries)


def test_conversation_is_the_thread_not_the_project(fake: FakeLangSmith) -> None:
    run = runs_of(importer(fake))[0]
    assert run.thread_id is not None
    assert run.thread_id.startswith("thread-")


def test_cached_tokens_of_both_endpoints_are_read(fake: FakeLangSmith) -> None:
    for v2 in (True, False):
        fake.v2 = v2
        model = next(r for r in runs_of(importer(fake)) if r.run_type == "llm")
        assert model.usage is not None
        assert model.usage["input_token_details"] == {"cache_read": model.usage["input_tokens"] // 4}  # type: ignore[operator]


FAULTS = ["rate_seconds", "rate_date", "rate_bare", "bad_gateway", "truncated", "reset", "cursor"]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_change_nothing(fake: FakeLangSmith, fault: str) -> None:
    calm = runs_of(importer(fake, page_size=20))
    fake.faults = ([fault] + ["fine"] * 2) * 6
    waits: list[float] = []
    told: list[Any] = []
    stormy = runs_of(importer(fake, waits, page_size=20, on_wait=told.append))
    assert stormy == calm
    if fault != "cursor":
        assert len(waits) == len(told) > 0
    if fault == "rate_seconds":
        assert set(waits) == {7.0}
    if fault == "rate_date":
        assert all(20 < w <= 31 for w in waits)


def test_rows_sent_twice_come_out_once(fake: FakeLangSmith) -> None:
    fake.doubled = True
    runs = runs_of(importer(fake))
    assert len(runs) == len({r.id for r in runs}) == len(CALLS)


def test_goes_on_from_any_page(fake: FakeLangSmith) -> None:
    source = importer(fake)
    pages = list(source.pages())
    for number, page in enumerate(pages):
        rest = [r.id for p in importer(fake).pages(page.position) for r in p.runs]
        assert rest == [r.id for p in pages[number:] for r in p.runs]


def test_windows_are_split_so_that_memory_stays_bounded(fake: FakeLangSmith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_ROWS", 30)
    monkeypatch.setattr(windows, "FEW_ROWS", 10)
    pages = list(importer(fake, page_size=10).pages())
    assert max(len(p.runs) + p.ignored for p in pages) <= 30
    assert sum(len(p.runs) for p in pages) == len(CALLS)


def test_project_by_id(fake: FakeLangSmith) -> None:
    assert importer(fake, project=PROJECT).scope == importer(fake).scope == f"127.0.0.1/{PROJECT}"


def test_unknown_project_names_the_others(fake: FakeLangSmith) -> None:
    with pytest.raises(ProjectNotFound, match=r"no project 'nope'.*my-agent"):
        importer(fake, project="nope")
    with pytest.raises(ProjectNotFound, match="no project"):
        importer(fake, project="00000000-0000-4000-8000-000000000000")


def test_wrong_key_is_not_tried_again_and_not_told(fake: FakeLangSmith, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "lsv2_wrong_0123456789"
    with pytest.raises(AuthenticationFailed, match="LANGSMITH_API_KEY") as caught:
        importer(fake, api_key=secret)
    assert len(fake.requests) == 1
    chain, shown = caught.value, ""
    while chain is not None:
        shown += repr(chain) + str(chain)
        chain = chain.__cause__ or chain.__context__  # type: ignore[assignment]
    assert secret not in shown + caplog.text
    assert KEY not in repr(importer(fake)._client)


def test_server_down() -> None:
    with serve(FakeLangSmith([])) as server:
        pass
    waits: list[float] = []
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1.*no connection.*8 attempts"):
        importer(server, waits)
    assert len(waits) == 7


def test_empty_project(fake: FakeLangSmith) -> None:
    fake.rows = []
    assert runs_of(importer(fake)) == []


def test_backward_range_is_refused(fake: FakeLangSmith) -> None:
    with pytest.raises(UnreadableSource, match="--since"):
        importer(fake, since=datetime(2026, 10, 1, tzinfo=UTC), until=BEGIN)


def test_a_server_that_always_refuses_its_cursors_is_named(fake: FakeLangSmith) -> None:
    fake.faults = ["cursor"] * 1000
    with pytest.raises(UnreadableSource, match="cursors"):
        runs_of(importer(fake, page_size=1))
