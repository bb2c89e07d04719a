"""Replay: runs/s and peak memory of an import, against a bare `json.loads` of the same bytes.

    python benchmarks/replay.py [RUNS ...]

A file of LangSmith runs is written: interleaved agent sessions of 16 model turns with tools, their history growing
with each turn, 6 to 7 KB a row as LangSmith records them. Floor and candidate alternate, each in a process of its
own, so that peak memory (the process's largest resident set) is each one's own. The candidate is everything
`ts-langchain import file` does: reading, all rules, pricing, checkpoints in an SQLite ledger.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from measure import child

ROUNDS = 3
TARGET_SPEED, TARGET_MEMORY, TARGET_GROWTH = 0.5, 150.0, 1.2
TURNS = 16
OPEN_SESSIONS = 40
BEGIN = datetime(2026, 9, 1, tzinfo=UTC)
FILLER = "The committee asked for figures by quarter, with sources, and for a short note on what is missing. "


def message(kind: str, content: str, **fields: object) -> dict[str, object]:
    """A message as LangChain serialises it."""
    name = {"human": "HumanMessage", "ai": "AIMessage", "tool": "ToolMessage", "system": "SystemMessage"}[kind]
    kwargs = {"content": content, "type": kind, **fields}
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", name], "kwargs": kwargs}


class Session:
    """An agent at work: a model turn that asks for a tool, the tool, the next turn."""

    def __init__(self, number: int, at: datetime) -> None:
        self.number, self.turn, self.at = number, 0, at
        self.history = [
            message("system", "You help analysts. " + FILLER * 2),
            message("human", f"Question {number}: " + FILLER * 2),
        ]

    def row(self, kind: str, name: str, took: float, inputs: object, outputs: object, **extra: object) -> str:
        """One LangSmith row."""
        start, self.at = self.at, self.at + timedelta(seconds=took)
        run_id = f"{self.number:08x}-0000-4000-8000-{self.turn:04x}{kind == 'tool':08x}"
        metadata = {"thread_id": f"thread-{self.number}", "ls_provider": "openai", "ls_model_name": "gpt-4o"}
        return json.dumps(
            {
                "id": run_id,
                "name": name,
                "run_type": kind,
                "start_time": start.isoformat(),
                "end_time": self.at.isoformat(),
                "trace_id": f"{self.number:08x}-0000-4000-8000-ffffffffffff",
                "status": "success",
                "inputs": inputs,
                "outputs": outputs,
                "extra": {"metadata": metadata, **extra},
            }
        )

    def step(self) -> list[str]:
        """The rows of one turn."""
        n = self.turn
        call_id = f"call_{self.number}_{n}"
        args = {"query": f"figures {self.number} quarter {n}", "limit": 10, "region": "emea"}
        call = {"name": "find_figures", "args": args, "id": call_id, "type": "tool_call"}
        usage = {"input_tokens": 400 + 90 * n, "output_tokens": 40, "total_tokens": 440 + 90 * n}
        answer = message(
            "ai",
            "",
            tool_calls=[call],
            usage_metadata=usage,
            response_metadata={"model_name": "gpt-4o", "finish_reason": "tool_calls"},
        )
        result = message(
            "tool", f"{n}: {FILLER}{self.number * 31 + n} " + FILLER * 4, tool_call_id=call_id, status="success"
        )
        rows = [
            self.row(
                "llm",
                "ChatOpenAI",
                1.5,
                {"messages": [self.history]},
                {"generations": [[{"text": "", "message": answer}]]},
                invocation_params={"model": "gpt-4o", "temperature": 0.2},
            ),
            self.row("tool", "find_figures", 0.4, args, {"output": result}, tool_call_id=call_id),
        ]
        self.history += [answer, result]
        self.turn += 1
        self.at += timedelta(seconds=1)
        return rows


def write_history(path: Path, runs: int) -> int:
    """Writes a history of that many runs in order of time. Returns its bytes."""
    sessions = [Session(i, BEGIN + timedelta(milliseconds=70 * i)) for i in range(OPEN_SESSIONS)]
    opened, written = OPEN_SESSIONS, 0
    with path.open("w") as file:
        pending: list[tuple[str, str]] = []
        while written + len(pending) < runs:
            session = min(sessions, key=lambda s: s.at)
            # tools start later than the next session's turn may: lines leave in order of their start
            pending += [(json.loads(row)["start_time"], row) for row in session.step()]
            if session.turn >= TURNS:
                sessions.remove(session)
                sessions.append(Session(opened, session.at))
                opened += 1
            pending.sort()
            horizon = min(s.at for s in sessions).isoformat()
            while pending and pending[0][0] <= horizon and written < runs:
                file.write(pending.pop(0)[1] + "\n")
                written += 1
        for _, row in pending[: runs - written]:
            file.write(row + "\n")
    return path.stat().st_size


def floor(path: Path) -> int:
    """A bare `json.loads` of each line."""
    rows = 0
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
            rows += 1
    return rows


def candidate(path: Path) -> int:
    """A whole import."""
    from ts_importers.files import FileImporter
    from ts_langchain.history import Import
    from ts_langchain.ledger import Ledger

    with tempfile.TemporaryDirectory() as scratch:
        ledger = Ledger(Path(scratch) / "ledger.sqlite")
        return Import(FileImporter(path), ledger).run().runs


def measure(what: str, path: Path) -> tuple[float, float]:
    """Seconds and peak MB of one side, in a process of its own."""
    seconds, peak, _ = json.loads(child(__file__, "--run", what, str(path)))
    return seconds, peak


def run_side(what: str, path: Path) -> None:
    """The child process."""
    begin = time.perf_counter()
    rows = {"floor": floor, "candidate": candidate}[what](path)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    print(json.dumps([seconds, peak, rows]))


def main(sizes: list[int]) -> int:
    """Prints the table. Exit code 1 if a target is missed."""
    ratios: list[float] = []
    peaks: list[float] = []
    print(f"{'runs':>8} {'KB/run':>7} {'json.loads runs/s':>18} {'import runs/s':>14} {'ratio':>6} {'peak MB':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        for runs in sizes:
            path = Path(scratch) / f"{runs}.jsonl"
            size = write_history(path, runs)
            pairs = [(measure("floor", path), measure("candidate", path)) for _ in range(ROUNDS)]
            path.unlink()
            bare = statistics.median(a[0] for a, _ in pairs)
            ours = statistics.median(b[0] for _, b in pairs)
            ratios.append(statistics.median(a[0] / b[0] for a, b in pairs))
            peaks.append(max(b[1] for _, b in pairs))
            print(
                f"{runs:8,} {size / runs / 1000:7.1f} {runs / bare:18,.0f} {runs / ours:14,.0f} "
                f"{ratios[-1]:6.2f} {peaks[-1]:8.0f}"
            )
    checks = [
        ("import / json.loads", min(ratios), min(ratios) >= TARGET_SPEED, f"≥ {TARGET_SPEED}"),
        ("peak memory MB", max(peaks), max(peaks) < TARGET_MEMORY, f"< {TARGET_MEMORY:.0f}"),
        ("memory growth", peaks[-1] / peaks[0], peaks[-1] / peaks[0] <= TARGET_GROWTH, f"≤ {TARGET_GROWTH}"),
    ]
    for name, value, met, target in checks:
        print(f"{name:22} {value:6.2f}  target {target}  {'ok' if met else 'MISSED'}")
    return 0 if all(met for _, _, met, _ in checks) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_side(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main([int(a) for a in sys.argv[1:]] or [10_000, 100_000]))
