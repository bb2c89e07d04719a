"""Annotations against local servers: once each, whatever happens, and gone without a trace when removed."""

from __future__ import annotations

import logging
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from importers.fake_langsmith import BEGIN, KEY, PROJECT, agent_rows
from importers.test_langfuse import PUBLIC, ROWS, SECRET
from importers.test_langfuse import importer as langfuse_importer
from langsmith import Client as LangSmithSDK
from servers.langfuse import LangfuseServer
from servers.langsmith import LangSmithServer
from servers.serving import serving

from ts_importers.langfuse_scores import LangfuseScores
from ts_importers.langsmith import LangSmithImporter
from ts_importers.langsmith_feedback import LangSmithFeedback
from ts_langchain.deliver.annotate import Annotate, Outcome
from ts_langchain.deliver.annotations import plan
from ts_langchain.deliver.record import Record
from ts_langchain.errors import (
    AuthenticationFailed,
    ConfigurationError,
    LedgerError,
    ProjectNotFound,
    SourceUnavailable,
)
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.pricing import Rates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ts_langchain.ledger import History

RUNS = agent_rows(40)
LOOPS = 14


@pytest.fixture
def langsmith() -> Iterator[LangSmithServer]:
    with serving(LangSmithServer(list(RUNS))) as server:
        yield server


@pytest.fixture
def langfuse() -> Iterator[LangfuseServer]:
    with serving(LangfuseServer()) as server:
        yield server


def imported(server: Any, path: Path, **kwargs: Any) -> tuple[Ledger, History]:
    """The server's history in a ledger."""
    ledger = Ledger(path / "ledger.sqlite")
    source: Any
    if isinstance(server, LangSmithServer):
        until = BEGIN + timedelta(days=30)
        source = LangSmithImporter(project="my-agent", api_key=KEY, since=BEGIN, until=until, endpoint=server.url)
    else:
        source = langfuse_importer(server)
    return ledger, Import(source, ledger, **kwargs).run()


def host(server: Any) -> str:
    return str(urlsplit(server.url).netloc)


def place(server: Any, naps: list[float] | None = None, **kwargs: Any) -> LangSmithFeedback | LangfuseScores:
    waits: list[float] = naps if naps is not None else []
    given: dict[str, Any] = {"endpoint": server.url, "sleep": waits.append}
    made: LangSmithFeedback | LangfuseScores
    if isinstance(server, LangSmithServer):
        made = LangSmithFeedback(**{"scope": f"{host(server)}/{PROJECT}", "api_key": KEY, **given, **kwargs})
    else:
        keys = {"public_key": PUBLIC, "secret_key": SECRET}
        made = LangfuseScores(**{"scope": f"{host(server)}/proj-1", **keys, **given, **kwargs})
    made.batch = 10
    return made


def held(server: Any) -> dict[Any, Any]:
    """What the server holds."""
    return deepcopy(server.feedback if isinstance(server, LangSmithServer) else server.scores)


def writes(server: Any) -> int:
    return sum(r.method != "GET" and not r.path.endswith("/query") for r in server.requests)


