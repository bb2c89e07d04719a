"""Events to a local cloud: each incident once, with its time, whatever happens."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from importers.fake_langsmith import agent_rows
from servers.cloud import KEY, CloudServer
from servers.serving import serving

from ts_importers.cloud import TokenSentinelCloud
from ts_importers.files import FileImporter
from ts_importers.http import HTTPFailure
from ts_langchain.deliver import backfill
from ts_langchain.deliver.backfill import Backfill, Sent, chunks, event_id, event_of
from ts_langchain.errors import AuthenticationFailed, SourceUnavailable
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ts_langchain.ledger import History

ROWS = agent_rows(700, turns=4, seed=5)
INCIDENTS = 234


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """An imported history, to be copied."""
    import orjson

    path = tmp_path_factory.mktemp("book")
    rows = path / "rows.jsonl"
    rows.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in ROWS))
    ledger = Ledger(path / "ledger.sqlite")
    Import(FileImporter(rows), ledger).run()
    ledger.close()
    return rows, (path / "ledger.sqlite").read_bytes()


@pytest.fixture
def imported(book: tuple[Path, bytes], tmp_path: Path) -> tuple[Ledger, History]:
    (tmp_path / "ledger.sqlite").write_bytes(book[1])
    ledger = Ledger(tmp_path / "ledger.sqlite")
    return ledger, ledger.histories()[0]


@pytest.fixture
def cloud() -> Iterator[CloudServer]:
    with serving(CloudServer()) as server:
        yield server


def run(
    server: CloudServer, imported: tuple[Ledger, History], naps: list[float] | None = None, **kwargs: Any
) -> Backfill:
    waits: list[float] = naps if naps is not None else []
    key = kwargs.pop("api_key", KEY)
    sink = TokenSentinelCloud(endpoint=f"{server.url}/v1/", project="shop", api_key=key, sleep=waits.append)
    ledger, history = imported
    return Backfill(ledger, history, "shop", sink, sink.name, "0.0.0", **kwargs)


@pytest.mark.parametrize("there_is_a_backfill", [True, False])
def test_every_incident_once_oldest_first_with_its_time(
    cloud: CloudServer, imported: tuple[Ledger, History], there_is_a_backfill: bool
) -> None:
    cloud.backfill = there_is_a_backfill
    assert run(cloud, imported).run() == Sent(events=INCIDENTS, accepted=INCIDENTS, chunks=3)
    incidents = {i.id: i for i in imported[0].incidents(imported[1])}
    events = list(cloud.events.values())
    assert {e["metadata"]["incident_id"] for e in events} == incidents.keys()
    times = [datetime.fromisoformat(e["raised_at"]).timestamp() for e in events]
    assert times == sorted(times)
    for event in events:
        incident = incidents[event["metadata"]["incident_id"]]
        assert datetime.fromisoformat(event["raised_at"]).timestamp() == pytest.approx(incident.opened_at)
        assert (event["rule"], event["session_id"]) == (incident.rule, incident.session_id)
        assert event["estimated_burn"] == pytest.approx(incident.wasted_usd)
        assert "example.com" not in str(event)
    paths = [r.path for r in cloud.requests]
    assert paths.count("/v1/events") == (0 if there_is_a_backfill else 3)
    assert paths.count("/v1/events:backfill") == (3 if there_is_a_backfill else 1)


def test_a_second_time_sends_only_what_is_new(cloud: CloudServer, imported: tuple[Ledger, History]) -> None:
    run(cloud, imported).run()
    asked = len(cloud.requests)
    assert run(cloud, imported).run() == Sent(known=INCIDENTS)
    assert len(cloud.requests) == asked
    assert run(cloud, imported, again=True).run().accepted == INCIDENTS
    assert len(cloud.events) == INCIDENTS


@pytest.mark.parametrize(
    "fault", ["rate_seconds", "rate_date", "rate_bare", "bad_gateway", "truncated", "lost", "reset"]
)
def test_faults_change_nothing(cloud: CloudServer, imported: tuple[Ledger, History], fault: str) -> None:
    cloud.faults.queue = [fault, fault, "fine", fault]
    naps: list[float] = []
    assert run(cloud, imported, naps).run().accepted == INCIDENTS
    assert len(cloud.events) == INCIDENTS
    assert len(naps) == 3
    if fault == "rate_date":
        assert all(20 < nap <= 31 for nap in naps)


def test_given_up_it_goes_on_where_it_was(cloud: CloudServer, imported: tuple[Ledger, History]) -> None:
    cloud.faults.queue = ["fine"] + ["lost"] * 8
    with pytest.raises(SourceUnavailable, match="could not be written to"):
        run(cloud, imported).run()
    assert len(cloud.events) == 200
    bodies = len(cloud.keys)
    assert run(cloud, imported).run() == Sent(events=134, accepted=134, known=100, chunks=2)
    assert len(cloud.events) == INCIDENTS
    assert len(cloud.keys) == bodies + 1, "the lost chunk came again under its own key"


def test_what_is_rejected_is_counted_and_sent_again(cloud: CloudServer, imported: tuple[Ledger, History]) -> None:
    cloud.rejects = {"tool_loop"}
    assert run(cloud, imported).run() == Sent(events=INCIDENTS, rejected=INCIDENTS, chunks=3)
    cloud.rejects = set()
    assert run(cloud, imported).run().accepted == INCIDENTS


def test_what_is_too_large_for_the_cloud_comes_in_smaller_requests(
    cloud: CloudServer, imported: tuple[Ledger, History]
) -> None:
    cloud.most_bytes = 20_000
    assert run(cloud, imported).run() == Sent(events=INCIDENTS, accepted=INCIDENTS, chunks=3)
    assert len(cloud.events) == INCIDENTS
    assert run(cloud, imported, again=True).run().accepted == INCIDENTS
    assert len(cloud.events) == INCIDENTS


def test_an_event_that_is_too_large_by_itself_is_counted_as_rejected(
    cloud: CloudServer, imported: tuple[Ledger, History]
) -> None:
    ledger, history = imported
    longest = max(len(json.dumps(event_of(history, i, "shop", "0.0.0"))) for i in ledger.incidents(history))
    cloud.most_bytes = longest + len(json.dumps({"project": "shop", "events": []})) - 1
    sent = run(cloud, imported).run()
    assert 0 < sent.rejected < INCIDENTS
    assert sent.accepted == len(cloud.events) == INCIDENTS - sent.rejected


def test_a_cloud_that_does_not_count_has_accepted_all(cloud: CloudServer, imported: tuple[Ledger, History]) -> None:
    cloud.counts = False
    naps: list[float] = []
    assert run(cloud, imported, naps).run() == Sent(events=INCIDENTS, accepted=INCIDENTS, chunks=3)
    assert naps == []


def test_projects_are_apart(cloud: CloudServer, imported: tuple[Ledger, History]) -> None:
    run(cloud, imported).run()
    ledger, history = imported
    sink = TokenSentinelCloud(endpoint=cloud.url, project="other", api_key=KEY)
    assert Backfill(ledger, history, "other", sink, sink.name, "0.0.0").run().accepted == INCIDENTS


def test_a_dry_run_sends_nothing_and_remembers_nothing(cloud: CloudServer, imported: tuple[Ledger, History]) -> None:
    dry = run(cloud, imported)
    dry.sink = None
    assert dry.run() == Sent(events=INCIDENTS, chunks=3)
    assert cloud.requests == []
    assert run(cloud, imported).run().accepted == INCIDENTS


def test_a_wrong_key_or_project_ends_it(cloud: CloudServer, imported: tuple[Ledger, History]) -> None:
    wrong = "tsk_wrong_0123456789"
    with pytest.raises(AuthenticationFailed, match="TOKEN_SENTINEL_API_KEY") as refused:
        run(cloud, imported, api_key=wrong).run()
    assert len(cloud.requests) == 1
    assert wrong not in repr(refused.value)

    class NoProject(CloudServer):
        def answer(self, request: Any) -> Any:
            answer = super().answer(request)
            answer.status, answer.body = 404, {"detail": f"no project; key {request.headers['authorization']}"}
            return answer

    with serving(NoProject()) as server, pytest.raises(HTTPFailure, match="no project") as nothing:
        run(server, imported).run()
    assert KEY not in str(nothing.value)


def test_chunks_are_bounded(imported: tuple[Ledger, History], monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, history = imported
    events = [event_of(history, i, "shop", "0") for i in ledger.incidents(history)]
    assert [len(c) for c in chunks(events)] == [100, 100, 34]
    assert len({event_id(e) for e in events}) == len(events)
    monkeypatch.setattr(backfill, "MAX_BYTES", 5_000)
    import orjson

    small = list(chunks(events))
    assert [e for chunk in small for e in chunk] == events
    assert all(len(orjson.dumps(c)) <= 5_100 for c in small)
    monkeypatch.setattr(backfill, "MAX_BYTES", 10)
    assert [len(c) for c in chunks(events)] == [1] * len(events)
