"""Detection: precision, recall, false alarms and delay of all rules on labelled cases and on real traces.

    python benchmarks/detection/run.py [--update]

Prints a table, and compares it with the figures checked in beside it: exit code 1 if one has become worse. `--update`
writes the new figures. Cases are made by `make_cases.py`; the real traces are the healthy part of 120 recorded τ-bench
runs. Delay is counted in calls, from the row after which the waste is provable to the one at which the rule's incident
opened.
"""

from __future__ import annotations

import gzip
import json
import logging
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ts_importers.files import FileImporter
from ts_importers.langsmith_rows import run_from_row
from ts_langchain import Sentinel
from ts_langchain.replay import Replay, Run
from ts_langchain.rules import RULES

logging.getLogger("ts_langchain").setLevel(logging.ERROR)  # incidents are counted here

HERE = Path(__file__).parent
FIGURES = HERE / "figures.json"
TRACES = HERE.parents[1] / "tests" / "data" / "tau_bench_airline_gpt4o.jsonl.gz"
# on the real traces, beside repeats that a count without our code confirms (tests/test_tau_bench.py): read by a person
TRUE_ON_TRACES = {"tool_loop", "retrieval_thrash", "error_loop", "ping_pong", "duplicate_work"}


def found_in(case: dict[str, Any]) -> tuple[dict[str, tuple[int, float, int]], int | None]:
    """Rules that fired: at which call, how sure, wasted tokens; and the call at which the waste was provable."""
    calls = 0
    opened: dict[str, tuple[int, float]] = {}
    provable = None

    class Counting(Sentinel):
        def observe(self, call: Any) -> None:
            nonlocal calls, provable
            calls += 1
            if call.id == case["provable"]:
                provable = calls
            super().observe(call)
            for incident in self.incidents():
                opened.setdefault(incident.rule, (calls, incident.confidence))

    sentinel = Counting()
    replay = Replay(sentinel)
    for row in case["rows"]:
        run = run_from_row(row)
        assert isinstance(run, Run), run
        replay.feed(run)
    replay.finish()
    assert sentinel.health().faults == {}, sentinel.health().faults
    wasted: Counter[str] = Counter()
    for incident in sentinel.incidents():
        wasted[incident.rule] += incident.wasted_tokens
    return {i.rule: (opened[i.rule][0], i.confidence, wasted[i.rule]) for i in sentinel.incidents()}, provable


def measure() -> dict[str, Any]:
    """All figures."""
    with gzip.open(HERE / "cases.jsonl.gz", "rt", encoding="utf-8") as file:
        cases = [json.loads(line) for line in file]
    rules: dict[str, dict[str, Any]] = {
        rule: {"positives": 0, "negatives": 0, "hits": 0, "false_alarms": 0, "delays": [], "errors": []}
        for rule in RULES
    }
    by_confidence: Counter[tuple[bool, bool]] = Counter()
    sessions = alarms = 0
    for case in cases:
        found, provable = found_in(case)
        figures = rules[case["rule"]]
        hit = case["rule"] in found
        if case["positive"]:
            figures["positives"] += 1
            figures["hits"] += hit
            if hit and provable is not None:
                figures["delays"].append(max(0, found[case["rule"]][0] - provable))
            if hit and case["wasted_tokens"]:
                figures["errors"].append(abs(found[case["rule"]][2] / case["wasted_tokens"] - 1))
        else:
            figures["negatives"] += 1
            figures["false_alarms"] += hit
            sessions += 1
            alarms += bool(set(found) - {case["rule"]})
        if hit:
            by_confidence[found[case["rule"]][1] >= 0.9, case["positive"]] += 1
    traces = Sentinel()
    replay = Replay(traces)
    for page in FileImporter(TRACES, model="gpt-4o", provider="openai").pages():
        for run in page.runs:
            replay.feed(run)
    replay.finish()
    real = traces.incidents()
    false_on_traces = sum(i.rule not in TRUE_ON_TRACES for i in real)
    hits = sum(f["hits"] for f in rules.values())
    false = sum(f["false_alarms"] for f in rules.values())
    delays = [d for f in rules.values() for d in f["delays"]]
    errors = [e for f in rules.values() for e in f["errors"]]
    sure, sure_false = by_confidence[True, True], by_confidence[True, False]
    return {
        "recall": round(hits / sum(f["positives"] for f in rules.values()), 4),
        "precision": round(hits / (hits + false), 4),
        "median_delay_calls": statistics.median(delays),
        "false_alarms_per_100_real_sessions": round(false_on_traces / 1.2, 2),
        "mean_wasted_token_error": round(statistics.mean(errors), 4),
        "negatives_with_another_rules_incident_per_100": round(100 * alarms / sessions, 2),
        "precision_at_confidence_0.9": round(sure / max(1, sure + sure_false), 4),
        "rules": {
            rule: {
                "recall": round(f["hits"] / f["positives"], 4),
                "false_alarms": f["false_alarms"],
                "cases": f"{f['positives']}+{f['negatives']}",
                "median_delay": statistics.median(f["delays"]) if f["delays"] else None,
                "wasted_token_error": round(statistics.mean(f["errors"]), 4) if f["errors"] else None,
            }
            for rule, f in rules.items()
        },
    }


HIGHER = ("recall", "precision", "precision_at_confidence_0.9")
LOWER = ("median_delay_calls", "false_alarms_per_100_real_sessions", "mean_wasted_token_error")
# near misses of one rule may well be waste for another: told, and not judged
TOLD = ("negatives_with_another_rules_incident_per_100",)


def main(update: bool) -> int:
    """Prints, compares, and writes if asked to."""
    new = measure()
    print(f"{'rule':32} {'cases':>6} {'recall':>7} {'false':>6} {'delay':>6} {'token error':>12}")
    for rule, f in new["rules"].items():
        delay = "-" if f["median_delay"] is None else f"{f['median_delay']:g}"
        error = "-" if f["wasted_token_error"] is None else f"{f['wasted_token_error']:.1%}"
        print(f"{rule:32} {f['cases']:>6} {f['recall']:7.2f} {f['false_alarms']:6} {delay:>6} {error:>12}")
    for name in (*HIGHER, *LOWER, *TOLD):
        print(f"{name:40} {new[name]}")
    if update:
        FIGURES.write_text(json.dumps(new, indent=1) + "\n")
        return 0
    old = json.loads(FIGURES.read_text())
    worse = [f"{n}: {new[n]} after {old[n]}" for n in HIGHER if new[n] < old[n]]
    worse += [f"{n}: {new[n]} after {old[n]}" for n in LOWER if new[n] > old[n]]
    worse += [
        f"{rule}: recall {f['recall']}, {f['false_alarms']} false alarms"
        for rule, f in new["rules"].items()
        if f["recall"] < old["rules"][rule]["recall"] or f["false_alarms"] > old["rules"][rule]["false_alarms"]
    ]
    for line in worse:
        print(f"WORSE  {line}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main("--update" in sys.argv[1:]))
