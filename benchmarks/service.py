"""Import from a service: runs/s end to end, from a local server that answers at once.

    python benchmarks/service.py [RUNS]

A server in a process of its own holds small LangSmith rows, already as JSON, and answers v2 run queries. Floor and
candidate alternate, each in a process of its own: the floor asks for the same windows with the same HTTP client, 1000
rows a page, and parses the answers with `json.loads`; the candidate is everything `ts-langchain import langsmith` does.
CPU seconds are those of the importing process alone.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from measure import child

ROUNDS = 3
TARGET = 5_000
BEGIN = datetime(2026, 9, 1, tzinfo=UTC)
PROJECT = "6f1c7a52-4b8e-4d7b-9a55-0c3e7b9f2a11"
PAGE = 1_000


def small_rows(runs: int) -> list[tuple[float, bytes]]:
    """Start time and JSON of rows: sessions of four questions and answers, 20 of them at a time, a call a second."""
    rows = []
    for number in range(runs):
        session, turn = number // 80 * 20 + number % 20, number // 20 % 4
        at = BEGIN + timedelta(seconds=number)
        said = f"Question {turn} of customer {session}: where is order {session * 7 + turn}?"
        row = {
            "id": f"{number:08x}-0000-4000-8000-000000000000",
            "name": "ChatOpenAI",
            "run_type": "LLM",
            "start_time": at.isoformat(),
            "end_time": (at + timedelta(seconds=0.9)).isoformat(),
            "trace_id": f"{number:08x}-0000-4000-8000-00000000000f",
            "thread_id": f"thread-{session}",
            "status": "SUCCESS",
            "inputs": {"messages": [{"role": "user", "content": said}]},
            "outputs": {"choices": [{"message": {"role": "assistant", "content": f"Order {number} is on its way."}}]},
            "extra": {"metadata": {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini"}},
            "prompt_tokens": 40,
            "completion_tokens": 10,
            "tags": [],
        }
        rows.append((at.timestamp(), json.dumps(row).encode()))
    return rows


def serve(runs: int) -> None:
    """Answers until it is killed. Prints its port."""
    rows = small_rows(runs)
    times = [at for at, _ in rows]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Silence."""

        def send(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            """The project."""
            self.send(json.dumps([{"id": PROJECT, "name": "bench"}]).encode())

        def do_POST(self) -> None:
            """A page of runs."""
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            low = bisect_left(times, datetime.fromisoformat(asked["min_start_time"]).timestamp())
            high = bisect_right(times, datetime.fromisoformat(asked["max_start_time"]).timestamp())
            start = low + int(asked.get("cursor") or 0)
            end = min(high, start + asked["page_size"])
            following = json.dumps(str(end - low) if end < high else None).encode()
            items = b",".join(row for _, row in rows[start:end])
            self.send(b'{"items":[' + items + b'],"next_cursor":' + following + b"}")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


def floor(url: str, runs: int) -> int:
    """All pages, parsed."""
    import httpx2

    count = 0
    with httpx2.Client(base_url=url) as client:
        for start in range(0, runs, PAGE):
            low = BEGIN + timedelta(seconds=start)
            body = {
                "min_start_time": low.isoformat(),
                "max_start_time": (low + timedelta(seconds=PAGE - 1)).isoformat(),
                "page_size": PAGE,
            }
            count += len(json.loads(client.post("/api/v2/runs/query", json=body).content)["items"])
    return count


def candidate(url: str, runs: int) -> int:
    """A whole import."""
    from ts_importers.langsmith import LangSmithImporter
    from ts_langchain.history import Import
    from ts_langchain.ledger import Ledger

    with tempfile.TemporaryDirectory() as scratch:
        source = LangSmithImporter(
            project="bench", api_key="none", endpoint=url, since=BEGIN, until=BEGIN + timedelta(seconds=runs)
        )
        return Import(source, Ledger(Path(scratch) / "ledger.sqlite")).run().runs


def run_side(what: str, url: str, runs: int) -> None:
    """The child process."""
    begin = time.perf_counter()
    rows = {"floor": floor, "candidate": candidate}[what](url, runs)
    print(json.dumps([time.perf_counter() - begin, time.process_time(), rows]))


def main(runs: int) -> int:
    """Prints the table. Exit code 1 if the target is missed."""
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(runs)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = f"http://127.0.0.1:{int(server.stdout.readline())}"
    found: dict[str, list[tuple[float, float]]] = {"floor": [], "candidate": []}
    try:
        for _ in range(ROUNDS):
            for what, rounds in found.items():
                seconds, cpu, rows = json.loads(child(__file__, "--run", what, url, str(runs)))
                assert rows == runs
                rounds.append((seconds, cpu))
    finally:
        server.kill()
    print(f"{'':12} {'runs/s':>8} {'CPU µs a run':>13}")
    for what, rounds in found.items():
        seconds, cpu = (statistics.median(r[i] for r in rounds) for i in (0, 1))
        print(f"{what:12} {runs / seconds:8,.0f} {cpu / runs * 1e6:13.1f}")
    ours = runs / statistics.median(r[0] for r in found["candidate"])
    ratio = statistics.median(a[1] / b[1] for a, b in zip(found["floor"], found["candidate"], strict=True))
    print(f"floor / import in CPU time {ratio:.2f}")
    print(f"runs/s {ours:8,.0f}  target ≥ {TARGET:,}  {'ok' if ours >= TARGET else 'MISSED'}")
    return 0 if ours >= TARGET else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]))
    elif sys.argv[1:2] == ["--run"]:
        run_side(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 40_000))