SERVERS = ["langsmith", "langfuse"]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_each_named_call_gets_one_and_they_add_up(server: Any, tmp_path: Path) -> None:
    ledger, history = imported(server, tmp_path)
    done = Annotate(ledger, history, place(server)).write()
    incidents = list(ledger.incidents(history))
    calls = [call for i in incidents for call in i.call_ids]
    assert len(incidents) == LOOPS
    assert (done.written, done.updated, done.not_written) == (len(calls), 0, [])
    notes = list(held(server).values())
    new = isinstance(server, LangSmithServer)
    assert sorted(n["run_id" if new else "observationId"] for n in notes) == sorted(calls)
    assert {n["key" if new else "name"] for n in notes} == {"token_waste.tool_loop"}
    cents = sum(n["score" if new else "value"] for n in notes)
    assert cents == pytest.approx(sum(i.wasted_nano // 1000 for i in incidents) / 10_000)
    assert cents > 0
    for note in notes:
        assert "What to do: " in note["comment"]
        assert "https://example.com" not in note["comment"]


def test_a_second_time_changes_nothing_and_sends_nothing(server: Any, tmp_path: Path) -> None:
    ledger, history = imported(server, tmp_path)
    first = Annotate(ledger, history, place(server)).write()
    before, sent = held(server), writes(server)
    again = Annotate(ledger, history, place(server)).write()
    assert again == Outcome(unchanged=first.written)
    assert writes(server) == sent
    fresh = Annotate(Ledger(tmp_path / "ledger.sqlite"), history, place(server)).write()
    assert fresh.unchanged == first.written
    # another ledger, on another machine: the same ids
    (tmp_path / "b").mkdir()
    other, same = imported(server, tmp_path / "b")
    assert Annotate(other, same, place(server)).write().written == first.written
    assert held(server) == before


FAULTS = ["rate_seconds", "rate_date", "rate_bare", "bad_gateway", "truncated", "lost", "reset"]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_change_nothing(server: Any, tmp_path: Path, fault: str) -> None:
    ledger, history = imported(server, tmp_path)
    waits: list[float] = []
    told: list[Any] = []
    server.faults.queue = [fault, "fine", fault] * 3
    storm = Annotate(ledger, history, place(server, waits, on_wait=told.append)).write()
    stormy = held(server)
    assert not storm.not_written
    assert len(waits) == len(told) > 0
    if fault == "rate_seconds":
        assert set(waits) == {0.2}
    if fault == "rate_date":
        assert all(20 < w <= 31 for w in waits)
    server.faults.queue = [fault, "fine"] * 3
    assert Annotate(ledger, history, place(server)).remove().removed == storm.written
    assert held(server) == {}
    Annotate(ledger, history, place(server)).write()
    assert held(server) == stormy


def test_removed_without_a_trace(server: Any, tmp_path: Path) -> None:
    ledger, history = imported(server, tmp_path)
    written = Annotate(ledger, history, place(server)).write().written
    assert Annotate(ledger, history, place(server)).remove(rules={"error_loop"}).removed == 0
    assert Annotate(ledger, history, place(server)).remove(rules={"tool_loop"}).removed == written
    assert held(server) == {}
    assert Record(ledger).annotations(history.source, history.scope) == {}
    assert Annotate(ledger, history, place(server)).remove() == Outcome()


def test_what_somebody_else_removed_is_no_error(server: Any, tmp_path: Path) -> None:
    ledger, history = imported(server, tmp_path)
    written = Annotate(ledger, history, place(server)).write().written
    (server.feedback if isinstance(server, LangSmithServer) else server.scores).clear()
    assert Annotate(ledger, history, place(server)).remove() == Outcome(removed=written)


def test_incidents_that_no_longer_exist_lose_theirs(server: Any, tmp_path: Path) -> None:
    ledger, history = imported(server, tmp_path)
    written = Annotate(ledger, history, place(server)).write().written
    _, history = imported(server, tmp_path, settings={"tool_loop.enabled": False}, fresh=True)
    dry = Annotate(ledger, history, None).write()
    assert len(held(server)) == dry.removed == written
    assert Annotate(ledger, history, place(server)).write().removed == written
    assert held(server) == {}


def test_while_an_import_is_incomplete_nothing_is_removed(server: Any, tmp_path: Path) -> None:
    ledger, history = imported(server, tmp_path)
    Annotate(ledger, history, place(server)).write()
    before = held(server)
    ledger.forget(history)
    interrupted = ledger.open_history(history.source, history.scope, {}, "", {}, 0.0)
    assert Annotate(ledger, interrupted, place(server)).write() == Outcome()
    assert held(server) == before


@pytest.mark.parametrize("upserts", [True, False])
def test_what_changed_is_brought_up_to_date(server: Any, tmp_path: Path, upserts: bool) -> None:
    server.upserts = upserts
    ledger, history = imported(server, tmp_path)
    first = Annotate(ledger, history, place(server)).write()
    prices = dict.fromkeys(("gpt-4o", "gpt-4o-2024-08-06"), Rates(100.0, 100.0, None))
    _, history = imported(server, tmp_path, prices=prices, fresh=True)
    before = held(server)
    changed = Annotate(ledger, history, place(server)).write()
    assert (changed.written, changed.updated, changed.removed) == (0, first.written, 0)
    after = held(server)
    assert after.keys() == before.keys()
    assert all(after[k] != before[k] for k in after)


def test_choosing_rules_and_sums(langsmith: LangSmithServer, tmp_path: Path) -> None:
    server = langsmith
    for row in (rows := deepcopy(RUNS)):
        if row["extra"].get("metadata", {}).get("thread_id") in ("thread-0", "thread-3") and "prompt_tokens" in row:
            row["prompt_tokens"] *= 10
    server.rows = rows
    ledger, history = imported(server, tmp_path)
    incidents = list(ledger.incidents(history))
    least = incidents[1].wasted_usd
    chosen = [c for i in incidents if i.wasted_usd >= least for c in i.call_ids]
    assert 0 < len(chosen) < sum(len(i.call_ids) for i in incidents)
    run = Annotate(ledger, history, place(server))
    assert run.count(min_usd=least) == run.write(min_usd=least).written == len(chosen)
    none = Annotate(ledger, history, place(server)).write(rules={"error_loop"})
    assert none == Outcome(), "what was written of other rules stays"
    assert len(held(server)) == len(chosen)


def test_a_wrong_key_is_not_tried_again_and_nothing_is_recorded(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ledger, history = imported(server, tmp_path)
    asked = len(server.requests)
    wrong = "wrong_key_0123456789"
    key = {"api_key": wrong} if isinstance(server, LangSmithServer) else {"secret_key": wrong}
    with pytest.raises(AuthenticationFailed) as refused:
        place(server, **key)
    assert len(server.requests) == asked + 1
    assert wrong not in f"{refused.value!r}{caplog.text}"
    assert Record(ledger).annotations(history.source, history.scope) == {}


def test_a_dead_server_leaves_what_can_be_gone_on_with(server: Any, tmp_path: Path) -> None:
    ledger, history = imported(server, tmp_path)
    there = place(server)
    server.faults.queue = ["lost"] * 10_000
    with pytest.raises(SourceUnavailable, match=r"could not be written to.*What was sent is recorded"):
        Annotate(ledger, history, there).write()
    server.faults.queue = []
    arrived = held(server)
    known = Record(ledger).annotations(history.source, history.scope)
    ids = {k if isinstance(k, str) else k[0] for k in arrived}
    assert ids <= known.keys(), "all that may have arrived is recorded"
    done = Annotate(ledger, history, place(server)).write()
    assert done.written + done.updated == len(held(server)) == sum(len(i.call_ids) for i in ledger.incidents(history))
    Annotate(ledger, history, place(server)).remove()
    assert held(server) == {}


def test_a_choice_of_runs_can_be_annotated(langsmith: LangSmithServer) -> None:
    chosen = place(langsmith, scope=f"{host(langsmith)}/{PROJECT}?1a2b3c")
    assert isinstance(chosen, LangSmithFeedback)
    assert chosen.project_id == PROJECT


def test_another_address_or_project_is_refused(langsmith: LangSmithServer, langfuse: LangfuseServer) -> None:
    with pytest.raises(ConfigurationError, match=r"came from eu\.example, not from 127\.0\.0\.1.*LANGSMITH_ENDPOINT"):
        place(langsmith, scope=f"eu.example/{PROJECT}")
    with pytest.raises(ConfigurationError, match="LANGFUSE_HOST"):
        place(langfuse, scope="eu.example/proj-1")
    with pytest.raises(ProjectNotFound, match="no longer has the project"):
        place(langsmith, scope=f"{host(langsmith)}/{uuid4()}")
    with pytest.raises(ProjectNotFound, match="another Langfuse project"):
        place(langfuse, scope=f"{host(langfuse)}/proj-2")
    assert writes(langsmith) == writes(langfuse) == 0


@pytest.mark.parametrize("what", ["write", "remove"])
def test_a_ledger_that_goes_away_meanwhile_ends_it(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """SQLite writes on into a file without a name: what is sent then would be found by no removal."""
    ledger, history = imported(server, tmp_path)
    if what == "remove":
        Annotate(ledger, history, place(server)).write()
    there = len(held(server))
    one = place(server)
    ask, times = getattr(one, what), []

    def asked(given: Any) -> Any:
        times.append(len(given))
        for part in tmp_path.glob("ledger.sqlite*"):
            part.unlink()
        return ask(given)

    monkeypatch.setattr(one, what, asked)
    with pytest.raises(LedgerError, match=r"deleted or replaced meanwhile\. What was sent since then is not recorded"):
        getattr(Annotate(ledger, history, one), what)()
    assert times == [10]
    assert abs(len(held(server)) - there) == 10
    with pytest.raises(LedgerError, match="deleted or replaced"):
        getattr(Annotate(ledger, history, one), what)()
    assert times == [10]


# --- LangSmith only ---------------------------------------------------------------------------------

OTHER, EXPERIMENT = "0c0c0c0c-0000-4000-8000-000000000002", "0e0e0e0e-0000-4000-8000-000000000003"


@pytest.mark.parametrize("v2", [True, False])
def test_runs_of_several_projects_are_annotated_where_each_one_is(v2: bool, tmp_path: Path) -> None:
    traces = sorted({r["trace_id"] for r in RUNS})
    where = {trace: (PROJECT, OTHER, EXPERIMENT)[n % 3] for n, trace in enumerate(traces)}
    rows = [{**r, "session_id": where[r["trace_id"]]} for r in RUNS]
    unused = {f"unused-{n}": str(uuid4()) for n in range(130)}
    server = LangSmithServer(rows, unused | {"my-agent": PROJECT, "my-other": OTHER}, v2=v2)
    server.experiments = {"my-experiment": EXPERIMENT}
    with serving(server):
        until = BEGIN + timedelta(days=30)
        given: dict[str, Any] = {"api_key": KEY, "endpoint": server.url, "since": BEGIN, "until": until}
        source = LangSmithImporter(project="my-*", experiments=True, **given)
        ledger = Ledger(tmp_path / "ledger.sqlite")
        history = Import(source, ledger).run()
        server.gone = {next(i for i in ledger.incidents(history)).call_ids[0]}
        server.rows = [r for r in rows if r["id"] not in server.gone]
        done = Annotate(ledger, history, place(server, scope=history.scope)).write()
        assert (done.written, done.gone, done.refused) == (LOOPS * 3 - 1, 1, 0)
        assert {f["session_id"] for f in server.feedback.values()} == {PROJECT, OTHER, EXPERIMENT}
        for note in server.feedback.values():
            assert note["session_id"] == next(r["session_id"] for r in rows if r["id"] == note["run_id"])
        again = Annotate(ledger, history, place(server, scope=history.scope)).write()
        assert (again.unchanged, again.written) == (LOOPS * 3 - 1, 0)
        assert Annotate(ledger, history, place(server, scope=history.scope)).remove().removed == LOOPS * 3 - 1
    assert server.feedback == {}


def test_a_run_that_is_gone_is_named_and_skipped(langsmith: LangSmithServer, tmp_path: Path) -> None:
    ledger, history = imported(langsmith, tmp_path)
    planned = list(plan(ledger, history))
    lost = {planned[0].run_id, planned[-1].run_id}
    langsmith.gone = set(lost)
    done = Annotate(ledger, history, place(langsmith)).write()
    assert {run for run, _ in done.not_written} == lost
    assert (done.gone, done.refused, done.written) == (2, 0, len(planned) - 2)
    langsmith.gone.clear()
    assert Annotate(ledger, history, place(langsmith)).write().written == 2


def test_one_that_is_refused_does_not_stop_the_others(langsmith: LangSmithServer, tmp_path: Path) -> None:
    ledger, history = imported(langsmith, tmp_path)
    run_id = next(plan(ledger, history)).run_id
    langsmith.gone = {run_id}
    create = langsmith._create

    def create_or_refuse(body: dict[str, Any]) -> Any:
        answer = create(body)
        answer.status = 422 if body["run_id"] == run_id else answer.status
        return answer

    langsmith._create = create_or_refuse  # type: ignore[method-assign]
    done = Annotate(ledger, history, place(langsmith)).write()
    assert (done.gone, done.refused) == (0, 1)
    assert "HTTP 422" in done.not_written[0][1].why


def test_the_vendors_own_client_sends_what_we_send(langsmith: LangSmithServer, tmp_path: Path) -> None:
    ledger, history = imported(langsmith, tmp_path)
    note = next(plan(ledger, history))
    sdk = LangSmithSDK(api_url=f"{langsmith.url}/api/v1", api_key=KEY, auto_batch_tracing=False)
    assert note.trace_id is not None
    assert note.started_at is not None
    sdk.create_feedback(
        run_id=note.run_id,
        trace_id=note.trace_id,
        key=note.key,
        score=note.cents,
        comment=note.comment,
        feedback_id=note.id,
        session_id=PROJECT,
        start_time=datetime.fromtimestamp(note.started_at, tz=UTC),
        extend_trace_retention=False,
        source_info={"tool": "ts-langchain"},
    )
    theirs = [r for r in langsmith.requests if r.path == "/api/v1/feedback"][-1].body
    place(langsmith).write([note])
    ours = [r for r in langsmith.requests if r.path == "/api/v1/feedback"][-1].body
    times = {"created_at", "modified_at"}
    assert ours == {k: v for k, v in theirs.items() if k not in times}
    sdk.delete_feedback(UUID(note.id))
    assert langsmith.feedback == {}


# --- Langfuse only ----------------------------------------------------------------------------------


def without_ids(server: LangfuseServer) -> list[str]:
    return sorted(repr({k: v for k, v in score.items() if k != "id"}) for score in server.scores.values())


def test_an_older_langfuse_takes_one_at_a_time(tmp_path: Path) -> None:
    with serving(LangfuseServer(lists=True)) as newer, serving(LangfuseServer(lists=False)) as older:
        ledger, history = imported(newer, tmp_path)
        done = Annotate(ledger, history, place(newer)).write()
        assert writes(newer) == 5
        (tmp_path / "older").mkdir()
        ledger, history = imported(older, tmp_path / "older")
        assert Annotate(ledger, history, place(older)).write() == done
        # the ids are made from the address, too
        assert without_ids(older) == without_ids(newer)


def test_of_a_list_that_is_refused_in_part_the_culprits_are_named(langfuse: LangfuseServer, tmp_path: Path) -> None:
    ledger, history = imported(langfuse, tmp_path)
    planned = list(plan(ledger, history))
    langfuse.refused = {planned[3].run_id}
    done = Annotate(ledger, history, place(langfuse)).write()
    assert [run for run, _ in done.not_written] == [planned[3].run_id]
    assert len(langfuse.scores) == done.written == len(planned) - 1


def test_scores_are_dated_with_their_observation(langfuse: LangfuseServer, tmp_path: Path) -> None:
    ledger, history = imported(langfuse, tmp_path)
    Annotate(ledger, history, place(langfuse, scope=f"{host(langfuse)}/proj-1/staging")).write()
    starts = {r["id"]: (datetime.fromisoformat(r["startTime"]), r["traceId"]) for r in ROWS}
    for score in langfuse.scores.values():
        start, trace = starts[score["observationId"]]
        assert abs(datetime.fromisoformat(score["timestamp"]) - start) < timedelta(milliseconds=1)
        assert score["traceId"] == trace
        assert score["environment"] == "staging"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["write", "remove"])
def test_another_command_undoes_meanwhile_what_this_one_does(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, when: str
) -> None:
    """Whoever is last, nothing is left that no removal finds, and nothing is taken for written that is not."""
    ledger, history = imported(server, tmp_path)
    Annotate(ledger, history, place(server)).write()
    whole = held(server)

    def both() -> None:
        """`what`, and its opposite from beginning to end while the service is asked for the first time."""
        one, others = place(server), [Annotate(ledger, history, place(server))]
        ask = getattr(one, what)

        def asked(given: Any) -> Any:
            answer = ask(given) if when == "after" else None
            while others:
                other = others.pop()
                other.remove() if what == "write" else other.write()
            return answer if when == "after" else ask(given)

        monkeypatch.setattr(one, what, asked)
        run = Annotate(ledger, history, one)
        run.write() if what == "write" else run.remove()

    if what == "write":
        Annotate(ledger, history, place(server)).remove()
    both()
    ids = {key if isinstance(key, str) else key[0] for key in held(server)}
    assert ids <= Record(ledger).annotations(history.source, history.scope).keys()
    Annotate(ledger, history, place(server)).write()
    assert held(server).keys() == whole.keys()
    if what == "write":
        Annotate(ledger, history, place(server)).remove()
    both()
    Annotate(ledger, history, place(server)).remove()
    assert held(server) == {}
    assert Record(ledger).annotations(history.source, history.scope) == {}
