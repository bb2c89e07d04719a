"""The Langfuse importer against a local server, new endpoint and old: all rows, in order, once, whatever happens."""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from importers.test_rows import odd, replayed
from recorder import replay_of
from rules.talk import BEGIN, Talk, observations
from servers.serving import Quiet, listening
from typer.testing import CliRunner

from ts_importers.base import Importer, Skipped
from ts_importers.langfuse import LangfuseImporter
from ts_importers.langfuse_rows import _usage, run_from_observation
from ts_langchain.call import Usage
from ts_langchain.capture.errors import error_name
from ts_langchain.cli.app import app
from ts_langchain.errors import AuthenticationFailed, ImporterError, SourceUnavailable
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PUBLIC, SECRET = "pk-lf-public", "sk-lf-very-secret-0123456789"
AUTH = "Basic " + base64.b64encode(f"{PUBLIC}:{SECRET}".encode()).decode()


def talks(sessions: int) -> list[Talk]:
    made = []
    for n in range(sessions):
        talk = Talk(f"chat-{n}", at=n * 5_000.37).user("Which plan has SSO?")
        for turn in range(4):
            talk.ai(
                "", ("fetch_page", {"url": "a" if n % 3 == 0 else str(turn)}, "same" if n % 3 == 0 else f"page {turn}")
            )
        made.append(talk.ai("The enterprise plan."))
    return made


ROWS = observations(*talks(40))
EXTRA = [{**ROWS[0], "id": f"span-{n}", "type": t} for n, t in enumerate(("SPAN", "EVENT", "AGENT", "CHAIN"))]


