"""Bulk exports: runs/s and peak memory of an import from Parquet, and of reading the rows alone.

    python benchmarks/parquet.py [RUNS ...]

A LangSmith bulk export is written: a folder per day, in each a file with its rows in no order. Sessions of sixteen
runs, a model call and a tool in turn, 0.7 KB a row. Each side runs in a process of its own, so that peak memory (the
process's largest resident set) is each one's own: `read` only takes the pages, `import` is everything that
`ts-langchain import parquet` does: all rules, pricing, checkpoints in an SQLite ledger.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from measure import child

TARGET_MEMORY, TARGET_GROWTH = 300.0, 1.2
ROWS_A_DAY = 100_000
# i: number of the run; s: its session; t: its turn
ROWS = """
SELECT printf('%08x-0000-4000-8000-%012x', s, t) AS id,
       'tenant' AS tenant_id, 'project' AS session_id,
       printf('%08x-0000-4000-8000-ffffffffffff', s) AS trace_id,
       NULL::VARCHAR AS parent_run_id, []::VARCHAR[] AS parent_run_ids,
       CASE WHEN t % 2 = 0 THEN 'ChatOpenAI' ELSE 'find_figures' END AS name,
       CASE WHEN t % 2 = 0 THEN 'llm' ELSE 'tool' END AS run_type,
       begun AS start_time, begun + INTERVAL 900 MILLISECOND AS end_time,
       'success' AS status, false AS is_root, NULL::VARCHAR AS error, ['agent'] AS tags,
       CASE WHEN t % 2 = 0 THEN '{"messages": [{"role": "user", "content": "Question ' || s || ', turn ' || t ||
           ': which figures of the quarter are missing, and who is to be asked for them?"}]}'
            ELSE '{"query": "figures ' || s || ' quarter ' || t || '"}' END AS inputs,
       CASE WHEN t % 2 = 0 THEN '{"generations": [[{"message": {"role": "assistant", "content": "", "tool_calls": '
           || '[{"id": "call_' || s || '_' || (t + 1) || '", "type": "function", "function": {"name": "find_figures", '
           || '"arguments": "{\\"query\\": \\"figures ' || s || ' quarter ' || (t + 1) || '\\"}"}}]}}]]}'
            ELSE '{"output": {"role": "tool", "content": "figure ' || (s * 31 + t) || '", "tool_call_id": "call_'
           || s || '_' || t || '"}}' END AS outputs,
       '{"metadata": {"thread_id": "thread-' || s || '", "ls_provider": "openai", "ls_model_name": "gpt-4o"}, '
           || '"invocation_params": {"model": "gpt-4o", "temperature": 0.2}}' AS extra,
       400 + 20 * t AS prompt_tokens, 40 AS completion_tokens, 440 + 20 * t AS total_tokens,
       0.0014::DECIMAL(18, 10) AS total_cost,
       year(begun) AS year, month(begun) AS month, day(begun) AS day
FROM (
    SELECT i, i // 640 * 40 + i % 40 AS s, i % 640 // 40 AS t,
           TIMESTAMP '2026-09-01' + to_microseconds(CAST(i AS BIGINT) * (86400000000 // {a_day})) AS begun
    FROM range({runs}) r(i)
)
"""


def write_export(folder: Path, runs: int) -> int:
    """Writes an export. Returns its bytes."""
    import duckdb

    db = duckdb.connect()
    rows = ROWS.replace("{runs}", str(runs)).replace("{a_day}", str(ROWS_A_DAY))
    runs_folder = folder / "export_id=e" / "tenant_id=tenant" / "session_id=project" / "runs"
    runs_folder.mkdir(parents=True)
    db.execute(
        f"COPY (SELECT * FROM ({rows}) ORDER BY hash(id)) TO '{runs_folder}'"  # noqa: S608 - a folder of our own
        " (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (year, month, day))"
    )
    return sum(p.stat().st_size for p in folder.rglob("*.parquet"))


def write_elsewhere(folder: Path, runs: int) -> int:
    """The same in a process of its own: a child's peak memory begins at its parent's."""
    return int(child(__file__, "--write", str(folder), str(runs)))


def read(folder: Path) -> int:
    """Takes the pages and nothing else."""
    from ts_importers.parquet import ParquetImporter

    return sum(len(page.runs) for page in ParquetImporter(folder).pages())


def whole(folder: Path) -> int:
    """A whole import."""
    from ts_importers.parquet import ParquetImporter
    from ts_langchain.history import Import
    from ts_langchain.ledger import Ledger

    with tempfile.TemporaryDirectory() as scratch:
        ledger = Ledger(Path(scratch) / "ledger.sqlite")
        return Import(ParquetImporter(folder), ledger).run().runs


def measure(what: str, folder: Path) -> tuple[float, float, int]:
    """Seconds, peak MB and runs of one side, in a process of its own."""
    seconds, peak, runs = json.loads(child(__file__, "--run", what, str(folder)))
    return seconds, peak, runs


def run_side(what: str, folder: Path) -> None:
    """The child process."""
    begin = time.perf_counter()
    runs = {"read": read, "import": whole}[what](folder)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    print(json.dumps([seconds, peak, runs]))


def main(sizes: list[int]) -> int:
    """Prints the table. Exit code 1 if a target is missed."""
    peaks: list[float] = []
    print(f"{'runs':>9} {'MB':>6} {'read runs/s':>12} {'peak MB':>8} {'import runs/s':>14} {'peak MB':>8}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for runs in sizes:
            folder = Path(scratch) / str(runs)
            size = write_elsewhere(folder, runs)
            seconds, peak, seen = measure("read", folder)
            assert seen == runs
            print(f"{runs:9,} {size / 1e6:6.0f} {runs / seconds:12,.0f} {peak:8.0f}", end=" ", flush=True)
            seconds, peak, seen = measure("import", folder)
            assert seen == runs
            peaks.append(peak)
            print(f"{runs / seconds:14,.0f} {peak:8.0f}", flush=True)
    checks = [
        ("peak memory MB", max(peaks), max(peaks) < TARGET_MEMORY, f"< {TARGET_MEMORY:.0f}"),
        ("memory growth", peaks[-1] / peaks[0], peaks[-1] / peaks[0] <= TARGET_GROWTH, f"≤ {TARGET_GROWTH}"),
    ]
    for name, value, met, target in checks:
        print(f"{name:22} {value:6.2f}  target {target}  {'ok' if met else 'MISSED'}")
    return 0 if all(met for _, _, met, _ in checks) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_side(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["--write"]:
        print(write_export(Path(sys.argv[2]), int(sys.argv[3])))
    else:
        sys.exit(main([int(a) for a in sys.argv[1:]] or [100_000, 1_000_000]))
