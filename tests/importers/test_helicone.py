"""The Helicone importer against a local server: windows, offsets, bodies that lie elsewhere, streams."""

from __future__ import annotations

import json
import logging
import random
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from importers.test_langfuse import talks
from importers.test_rows import odd, replayed
from recorder import replay_of
from rules.talk import BEGIN, requests
from servers.serving import Quiet, listening
from typer.testing import CliRunner

from ts_importers.base import Importer, Skipped
from ts_importers.bodies import assembled
from ts_importers.files import FileImporter
from ts_importers.helicone import HeliconeImporter, _may_be_asked
from ts_importers.helicone_rows import run_from_request
from ts_langchain.call import Usage
from ts_langchain.cli.app import app
from ts_langchain.errors import AuthenticationFailed
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.pricing import Cost
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk-helicone-very-secret-0123456789"
SIGNATURE = "signature-0123456789"
ROWS = requests(*talks(40))
ELSEWHERE = {"helicone_message": "fetching body from signed_url... contact us for more information"}


class FakeHelicone:
    """What the server holds and how it misbehaves."""

    def __init__(self) -> None:
        self.held = list(ROWS)
        self.late = False
        self.keys = {KEY}
        self.faults: list[int] = []
        self.gone: set[str] = set()
        self.body_headers: list[str | None] = []
        self.url = ""

    def rows(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        low = datetime.fromisoformat(query["filter"]["left"]["request"]["created_at"]["gte"])
        high = datetime.fromisoformat(query["filter"]["right"]["request"]["created_at"]["lt"])
        assert query["limit"] <= 100
        found = [r for r in self.held if low <= datetime.fromisoformat(r["request_created_at"]) < high]
        found.sort(key=lambda r: r["request_created_at"])
        if self.late and found:
            late = {**found[0], "request_id": f"late-{len(self.held)}"}
            self.held.append(late)
            found.insert(0, late)
        bare = [
            {
                **{k: v for k, v in row.items() if not k.endswith("_body")},
                "request_body": ELSEWHERE,
                "response_body": ELSEWHERE,
                "signed_body_url": f"{self.url}/bodies/{row['request_id']}?X-Signature={SIGNATURE}",
            }
            for row in found
        ]
        return bare[query["offset"] : query["offset"] + query["limit"]]


@contextmanager
def serve(fake: FakeHelicone) -> Iterator[FakeHelicone]:
    bodies = {r["request_id"]: {"request": r["request_body"], "response": r["response_body"]} for r in ROWS}

    class Handler(Quiet):
        def answer(self, status: int, body: Any) -> None:
            self.send(status, json.dumps(body).encode())

        def do_GET(self) -> None:
            fake.body_headers.append(self.headers.get("authorization"))
            name = self.path.rpartition("/")[2].partition("?")[0]
            name = ROWS[0]["request_id"] if name.startswith("late-") else name
            self.answer(404, {}) if name in fake.gone else self.answer(200, bodies[name])

        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if (self.headers.get("authorization") or "").removeprefix("Bearer ") not in fake.keys:
                self.answer(401, {})
            elif fake.faults and (fault := fake.faults.pop(0)) != 200:
                self.answer(fault, {})
            else:
                self.answer(200, {"data": fake.rows(query), "error": None})

    with listening(Handler) as port:
        fake.url = f"http://127.0.0.1:{port}"
        yield fake


def importer(fake: FakeHelicone, **kwargs: Any) -> HeliconeImporter:
    span = {"since": BEGIN - timedelta(days=1), "until": BEGIN + timedelta(days=5)}
    return HeliconeImporter(**{"api_key": KEY, "endpoint": fake.url, "sleep": lambda _: None, **span, **kwargs})


@pytest.mark.parametrize("page_size", [7, 100])
def test_every_request_once_with_its_bodies(page_size: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serve(FakeHelicone()) as fake:
        source = importer(fake, page_size=page_size)
        assert isinstance(source, Importer)
        pages = list(source.pages())
        runs = [r for p in pages for r in p.runs]
        assert [r.id for r in runs] == [r["request_id"] for r in sorted(ROWS, key=lambda r: r["request_created_at"])]
        assert all(r.inputs["messages"] and r.outputs for r in runs)
        assert set(fake.body_headers) == {None}  # the key is not sent to where bodies lie
    assert SIGNATURE not in caplog.text
    assert KEY not in caplog.text


def test_faults_and_bodies_that_are_gone(tmp_path: Path) -> None:
    def figures(fake: FakeHelicone, name: str) -> Any:
        ledger = Ledger(tmp_path / name)
        source = importer(fake, page_size=10)
        history = Import(source, ledger).run()
        return [(i.id, i.calls, i.wasted_nano) for i in ledger.incidents(history)], history.runs, source.notices

    with serve(FakeHelicone()) as fake:
        calm = figures(fake, "calm.sqlite")
        fake.faults = [200, 429, 200, 502, 200, 200, 503] * 4
        assert figures(fake, "stormy.sqlite") == calm
        fake.gone = {r["request_id"] for r in ROWS if r["request_id"].startswith("chat-0-")}
        lost = figures(fake, "lost.sqlite")
    assert len(calm[0]) == 14
    assert calm[2] == []
    assert (len(lost[0]), lost[1]) == (13, calm[1])
    assert "bodies could not be read" in lost[2][0]


def test_what_stands_for_a_body_is_no_body() -> None:
    """Else all requests whose bodies are gone would have been asked and answered the same."""
    for elsewhere in (ELSEWHERE, json.dumps(ELSEWHERE)):
        run = run_from_request({**ROWS[0], "request_body": elsewhere, "response_body": elsewhere})
        assert isinstance(run, Run)
        assert (run.inputs, run.outputs, run.invocation_params) == ({"messages": None}, None, {})


def test_requests_of_one_moment_come_in_another_order_with_each_page() -> None:
    """ClickHouse sorts by time alone."""
    chance = random.Random(1)
    with serve(FakeHelicone()) as fake:
        times = [row["request_created_at"] for row in ROWS[::4]]
        fake.held = [{**row, "request_created_at": times[n // 4]} for n, row in enumerate(ROWS)]
        rows, sort = fake.rows, fake.held.sort

        def shuffled(query: dict[str, Any]) -> list[dict[str, Any]]:
            sort(key=lambda _: chance.random())
            return rows(query)

        fake.rows = shuffled  # type: ignore[method-assign]
        ids = [r.id for p in importer(fake, page_size=10).pages() for r in p.runs]
    assert sorted(ids) == sorted(r["request_id"] for r in ROWS)


def test_rows_that_vanish_while_pages_are_read_hide_no_others() -> None:
    """Helicone's table holds newer versions of a row beside it until they are merged."""
    with serve(FakeHelicone()) as fake:
        rows, told = fake.rows, set()

        def merging(query: dict[str, Any]) -> list[dict[str, Any]]:
            gone = next((r for r in fake.held if r["request_id"] in told), None)
            if gone is not None:
                fake.held.remove(gone)
            found = rows(query)
            told.update(r["request_id"] for r in found)
            return found

        fake.rows = merging  # type: ignore[method-assign]
        ids = {r.id for p in importer(fake, page_size=10).pages() for r in p.runs}
    assert len(fake.held) < len(ROWS)
    assert ids == {r["request_id"] for r in ROWS}


def test_a_request_under_way_is_read_when_it_is_answered() -> None:
    row = {k: v for k, v in ROWS[0].items() if k not in ("response_body", "response_created_at", "response_status")}
    waiting = dict.fromkeys(("response_created_at", "response_status", "delay_ms", "completion_tokens"))
    under_way = run_from_request({**row, **waiting, "response_body": ELSEWHERE})
    assert isinstance(under_way, Skipped)
    assert under_way.why == "still running"


def test_a_status_may_be_text() -> None:
    for status in (500, "500", "-3"):
        run = run_from_request({**ROWS[0], "response_status": status})
        assert isinstance(run, Run)
        assert (run.error, run.outputs) == (f"HTTP {int(status)}", None)


@pytest.mark.parametrize("url", ["https://a\0b/", f"http://{'a' * 300}.example/", "https://[bad"])
def test_an_address_of_bodies_that_is_none_costs_the_bodies_only(url: str) -> None:
    with serve(FakeHelicone()) as fake:
        rows = fake.rows
        fake.rows = lambda query: [{**r, "signed_body_url": url} for r in rows(query)[:3]]  # type: ignore[method-assign]
        source = importer(fake, page_size=50)
        assert [r for p in source.pages() for r in p.runs]
    assert "bodies could not be read" in source.notices[0]


@pytest.mark.parametrize(
    ("url", "plainly", "asked"),
    [
        ("https://bucket.s3.amazonaws.com/x?X-Signature=1", False, True),
        ("http://minio:9000/x", True, True),
        ("http://127.0.0.1:9000/x", True, True),
        ("http://10.0.0.7/x", True, True),
        ("http://10.0.0.7/x", False, False),
        ("http://localhost:6379/x", False, False),
        ("http://169.254.169.254/latest/meta-data", True, False),
        ("https://169.254.169.254/latest/meta-data", False, False),
        ("http://2852039166/latest/meta-data", True, False),
        ("http://0xa9fea9fe/latest/meta-data", True, False),
        ("http://[::ffff:169.254.169.254]/x", True, False),
        ("http://[fe80::1]/x", True, False),
        ("file:///etc/passwd", True, False),
        ("ftp://elsewhere.example/x", True, False),
    ],
)
def test_a_row_cannot_have_any_address_asked(url: str, plainly: bool, asked: bool) -> None:
    assert _may_be_asked(url, plainly=plainly) is asked


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://169.254.169.254/latest/meta-data"])
def test_bodies_at_such_an_address_are_told_of(url: str) -> None:
    with serve(FakeHelicone()) as fake:
        rows = fake.rows
        fake.rows = lambda query: [{**r, "signed_body_url": url} for r in rows(query)[:3]]  # type: ignore[method-assign]
        source = importer(fake, page_size=50)
        assert [r for p in source.pages() for r in p.runs]
    assert "bodies could not be read: their addresses are not asked" in source.notices[0]


def test_another_key_is_another_history() -> None:
    with serve(FakeHelicone()) as one, serve(FakeHelicone()) as two:
        one.keys.add("another-key")
        first = importer(one).scope
        assert first.startswith(f"{one.url.removeprefix('http://')}/key-")
        assert first == importer(one, api_key=f" {KEY} ").scope
        assert len({first, importer(one, api_key="another-key").scope, importer(two).scope}) == 3
        assert KEY not in first


def test_the_command_and_a_refused_key(tmp_path: Path) -> None:
    with serve(FakeHelicone()) as fake:
        with pytest.raises(AuthenticationFailed, match="HELICONE_API_KEY") as refused:
            importer(fake, api_key="sk-helicone-wrong-0123456789")
        assert "0123456789" not in repr(refused.value)
        env = {
            "TS_LANGCHAIN_LEDGER": str(tmp_path / "l.sqlite"),
            "HELICONE_API_KEY": KEY,
            "HELICONE_BASE_URL": fake.url,
        }
        args = ["import", "helicone", "--since", "2026-08-31", "--until", "2026-09-05", "--json"]
        done = CliRunner().invoke(app, args, env=env)
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["rows"]["replayed"] == len(ROWS)
    assert {r["rule"]: r["incidents"] for r in result["rules"]} == {"tool_loop": 14}
    assert KEY not in done.stdout + done.stderr


def test_streams_are_put_together() -> None:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    call = {"index": 0, "id": "c1", "function": {"name": "find", "arguments": '{"q": '}}
    openai = [
        chunk({"role": "assistant", "content": "Let me "}),
        chunk({"content": "look."}),
        chunk({"tool_calls": [call]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"sso"}'}}]}),
        chunk({}, "tool_calls"),
    ]
    anthropic = [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Let me look."}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "c1", "name": "find"}},
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"q": "sso"}'},
        },
        {"type": "message_delta", "delta": {"stop_reason": "tool_calls"}},
    ]
    whole = assembled(openai)
    assert whole == assembled(anthropic)
    [choice] = whole["choices"]
    assert choice["message"]["content"] == "Let me look."
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "find", "arguments": '{"q": "sso"}'}
    assert choice["finish_reason"] == "tool_calls"
    sse = "".join(f"data: {json.dumps(c)}\n\n" for c in openai) + "data: [DONE]\n\n"
    for body in (sse, {"streamed_data": openai}, {"streamed_data": sse}):
        run = run_from_request({**ROWS[0], "response_body": body})
        assert isinstance(run, Run)
        assert run.outputs == whole


def test_cached_tokens_of_anthropic_are_counted_apart() -> None:
    counts = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_cache_read_tokens": 80,
        "prompt_cache_write_tokens": 0,
    }
    for provider in ("ANTHROPIC", "OPENAI"):
        run = run_from_request({**ROWS[0], **counts, "provider": provider})
        assert isinstance(run, Run)
        assert run.usage is not None
        assert run.usage["input_tokens"] == 90


def told(row: dict[str, Any]) -> tuple[Usage, Cost | None]:
    """Tokens of a row once replayed, and what they cost."""
    run = run_from_request(row)
    assert isinstance(run, Run)
    recorder = replay_of(run)
    [call] = recorder.seen
    return call.usage, recorder.prices.cost(call)


def test_the_providers_own_counts_are_preferred() -> None:
    """Helicone's columns leave out cached input and reasoning since 2025, and held them before; the response tells."""
    row = {**ROWS[0], "prompt_tokens": 20, "completion_tokens": 3, "prompt_cache_read_tokens": 80, "total_tokens": 30}
    row |= {"reasoning_tokens": 7}
    body = ROWS[0]["response_body"]
    chat = {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 80},
        "completion_tokens_details": {"reasoning_tokens": 7},
    }
    responses = {
        "input_tokens": 100,
        "output_tokens": 10,
        "input_tokens_details": {"cached_tokens": 80},
        "output_tokens_details": {"reasoning_tokens": 7},
    }
    anthropic = {"input_tokens": 20, "output_tokens": 10, "cache_read_input_tokens": 80}
    for usage in (chat, responses, anthropic):
        read, _ = told({**row, "response_body": {**body, "usage": usage}})
        assert (read.input_tokens, read.output_tokens, read.cache_read_tokens) == (100, 10, 80)
        assert read.reasoning_tokens == (0 if usage is anthropic else 7)
    # without it the columns have to do
    assert told(row)[0] == Usage(100, 10, 80, reasoning_tokens=7)
    cached_less = {**row, "prompt_tokens": 90, "prompt_cache_read_tokens": 10, "total_tokens": 100}
    assert told(cached_less)[0] == Usage(100, 10, 10, reasoning_tokens=7)
    whole = {**row, "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    assert told(whole)[0] == Usage(100, 10, 80, reasoning_tokens=7)


def test_embeddings_and_streams_that_were_cancelled_were_billed() -> None:
    embedding = {"request_path": "/v1/embeddings", "request_body": {"model": "text-embedding-3-small", "input": "a"}}
    embedding |= {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    assert told({**ROWS[0], **embedding, "response_body": {"data": [], "usage": usage}})[0] == Usage(7)
    assert told({**ROWS[0], **embedding, "response_body": {"data": []}, "prompt_tokens": 9})[0] == Usage(9)
    begun = {"type": "message_start", "message": {"usage": {"input_tokens": 20, "cache_read_input_tokens": 80}}}
    cut = {"response_status": -3, "response_body": f"data: {json.dumps(begun)}\n\n"}
    assert told({**ROWS[0], **cut})[0] == Usage(100, 0, 80)


def test_what_helicones_cache_answered_costs_nothing() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 50}
    row = {**ROWS[0], "response_body": {**ROWS[0]["response_body"], "usage": usage}, "cost": 0}
    read, cost = told({**row, "cache_reference_id": "00000000-0000-0000-0000-000000000000"})
    assert read == Usage(1000, 50)
    assert cost is not None
    assert cost.nano > 0
    hit = {**row, "prompt_tokens": 0, "completion_tokens": 0, "prompt_cache_read_tokens": 0, "reasoning_tokens": 0}
    for model in (row["request_model"], "no-such-model"):
        named = {**hit, "request_model": model, "response_model": model, "cache_reference_id": ROWS[1]["request_id"]}
        assert told(named) == (Usage(), Cost(0, 0, "source"))


@given(st.sampled_from([*sorted(ROWS[0]), "cache_reference_id"]), odd)
def test_one_field_of_any_type(field: str, value: Any) -> None:
    run = run_from_request({**ROWS[0], field: value})
    if isinstance(run, Skipped):
        assert run.why
    else:
        assert replayed(run).health().faults == {}


def test_rows_in_a_file(tmp_path: Path) -> None:
    """What the request query gave, saved: the same runs."""
    rows = sorted(ROWS, key=lambda r: r["request_created_at"])
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = FileImporter(path)
    assert source.notices[0] == "detected: Helicone requests"
    assert [r for p in source.pages() for r in p.runs] == [run_from_request(row) for row in rows]


def test_requests_that_name_no_conversation(tmp_path: Path) -> None:
    """They go on from each other, from the service and from a file, however often the import is interrupted."""
    named = replay_of(*(run for row in ROWS if isinstance(run := run_from_request(row), Run)))
    bare = [{k: v for k, v in row.items() if k not in ("request_properties", "properties")} for row in ROWS]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sorted(bare, key=lambda r: r["request_created_at"])))
    fake = FakeHelicone()
    fake.held = bare
    told = []
    with serve(fake):
        for number, (source, every) in enumerate(((importer, 3), (importer, 10**6), (lambda _: FileImporter(path), 3))):
            ledger = Ledger(tmp_path / f"{number}.sqlite")
            done, attempts = False, 0
            while not done:
                attempts += 1
                run = Import(source(fake), ledger, checkpoint_runs=every)
                history = run.run(lambda at, run=run, every=every: run.stop() if at.pages * 2 > every else None)
                done = history.done
            assert (attempts > 1) == (every == 3)
            incidents = list(ledger.incidents(history))
            sessions = ledger.sessions(history, {i.session_id for i in incidents})
            told.append((history.runs, sorted((i.id, i.session_id, i.wasted_nano) for i in incidents), sessions))
    assert told[0] == told[1] == told[2]
    assert len(ROWS) == told[0][0]
    figures = sorted((i.rule, i.severity, i.calls, i.wasted_nano) for i in named.incidents())
    assert sorted((i.rule, i.severity, i.calls, i.wasted_nano) for i in incidents) == figures