class FakeLangfuse:
    """What the server holds and how it misbehaves."""

    def __init__(self, v2: bool = True) -> None:
        self.v2 = v2
        self.rows = [*ROWS, *EXTRA]
        self.faults: list[Any] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        if path == "/api/public/projects":
            return 200, {"data": [{"id": "proj-1", "name": "shop"}]}, {}
        if path == "/api/public/v2/observations" and not self.v2:
            return 404, {"message": "not found"}, {}
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            return fault, {}, {"retry-after": "2"} if fault == 429 else {}
        if fault == "cursor" and query.get("cursor"):
            return 400, {"message": "cursor expired"}, {}
        what = "Timestamp" if path.endswith("traces") else "StartTime"
        low, high = query[f"from{what}"], query[f"to{what}"]
        size = int(query["limit"])
        found = sorted(
            (r for r in self.rows if low <= _ms(r["startTime"]) < high), key=lambda r: r["startTime"], reverse=True
        )
        if path.endswith("/v2/observations"):
            assert "expandMetadata" in query
            start = int(query.get("cursor", "0"))
            wanted = set(query["fields"].split(","))
            part = [r if {"io", "usage"} <= wanted else {"id": r["id"]} for r in found[start : start + size]]
            meta = {"cursor": str(start + size)} if start + size < len(found) else {}
            return 200, {"data": part, "meta": meta}, {}
        page = int(query["page"])
        if path.endswith("traces"):
            assert size <= 100
            beside = {"userId": "ada", "tags": ["t"]}
            traces = {r["traceId"]: {"id": r["traceId"], "sessionId": r["sessionId"], **beside} for r in self.rows}
            found = list(traces.values())
        else:  # the older endpoint: no session, inputs and outputs as JSON
            found = [{k: _loads(v) for k, v in r.items() if k not in ("sessionId", "userId", "tags")} for r in found]
        meta = {"page": page, "limit": size, "totalItems": len(found), "totalPages": -(-len(found) // size)}
        return 200, {"data": found[(page - 1) * size : page * size], "meta": meta}, {}


def _ms(text: str) -> str:
    return datetime.fromisoformat(text).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _loads(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[", '"') else value


@contextmanager
def serve(fake: FakeLangfuse) -> Iterator[FakeLangfuse]:
    class Handler(Quiet):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(url.query).items()}
            fake.asked.append((url.path, query))
            status, body, headers = (
                fake.answer(url.path, query) if self.headers.get("authorization") == AUTH else (401, {}, {})
            )
            self.send(status, json.dumps(body).encode(), **headers)

    with listening(Handler) as port:
        fake.url = f"http://127.0.0.1:{port}"
        yield fake


def importer(fake: FakeLangfuse, naps: list[float] | None = None, **kwargs: Any) -> LangfuseImporter:
    waits: list[float] = naps if naps is not None else []
    given_: dict[str, Any] = {
        "public_key": PUBLIC,
        "secret_key": SECRET,
        "endpoint": fake.url,
        "since": BEGIN - timedelta(days=1),
        "until": BEGIN + timedelta(days=20),
        "sleep": waits.append,
    }
    return LangfuseImporter(**(given_ | kwargs))


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("page_size", [7, 100])
def test_every_call_once_oldest_first_from_both_endpoints(v2: bool, page_size: int) -> None:
    with serve(FakeLangfuse(v2)) as fake:
        source = importer(fake, page_size=page_size)
        assert isinstance(source, Importer)
        pages = list(source.pages())
        runs = [r for p in pages for r in p.runs]
        assert [r.id for r in runs] == [r.id for r in sorted(runs, key=lambda r: (r.started_at, r.id))]
        assert sorted(r.id for r in runs) == sorted(r["id"] for r in ROWS)
        assert sum(p.ignored for p in pages) == len(EXTRA)
        assert {r.thread_id for r in runs} == {f"chat-{n}" for n in range(40)}
        assert any("older endpoint" in n for n in source.notices) is not v2
        assert source.scope == f"{fake.url.removeprefix('http://')}/proj-1"
        middle = pages[len(pages) // 2]
        rest = [r.id for p in importer(fake, page_size=page_size).pages(middle.position) for r in p.runs]
        assert rest == [r.id for p in pages[len(pages) // 2 :] for r in p.runs]


@pytest.mark.parametrize("v2", [True, False])
def test_faults_change_nothing(v2: bool, tmp_path: Path) -> None:
    def figures(fake: FakeLangfuse, name: str) -> Any:
        ledger = Ledger(tmp_path / name)
        history = Import(importer(fake, page_size=10), ledger).run()
        return history.runs, [(i.id, i.calls, i.wasted_nano) for i in ledger.incidents(history)]

    with serve(FakeLangfuse(v2)) as fake:
        calm = figures(fake, "calm.sqlite")
        fake.faults = [429, None, 502, None, None, 503, "cursor" if v2 else None, None, 429] * 2
        assert figures(fake, "stormy.sqlite") == calm
    assert calm[0] == len(ROWS)
    assert len(calm[1]) == 14


@pytest.mark.parametrize("v2", [True, False])
def test_what_takes_langfuse_too_long_is_asked_for_in_shorter_windows(v2: bool) -> None:
    """Langfuse answers 422 where its database gives up a query, and asks for a shorter range of time."""
    with serve(FakeLangfuse(v2)) as fake:
        calm = [r for p in importer(fake).pages() for r in p.runs]
        answer = fake.answer

        def tired(path: str, query: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
            ends = [datetime.fromisoformat(v) for k, v in query.items() if k.endswith("StartTime")]
            if ends and max(ends) - min(ends) > timedelta(minutes=20):
                return 422, {"message": "Use a shorter time range", "error": "Request timed out"}, {}
            return answer(path, query)

        fake.answer = tired  # type: ignore[method-assign]
        since, until = BEGIN, BEGIN + timedelta(hours=3)
        tried = [r for p in importer(fake, since=since, until=until).pages() for r in p.runs]
        assert tried == [r for r in calm if r.started_at < until.timestamp()]
        fake.answer = lambda path, query: tired(path, query) if "projects" in path else (422, {"message": "no"}, {})  # type: ignore[method-assign]
        with pytest.raises(ImporterError, match=r"HTTP 422 \(no\)"):
            list(importer(fake).pages())


def test_observations_deleted_while_pages_are_read_hide_no_others() -> None:
    """Pages of the older endpoint are numbered: what lies behind a deleted one moves to a page that was read."""
    with serve(FakeLangfuse(v2=False)) as fake:
        answer, deleted = fake.answer, set()

        def shrinking(path: str, query: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
            if path.endswith("/observations") and query.get("page") == "2" and len(deleted) < 3:
                low, high = query["fromStartTime"], query["toStartTime"]
                newest = max((r for r in fake.rows if low <= _ms(r["startTime"]) < high), key=lambda r: r["startTime"])
                fake.rows.remove(newest)
                deleted.add(newest["id"])
            return answer(path, query)

        fake.answer = shrinking  # type: ignore[method-assign]
        ids = {r.id for p in importer(fake, page_size=10).pages() for r in p.runs}
    assert deleted
    assert ids >= {r["id"] for r in ROWS} - deleted


def test_refused_keys_and_a_dead_server_are_told_without_the_key() -> None:
    with serve(FakeLangfuse()) as fake:
        with pytest.raises(AuthenticationFailed, match="LANGFUSE_SECRET_KEY") as refused:
            importer(fake, secret_key="sk-lf-wrong-0123456789")
        assert len(fake.asked) == 1
        assert "0123456789" not in repr(refused.value)
    with pytest.raises(SourceUnavailable, match="no connection") as dead:
        importer(fake)
    assert SECRET not in repr(dead.value)
    assert AUTH not in repr(dead.value)


def test_the_command(tmp_path: Path) -> None:
    env: dict[str, str | None] = {"TS_LANGCHAIN_LEDGER": str(tmp_path / "l.sqlite")}
    env |= {"LANGFUSE_PUBLIC_KEY": PUBLIC, "LANGFUSE_SECRET_KEY": None}
    with serve(FakeLangfuse()) as fake:
        env["LANGFUSE_HOST"] = fake.url
        args = ["import", "langfuse", "--since", "2026-08-31", "--until", "2026-09-20", "--json"]
        missing = CliRunner().invoke(app, args, env=env)
        assert missing.exit_code == 2
        assert "LANGFUSE_SECRET_KEY" in missing.stderr
        done = CliRunner().invoke(app, args, env={**env, "LANGFUSE_SECRET_KEY": SECRET})
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["rows"]["replayed"] == len(ROWS)
    assert {r["rule"]: r["incidents"] for r in result["rules"]} == {"tool_loop": 14}
    assert SECRET not in done.stdout + done.stderr


CACHED = {"input": 60, "input_cache_read": 40, "output": 5, "output_reasoning": 5, "total": 110}
VERTEX = {"input": 0, "input_modality_TEXT": 60, "cached_modality_TEXT": 40, "cached_content_token_count": 40}
VERTEX |= {"output": 0, "output_modality_TEXT": 20, "thoughts_token_count": 10, "total": 130}
ANTHROPIC = {"input": 10, "cache_read_input_tokens": 80, "cache_creation_input_tokens": 10, "output": 7}


@pytest.mark.parametrize(
    ("row", "usage"),
    [
        ({"usageDetails": CACHED}, (100, 10, 40, 0, 5)),
        ({"usageDetails": {"input": 100, "input_cached_tokens": 40, "output": 10, "total": 110}}, (100, 10, 40, 0, 0)),
        ({"usageDetails": ANTHROPIC}, (100, 7, 80, 10, 0)),
        # what spans counted apart kept its name, within the whole
        (
            {
                "usageDetails": {
                    "input": 100,
                    "prompt_details.cache_read": 40,
                    "prompt_details.audio": 0,
                    "output": 10,
                    "completion_details.reasoning": 5,
                    "total": 110,
                }
            },
            (100, 10, 40, 0, 5),
        ),
        (
            {
                "usageDetails": {
                    "input": 10,
                    "cache_read.input_tokens": 80,
                    "cache_creation.input_tokens": 10,
                    "output": 7,
                }
            },
            (100, 7, 80, 10, 0),
        ),
        # Vercel's SDK: what is written, by how long it is kept
        (
            {
                "usageDetails": {
                    "input": 10,
                    "input_cached_tokens": 50,
                    "input_cache_creation": 0,
                    "input_cache_creation_5m": 30,
                    "input_cache_creation_1h": 10,
                    "output": 7,
                    "total": 107,
                }
            },
            (100, 7, 50, 40, 0),
        ),
        # Vertex AI, as Langfuse's LangChain handler takes it apart: with modalities, and without
        ({"usageDetails": VERTEX}, (100, 30, 40, 0, 10)),
        (
            {
                "usageDetails": {
                    "input": 100,
                    "cached_content_token_count": 40,
                    "output": 20,
                    "thoughts_token_count": 10,
                    "total": 130,
                }
            },
            (100, 30, 40, 0, 10),
        ),
        ({"usage": {"input": 9, "output": 3, "unit": "TOKENS"}}, (9, 3, 0, 0, 0)),
        ({"usage": {"input": 9, "output": 3, "unit": "CHARACTERS"}}, None),
        ({"usageDetails": {k: str(v) for k, v in CACHED.items()}}, (100, 10, 40, 0, 5)),
        ({"usageDetails": {k: float(v) for k, v in CACHED.items()}}, (100, 10, 40, 0, 5)),
        ({"usageDetails": {"input": "many"}, "usage": None}, None),
        ({}, None),
    ],
)
def test_usage(row: dict[str, Any], usage: tuple[int, ...] | None) -> None:
    read = _usage(row)
    if usage is None:
        assert read is None
        return
    assert read is not None
    ins, outs = read["input_token_details"], read["output_token_details"]
    found = (read["input_tokens"], read["output_tokens"], ins["cache_read"], ins["cache_creation"], outs["reasoning"])
    assert found == usage


ITEMS: list[dict[str, Any]] = [
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "message", "id": "m_1", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "find", "arguments": '{"what": "it"}'},
]


def test_cache_writes_of_a_tier_as_langfuses_langchain_handler_records_them() -> None:
    """langchain-openai counts them within the tokens of the tier; the handler takes all of them off the input."""
    counts = {"input": 0, "input_flex": 8000, "input_flex_cache_read": 2000, "input_flex_cache_creation": 6000}
    counts |= {"output": 0, "output_flex": 200, "output_flex_reasoning": 300, "total": 10_500}
    row = {"id": "g", "traceId": "t", "type": "GENERATION", "model": "gpt-6-luna", "usageDetails": counts}
    run = run_from_observation({**row, "startTime": "2026-11-01T10:00:00Z", "endTime": "2026-11-01T10:00:01Z"})
    assert isinstance(run, Run)
    [call] = replay_of(run).seen
    assert (call.usage, call.tier) == (Usage(10_000, 500, 2000, 6000, 300), "flex")


def test_what_langfuses_openai_client_and_decorator_record() -> None:
    """`langfuse.openai` hands on the items of the responses API, `@observe` positional and named arguments."""
    at = {"startTime": "2026-11-01T10:00:00Z", "endTime": "2026-11-01T10:00:01Z", "traceId": "t", "sessionId": "s"}
    answered = {"type": "function_call_output", "call_id": "call_1", "output": "there"}
    generation = {
        **at, "id": "g", "type": "GENERATION", "model": "gpt-5", "output": ITEMS,
        "input": {"input": [{"role": "user", "content": "Where?"}, ITEMS[2], answered]},
        "modelParameters": {"service_tier": "flex", "max_tokens": "Infinity"},
        "usageDetails": {"input": 976, "input_cached_tokens": 1024, "output": 56, "output_reasoning_tokens": 64,
                         "total": 2120},
    }  # fmt: skip
    searches = [
        {**at, "id": f"r{n}", "type": "RETRIEVER", "name": "docs", "input": {"args": [q], "kwargs": {}},
         "output": [f"about {q}"]}
        for n, q in enumerate(["one", "two", "one"])
    ]  # fmt: skip
    runs = [run_from_observation(row) for row in (generation, *searches)]
    recorder = replay_of(*(run for run in runs if isinstance(run, Run)))
    assert len(recorder.seen) == len(runs)
    [model] = [c for c in recorder.seen if c.kind == "model"]
    assert (model.usage, model.tier, model.max_tokens) == (Usage(2000, 120, 1024, reasoning_tokens=64), "flex", None)
    assert [(t.id, t.name) for t in model.tool_calls] == [("call_1", "find")]
    assert model.prompt is not None
    assert (model.prompt.messages, model.prompt.last_role) == (3, "tool")
    one, two, again = sorted((c for c in recorder.seen if c.kind == "retriever"), key=lambda c: c.id)
    assert one.arguments == again.arguments != two.arguments
    assert one.items == again.items != two.items


def test_prompt_and_environment_are_kept_as_metadata() -> None:
    row = {**ROWS[0], "promptName": "support", "promptVersion": 3, "environment": "production"}
    run = run_from_observation(row)
    assert isinstance(run, Run)
    kept = {"prompt_name": "support", "prompt_version": 3, "environment": "production"}
    assert run.metadata == {**kept, "ls_provider": "openai", "ls_model_name": "gpt-4o"}
    own = run_from_observation({**row, "metadata": {"environment": "mine"}, "promptName": "", "promptVersion": None})
    assert isinstance(own, Run)
    assert own.metadata == {"environment": "mine", "ls_model_name": "gpt-4o"}


@pytest.mark.parametrize(
    ("says", "name"),
    [
        ("Command(graph='__parent__', goto='b')", "ParentCommand"),
        (
            "tool_loop: `x` ran 5 times. The next model call of session 's' was not sent. What to do: wait.",
            "WasteBlocked",
        ),
        ("The budget of $1 a day is spent. Nothing was sent.", "WasteBlocked"),
        ("(Interrupt(value='May it?'),)", "GraphInterrupt"),
        ("", "CancelledError"),
        ("ValueError: 3 is none", "ValueError"),
        ("Mueller4711: unknown customer", "Error"),
    ],
)
def test_what_a_chain_failed_of(says: str, name: str) -> None:
    """There is no name of an exception: control flow and our own vetoes lose no answers."""
    row = {**ROWS[0], "type": "CHAIN", "level": "ERROR", "statusMessage": says}
    failed = run_from_observation(row)
    assert isinstance(failed, Run)
    assert error_name(failed.error or "") == name


def test_an_empty_text_is_an_answer_only_of_what_came_to_an_end() -> None:
    """The newer tables, and what the web page downloads of them, write what is not there as an empty text."""
    generation, tool = ROWS[0], ROWS[1]
    for row in (generation, tool):
        unfinished = run_from_observation({**row, "output": "", "endTime": None})
        assert isinstance(unfinished, Skipped)
        assert unfinished.why == "still running"
        failed = run_from_observation({**row, "output": "", "level": "ERROR", "statusMessage": "429"})
        assert isinstance(failed, Run)
        assert (failed.outputs, failed.error) == (None, "429")
    silent = run_from_observation({**tool, "output": "", "parentObservationId": "", "sessionId": ""})
    assert isinstance(silent, Run)
    assert (silent.outputs, silent.parent_id, silent.thread_id) == ({"output": ""}, None, None)


@given(st.sampled_from(sorted({k for r in ROWS for k in r})), odd)
def test_one_field_of_any_type(field: str, value: Any) -> None:
    for row in (ROWS[0], ROWS[1]):
        run = run_from_observation({**row, field: value})
        if isinstance(run, Run):
            assert replayed(run).health().faults == {}
        else:
            assert run is None or (isinstance(run, Skipped) and run.why)
