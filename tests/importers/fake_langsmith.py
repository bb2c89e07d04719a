"""A local LangSmith: the project look-up and both run queries, with faults to switch on.

Faithful where importers got it wrong: v2 answers newest first, only what `selects` names (else ids only),
`min_start_time` is a day ago when left out, cursors are opaque, and `session_id` of a row is the project.
"""

from __future__ import annotations

import json
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from servers.serving import Quiet, listening

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "lsv2_pt_not_a_real_key_0123456789"
PROJECT = "6f1c7a52-4b8e-4d7b-9a55-0c3e7b9f2a11"


@dataclass
class FakeLangSmith:
    """What the server holds and how it misbehaves."""

    rows: list[dict[str, Any]]
    projects: dict[str, str] = field(default_factory=lambda: {"my-agent": PROJECT})
    workspace: str | None = None
    v2: bool = True
    faults: list[str] = field(default_factory=list)
    """Taken one per run query: rate_seconds, rate_date, rate_bare, bad_gateway, truncated, reset, cursor."""
    doubled: bool = False
    experiments: dict[str, str] = field(default_factory=dict)
    """Projects that hold an experiment on a dataset."""
    knows_reference_free: bool = True
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    def query(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answers a run query."""
        new = path.startswith("/api/v2")
        if new:
            low = _time(body.get("min_start_time") or (datetime.now(tz=UTC) - timedelta(days=1)).isoformat())
            high = _time(body.get("max_start_time") or datetime.now(tz=UTC).isoformat())
            projects = body["project_ids"]
        else:
            low = _time(body.get("start_time", BEGIN.isoformat()))
            high = datetime.now(tz=UTC)
            projects = body["session"]
        ids = body.get("ids" if new else "id")
        assert projects == [str(UUID(project)) for project in projects]
        roots = {r["trace_id"]: r for r in self.rows if not r.get("parent_run_id")}
        found = [
            r
            for r in self.rows
            if low <= _time(r["start_time"]) <= high
            and (ids is None or r["id"] in ids)
            and r["session_id"] in projects
            and _holds(body.get("filter"), r)
            and _holds(body.get("trace_filter"), roots[r["trace_id"]])
            and (body.get("is_root") is None or body["is_root"] == (not r.get("parent_run_id")))
        ]
        found.sort(key=lambda r: r["start_time"], reverse=new or body.get("order") != "asc")
        if self.doubled:
            found = [r for row in found for r in (row, row)]
        size = body["page_size"] if new else body["limit"]
        assert size <= (1000 if new else 100)
        start = int(body["cursor"].removeprefix("opaque-")) if body.get("cursor") else 0
        part = found[start : start + size]
        following = f"opaque-{start + size}" if start + size < len(found) else None
        if new:
            names = [s.lower() for s in body.get("selects") or ["ID"]]
            items = [{k: v for k, v in _as_v2(row).items() if k in names} for row in part]
            return {"items": items, "next_cursor": following}
        return {
            "runs": [{k: row.get(k) for k in (*body["select"], "session_id")} for row in part],
            "cursors": {"next": following},
        }


def _holds(expression: str | None, row: dict[str, Any]) -> bool:
    """Evaluates a filter: and, or, eq, has, lt; the part of LangSmith's query language that is used here."""
    if expression is None:
        return True
    name, _, rest = expression.partition("(")
    parts, depth, part, quoted = [], 0, "", False
    for letter in rest.removesuffix(")"):
        quoted ^= letter == '"'
        depth += (letter == "(") - (letter == ")") if not quoted else 0
        if letter == "," and not depth and not quoted:
            parts.append(part.strip())
            part = ""
        else:
            part += letter
    parts.append(part.strip())
    if name in ("and", "or"):
        return (all if name == "and" else any)(_holds(p, row) for p in parts)
    value, wanted = row.get(parts[0]), json.loads(parts[1])
    if name == "eq":
        return bool(value == wanted)
    if name == "has":
        return wanted in (value or [])
    assert (name, parts[0]) == ("lt", "start_time"), expression
    return _time(str(value)) < _time(wanted)


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _as_v2(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the v2 endpoint shapes it."""
    metadata = (row.get("extra") or {}).get("metadata") or {}
    new = {k: v for k, v in row.items() if k not in ("session_id", "parent_run_id")}
    new["project_id"] = row["session_id"]
    new["run_type"] = str(row["run_type"]).upper()
    new["parent_run_ids"] = [row["parent_run_id"]] if row.get("parent_run_id") else []
    new["thread_id"] = metadata.get("thread_id")
    new["status"] = "ERROR" if row.get("error") else "SUCCESS"
    for name in ("prompt_token_details", "completion_token_details"):
        if row.get(name):
            new[name] = {"raw": row[name]}
    return new


@contextmanager
def serve(fake: FakeLangSmith) -> Iterator[FakeLangSmith]:
    """Runs the server on a free port of the loopback interface."""

    class Handler(Quiet):
        def answer(self, status: int, body: Any, **headers: str) -> None:
            self.send(status, json.dumps(body).encode(), **headers)

        def refused(self) -> bool:
            if self.headers.get("x-api-key") != KEY:
                self.answer(401, {"detail": "Invalid token"})
                return True
            return False

        def do_GET(self) -> None:
            fake.requests.append((self.path, {}))
            if self.refused():
                return
            url = urlsplit(self.path)
            asked = parse_qs(url.query)
            rows: list[dict[str, Any]] = [
                {"id": i, "name": n, "tenant_id": fake.workspace} for n, i in fake.projects.items()
            ]
            rows += [{"id": i, "name": n, "reference_dataset_id": PROJECT} for n, i in fake.experiments.items()]
            if url.path == "/api/v1/sessions":
                name = asked.get("name", [None])[0]
                if asked.get("reference_free") == ["true"] and fake.knows_reference_free:
                    rows = [r for r in rows if "reference_dataset_id" not in r]
                start, size = int(asked.get("offset", ["0"])[0]), int(asked.get("limit", ["100"])[0])
                assert size <= 100
                self.answer(200, [r for r in rows if name in (None, r["name"])][start : start + size])
            else:
                found = [r for r in rows if url.path.endswith(r["id"])]
                self.answer(200, found[0]) if found else self.answer(404, {"detail": "not found"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            fake.requests.append((self.path, body))
            if self.refused():
                return
            if self.path.startswith("/api/v2") and not fake.v2:
                self.answer(404, {"detail": "Not Found"})
                return
            fault = fake.faults.pop(0) if fake.faults else None
            if fault == "rate_seconds":
                self.answer(429, {}, retry_after="7")
            elif fault == "rate_date":
                self.answer(429, {}, retry_after=formatdate(time.time() + 30, usegmt=True))
            elif fault == "rate_bare":
                self.answer(429, {})
            elif fault == "bad_gateway":
                self.answer(502, {})
            elif fault == "cursor" and body.get("cursor"):
                self.answer(422, {"detail": "cursor expired"})
            elif fault in ("truncated", "reset"):
                data = json.dumps(fake.query(self.path, body)).encode()
                # a reset leaves the promised length unfulfilled; a truncation by a proxy does not
                self.send(200, data[: len(data) // 2], len(data) if fault == "reset" else None)
                self.close_connection = True
            else:
                self.answer(200, fake.query(self.path, body))

    with listening(Handler) as port:
        fake.url = f"http://127.0.0.1:{port}"
        yield fake


BEGIN = datetime(2026, 9, 1, tzinfo=UTC)


def agent_rows(sessions: int, turns: int = 4, seed: int = 1) -> list[dict[str, Any]]:
    """Rows of agents that look something up; every third one loops."""
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(sessions):
        trace = str(UUID(int=chance.getrandbits(128), version=4))
        at = BEGIN + timedelta(seconds=chance.randrange(20 * 86_400), microseconds=chance.randrange(1_000_000))
        history: list[dict[str, Any]] = [
            {"role": "system", "content": "You are a careful assistant."},
            {"role": "user", "content": f"Question {number}"},
        ]
        rows.append(_row(trace, "chain", "agent", at, at + timedelta(seconds=turns * 4), trace, None))
        for turn in range(turns):
            page = "a" if number % 3 == 0 else str(turn)
            call = {
                "id": f"call_{number}_{turn}",
                "type": "function",
                "function": {
                    "name": "fetch_page",
                    "arguments": json.dumps({"url": f"https://example.com/{page}"}),
                },
            }
            answer = {"role": "assistant", "content": None, "tool_calls": [call]}
            model = _row(
                str(UUID(int=chance.getrandbits(128), version=4)), "llm", "ChatOpenAI",
                at + timedelta(seconds=4 * turn), at + timedelta(seconds=4 * turn + 2), trace, trace,
            )  # fmt: skip
            sent = 200 + 100 * turn
            model |= {
                "inputs": {"messages": list(history)},
                "outputs": {
                    "choices": [{"message": answer, "finish_reason": "tool_calls"}],
                    "model": "gpt-4o-2024-08-06",
                },
                "prompt_tokens": sent,
                "completion_tokens": 20,
                "prompt_token_details": {"cache_read": sent // 4},
                "prompt_cost": None,
            }
            model["extra"] = {
                "invocation_params": {"model": "gpt-4o", "temperature": 0},
                "metadata": {
                    "thread_id": f"thread-{number}",
                    "ls_provider": "openai",
                    "ls_model_name": "gpt-4o",
                },
            }
            tool = _row(
                str(UUID(int=chance.getrandbits(128), version=4)), "tool", "fetch_page",
                at + timedelta(seconds=4 * turn + 2), at + timedelta(seconds=4 * turn + 3), trace, trace,
            )  # fmt: skip
            result = {
                "type": "tool",
                "content": f"page {page}",
                "tool_call_id": call["id"],
                "status": "success",
            }
            tool |= {"inputs": {"url": f"https://example.com/{page}"}, "outputs": {"output": result}}
            tool["extra"] = {"tool_call_id": call["id"], "metadata": {"thread_id": f"thread-{number}"}}
            rows += [model, tool]
            history = [
                *history,
                answer,
                {"role": "tool", "tool_call_id": call["id"], "content": f"page {page}"},
            ]
    rows.sort(key=lambda r: r["start_time"])
    return rows


def _row(
    run_id: str, kind: str, name: str, start: datetime, end: datetime, trace: str, parent: str | None
) -> dict[str, Any]:
    return {
        "id": run_id,
        "name": name,
        "run_type": kind,
        "start_time": start.isoformat(),
        "end_time": end.isoformat(),
        "trace_id": trace,
        "parent_run_id": parent,
        "dotted_order": f"{start:%Y%m%dT%H%M%S%fZ}{run_id}",
        "session_id": PROJECT,
        "inputs": {},
        "outputs": {},
        "extra": {},
        "error": None,
        "tags": [],
    }
