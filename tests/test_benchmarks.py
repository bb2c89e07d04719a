"""The benchmarks run and print their tables. What they measure is theirs to judge: nothing here depends on time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    ("name", "size", "shows"),
    [
        ("replay", "300", r"^ +300 .*peak memory MB"),
        ("service", "500", r"^floor +[\d,]+ .*^candidate +[\d,]+ "),
        ("parquet", "1000", r"^ +1,000 .*peak memory MB"),
    ],
)
def test_a_benchmark_runs_at_a_small_size(name: str, size: str, shows: str) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), size], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    assert re.search(shows, done.stdout, re.MULTILINE | re.DOTALL), done.stdout


def test_live_measures_both_sides() -> None:
    code = "import live; print(*live.added(2, 0, 5))"
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True)
    noop, ours = map(float, done.stdout.split())
    assert noop == noop  # numbers, not NaN
    assert ours == ours
