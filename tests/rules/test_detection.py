"""The labelled cases are what their generator says, and what is checked in is what they give."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

from ts_langchain.rules import RULES

HERE = Path(__file__).parents[2] / "benchmarks" / "detection"
ROOT = Path(__file__).parent.parent.parent


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"detection_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cases_are_what_their_generator_writes() -> None:
    assert gzip.decompress((HERE / "cases.jsonl.gz").read_bytes()) == load("make_cases").lines()


def test_there_are_twelve_of_each_and_no_two_alike() -> None:
    cases = [json.loads(line) for line in gzip.decompress((HERE / "cases.jsonl.gz").read_bytes()).splitlines()]
    assert Counter((c["rule"], c["positive"]) for c in cases) == {(r, p): 12 for r in RULES for p in (True, False)}
    assert len({json.dumps(c["rows"]) for c in cases}) == len(cases)
    assert all(c["provable"] in {r["id"] for r in c["rows"]} for c in cases if c["positive"])


def test_what_issue_and_readme_promise() -> None:
    figures = json.loads((HERE / "figures.json").read_text())
    assert figures["recall"] >= 0.95
    assert figures["precision"] >= 0.95
    assert figures["precision_at_confidence_0.9"] >= 0.9
    assert figures["median_delay_calls"] <= 1
    assert figures["false_alarms_per_100_real_sessions"] <= 1


def test_the_pages_tell_the_measured_figures() -> None:
    figures = json.loads((HERE / "figures.json").read_text())
    page, readme = (" ".join((ROOT / name).read_text().split()) for name in ("docs/detection.md", "README.md"))
    cases = sum(int(f["cases"].split("+")[0]) for f in figures["rules"].values())
    assert f"| recall on {cases} positives | {figures['recall']:.2f} |" in page
    assert f"| precision against {cases} near misses | {figures['precision']:.2f} |" in page
    assert f"| median delay | {figures['median_delay_calls']:g} calls |" in page
    assert f"| wasted tokens, mean error | {figures['mean_wasted_token_error']:.1%} |".replace("%", " %") in page
    assert figures["recall"] == figures["precision"]
    told = f"On {cases} labelled cases and as many near misses recall and precision are {figures['recall']:.2f}"
    assert told in readme
    assert f"For each of the {len(RULES)} rules" in page
