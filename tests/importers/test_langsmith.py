"""The LangSmith importer against a local server: all rows, in order, once, whatever the server does."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from importers.fake_langsmith import BEGIN, KEY, PROJECT, FakeLangSmith, agent_rows, serve
from servers.proxy import Proxy, through

from ts_importers import windows
from ts_importers.base import Importer
from ts_importers.http import Client
from ts_importers.langsmith import LangSmithImporter
from ts_langchain.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ProjectNotFound,
    SourceUnavailable,
    UnreadableSource,
)

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


def test_as_many_rows_are_asked_for_as_are_light(fake: FakeLangSmith) -> None:
    """Each cursor leads through pages of one size."""
    known = runs_of(importer(fake, page_size=7))
    fake.requests.clear()
    assert runs_of(importer(fake)) == known
    asked = [body for path, body in fake.requests if path == "/api/v2/runs/query"]
    sizes = [body["page_size"] for body in asked]
    assert (sizes[0], max(sizes)) == (windows.FIRST_PAGE, windows.LARGEST_PAGE)
    following = [body["page_size"] for body in asked if body.get("cursor")]
    assert set(following) <= {windows.FIRST_PAGE}


@pytest.mark.parametrize(
    ("fixed", "rows", "answer_bytes", "then"),
    [
        (None, 100, 100_000, 1_000),
        (None, 100, 400_000, 500),
        (None, 100, 2_000_000, 100),
        (None, 100, 200_000_000, 10),
        (None, 0, 12, 100),
        (None, 5, 0, 1_000),
        (7, 7, 100, 7),
    ],
)
def test_pages_are_as_large_as_two_megabytes_allow(fixed: int | None, rows: int, answer_bytes: int, then: int) -> None:
    size = windows.PageSize(fixed)
    size.seen(rows, answer_bytes)
    assert size.rows == then


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
    assert importer(fake, project=PROJECT).scope == importer(fake).scope == f"{urlsplit(fake.url).netloc}/{PROJECT}"


def test_unknown_project_names_the_others(fake: FakeLangSmith) -> None:
    with pytest.raises(ProjectNotFound, match=r"no project 'nope'.*my-agent"):
        importer(fake, project="nope")
    with pytest.raises(ProjectNotFound, match="no project"):
        importer(fake, project="00000000-0000-4000-8000-000000000000")
    with pytest.raises(ProjectNotFound, match=r"no project ''.*my-agent"):
        importer(fake, project="")


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
    with pytest.raises(ConfigurationError, match="--since"):
        importer(fake, since=datetime(2026, 10, 1, tzinfo=UTC), until=BEGIN)


def test_a_range_ends_now_at_the_latest(fake: FakeLangSmith) -> None:
    source = importer(fake, until=datetime(2099, 1, 1, tzinfo=UTC), since=None)
    assert source.until <= datetime.now(tz=UTC)
    assert source.until - source.since == timedelta(days=30)


@pytest.mark.parametrize("v2", [True, False])
def test_an_empty_page_with_a_cursor_is_not_the_last(
    fake: FakeLangSmith, monkeypatch: pytest.MonkeyPatch, v2: bool
) -> None:
    """Of what a filter has gone through, nothing may have been wanted."""
    fake.v2 = v2
    calm, query = runs_of(importer(fake, page_size=20)), fake.query

    def sparse(path: str, body: dict[str, Any]) -> dict[str, Any]:
        cursor = body.get("cursor") or ""
        if not cursor.startswith("empty-"):
            following = f"empty-{cursor}"
            return {"items": [], "next_cursor": following} if v2 else {"runs": [], "cursors": {"next": following}}
        return query(path, {**body, "cursor": cursor.removeprefix("empty-")})

    monkeypatch.setattr(fake, "query", sparse)
    assert runs_of(importer(fake, page_size=20)) == calm


def test_a_cursor_that_leads_back_to_itself_is_no_endless_walk(
    fake: FakeLangSmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "query", lambda *_: {"items": [], "next_cursor": "again"})
    with pytest.raises(UnreadableSource, match="cursors"):
        runs_of(importer(fake))


def test_a_server_that_always_refuses_its_cursors_is_named(fake: FakeLangSmith) -> None:
    fake.faults = ["cursor"] * 1000
    with pytest.raises(UnreadableSource, match="cursors"):
        runs_of(importer(fake, page_size=1))


OTHER = "11111111-0000-4000-8000-000000000001"
EXPERIMENT = "22222222-0000-4000-8000-000000000002"


def with_projects(fake: FakeLangSmith) -> None:
    """Every second trace belongs to another project, one to an experiment."""
    traces = list(dict.fromkeys(r["trace_id"] for r in ROWS))
    home = {t: OTHER if n % 2 else PROJECT for n, t in enumerate(traces)} | {traces[0]: EXPERIMENT}
    fake.rows = [{**r, "session_id": home[r["trace_id"]]} for r in ROWS]
    fake.projects["my-other"] = OTHER
    fake.experiments["my-test-1"] = EXPERIMENT


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize(
    ("only", "wanted"),
    [
        ({"run_types": ["llm"]}, lambda r: r["run_type"] == "llm"),
        ({"run_types": ["llm", "tool"]}, lambda r: r["run_type"] in ("llm", "tool")),
        ({"filter": 'eq(name, "fetch_page")'}, lambda r: r["name"] == "fetch_page"),
        ({"tags": ['a "quoted" tag']}, lambda r: 'a "quoted" tag' in r["tags"]),
        ({"filter": 'eq(run_type, "llm")', "tags": ["blue"]}, lambda r: "blue" in r["tags"] and r["run_type"] == "llm"),
        ({"root_only": True}, lambda r: not r["parent_run_id"]),
    ],
)
def test_only_some_runs(fake: FakeLangSmith, v2: bool, only: dict[str, Any], wanted: Any) -> None:
    fake.v2 = v2
    fake.rows = [{**r, "tags": ["blue"] if n % 3 else ['a "quoted" tag']} for n, r in enumerate(ROWS)]
    source = importer(fake, **only)
    got = {run.id for run in runs_of(source)}
    assert got == {r["id"] for r in fake.rows if wanted(r) and r["run_type"] != "chain"}
    assert source.scope.startswith(importer(fake).scope + "?")
    assert "only" in source.describe()


def test_a_trace_filter_is_asked_of_the_root(fake: FakeLangSmith) -> None:
    fake.rows = [{**r, "tags": ["prod"] if r["run_type"] == "chain" and n < 40 else []} for n, r in enumerate(ROWS)]
    traces = {r["trace_id"] for r in fake.rows if r["tags"]}
    got = {run.id for run in runs_of(importer(fake, trace_filter='has(tags, "prod")'))}
    assert got == {r["id"] for r in CALLS if r["trace_id"] in traces}


def test_several_projects_are_one_history(fake: FakeLangSmith) -> None:
    with_projects(fake)
    both = importer(fake, project=["my-agent", OTHER])
    assert {r.id for r in runs_of(both)} == {
        r["id"] for r in fake.rows if r["session_id"] != EXPERIMENT and r["run_type"] != "chain"
    }
    assert both.scope == importer(fake, project=[OTHER, "my-agent"]).scope != importer(fake).scope
    assert both.describe()["LangSmith projects"].count("my-") == 2


def test_a_pattern_in_another_workspace_is_another_history(fake: FakeLangSmith) -> None:
    scopes = []
    for fake.workspace in ("w-1", "w-2", "w-1"):
        scopes.append(importer(fake, project="my-*").scope)
    assert scopes[0] == scopes[2] != scopes[1]


def test_a_pattern_stays_the_same_history_when_it_comes_to_match_more(fake: FakeLangSmith) -> None:
    before = importer(fake, project="my-*")
    with_projects(fake)
    after = importer(fake, project="my-*")
    assert list(before.projects) == [PROJECT]
    assert sorted(after.projects) == sorted([OTHER, PROJECT])
    assert before.scope == after.scope
    others = [{"project": "my-*", "experiments": True}, {"project": "my-o*"}, {"project": ["my-agent", "my-other"]}, {}]
    scopes = {importer(fake, **other).scope for other in others}
    assert len(scopes | {after.scope}) == 5


@pytest.mark.parametrize("name", ["what?", "[draft] agent", "a.b+c"])
def test_a_project_may_have_any_name(fake: FakeLangSmith, name: str) -> None:
    fake.projects[name] = OTHER
    assert list(importer(fake, project=name).projects) == [OTHER]
    assert list(importer(fake, project=f"{name[:-1]}*").projects) == [OTHER]


@pytest.mark.parametrize("knows", [True, False])
def test_experiments_are_left_out_of_patterns(fake: FakeLangSmith, knows: bool) -> None:
    with_projects(fake)
    fake.knows_reference_free = knows
    fake.projects |= {f"more-{n}": f"33333333-0000-4000-8000-{n:012}" for n in range(150)}
    assert sorted(importer(fake, project="my-*").projects) == sorted([OTHER, PROJECT])
    assert EXPERIMENT in importer(fake, project="my-*", experiments=True).projects
    assert len(importer(fake, project="*").projects) == 152
    with pytest.raises(ProjectNotFound, match=r"like 'nope-\*'.*my-agent"):
        importer(fake, project="nope-*")
    with pytest.raises(ProjectNotFound, match="like"):
        importer(fake, project="m?-[a-z]*")  # only the star is special
    named = importer(fake, project="my-test-1")
    assert any("experiment" in notice for notice in named.notices)


def test_windows_are_read_at_once_and_come_in_order(fake: FakeLangSmith, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = 0, 0
    lock = threading.Lock()
    query = fake.query

    def slow(path: str, body: dict[str, Any]) -> dict[str, Any]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.02)
        with lock:
            under_way -= 1
        return query(path, body)

    monkeypatch.setattr(fake, "query", slow)
    monkeypatch.setattr(windows, "WINDOW_ROWS", 30)
    monkeypatch.setattr(windows, "FEW_ROWS", 10)
    source = importer(fake, page_size=10)
    runs = runs_of(source)
    assert most == windows.WINDOWS_AT_ONCE
    assert [r.id for r in runs] == [r.id for r in sorted(runs, key=lambda r: (r.started_at, r.id))]
    assert {r.id for r in runs} == {r["id"] for r in CALLS}
    assert source.fraction == 1.0


def test_what_waits_is_given_up_when_the_walk_ends(fake: FakeLangSmith) -> None:
    fake.faults = ["rate_date"] * 8
    waiting = threading.Event()
    client = Client(fake.url, {"x-api-key": KEY}, service="x", key_hint="", on_wait=lambda _: waiting.set())
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(client.post, "/api/v2/runs/query", {}) for _ in range(2)]
        assert waiting.wait(5)
        client.give_up()
        for answer in answers:
            with pytest.raises(SourceUnavailable, match=r"no longer asked|HTTP 429"):
                answer.result(timeout=5)
    assert len(fake.requests) <= 2


@pytest.mark.parametrize(("v2", "pace"), [(True, 10 / 300), (False, 10 / 15)])
def test_the_cloud_is_asked_no_faster_than_it_allows(
    fake: FakeLangSmith, monkeypatch: pytest.MonkeyPatch, v2: bool, pace: float
) -> None:
    """Its limits are 300 requests in ten seconds, and 15 where runs are asked for at the older endpoint."""
    fake.v2 = v2
    with through(Proxy(fake.url)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        naps: list[float] = []
        cloud = importer(fake, naps, endpoint="http://api.smith.langchain.com", page_size=5)
        asked = len(proxy.seen)
        started, begin = len(naps), time.monotonic()
        next(cloud.pages())
        took, asked = time.monotonic() - begin, len(proxy.seen) - asked
    # it does not sleep here: each request waits as long as all before it should have taken
    assert max(naps[started:]) > (asked - 2) * pace - took
    # those of the other threads have napped, and may not have come to the proxy yet
    assert max(naps[started:]) <= (asked + windows.WINDOWS_AT_ONCE) * pace
