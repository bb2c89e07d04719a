"""120 real agent runs: every exact repeat with the same answer is found, and what else is found is counted."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ts_importers.files import FileImporter
from ts_langchain import Sentinel
from ts_langchain.replay import Replay

DATA = Path(__file__).parent / "data" / "tau_bench_airline_gpt4o.jsonl.gz"


def conversations() -> list[dict[str, Any]]:
    with gzip.open(DATA, "rt") as file:
        return [json.loads(line) for line in file]


def exact_repeats(conversation: dict[str, Any]) -> Counter[str]:
    """Tools called again with equal arguments that gave the equal answer, counted without our code."""
    asked: dict[str, tuple[str, str]] = {}
    answers: dict[tuple[str, str], str] = {}
    found: Counter[str] = Counter()
    for message in conversation["messages"]:
        for call in message.get("tool_calls") or ():
            function = call["function"]
            asked[call["id"]] = (function["name"], json.dumps(json.loads(function["arguments"]), sort_keys=True))
        if message["role"] == "tool":
            key = asked[message["tool_call_id"]]
            found[key[0]] += answers.get(key) == message["content"]
            answers[key] = message["content"]
    return +found


@pytest.fixture(scope="module")
def sentinel() -> Sentinel:
    sentinel = Sentinel()
    replay = Replay(sentinel)
    for page in FileImporter(DATA, model="gpt-4o", provider="openai").pages():
        assert page.skipped == []
        for run in page.runs:
            replay.feed(run)
    replay.finish()
    assert sentinel.health().ok
    return sentinel


def test_every_run_is_imported(sentinel: Sentinel) -> None:
    for number, conversation in enumerate(conversations(), 1):
        totals = sentinel.totals(f"line-{number}")
        roles = Counter(m["role"] for m in conversation["messages"])
        assert totals is not None
        assert (totals.model_calls, totals.calls) == (roles["assistant"], roles["assistant"] + roles["tool"])


def test_every_exact_repeat_is_found_and_nothing_else(sentinel: Sentinel) -> None:
    """What else is found on these 120 runs is in a checked-in table, each incident read by a person."""
    others: Counter[str] = Counter()
    for number, conversation in enumerate(conversations(), 1):
        repeats = exact_repeats(conversation)
        found: Counter[str] = Counter()
        for incident in sentinel.incidents(f"line-{number}"):
            if incident.rule in ("tool_loop", "retrieval_thrash") and not incident.evidence["reworded"]:
                found[str(incident.evidence["tool"])] += incident.calls
            else:
                others[incident.rule] += 1
        assert found == repeats
    assert others == TRUE_ALARMS + FALSE_ALARMS


# error_loop: seven agents send a booking or a change three to five times into the same refusal. ping_pong: two of them
# think the same thought before each try. duplicate_work: a task that opens with the same words in three runs.
TRUE_ALARMS = Counter({"error_loop": 7, "ping_pong": 2, "duplicate_work": 1})
FALSE_ALARMS: Counter[str] = Counter()


def test_totals_stay_below_the_bill(sentinel: Sentinel) -> None:
    for number in range(1, 121):
        totals = sentinel.totals(f"line-{number}")
        assert totals is not None
        wasted = sum(i.wasted_nano for i in sentinel.incidents(f"line-{number}"))
        assert wasted <= totals.nano
        assert totals.unpriced_calls == 0
