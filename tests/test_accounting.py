"""Accounting over random histories: every token once, avoidable ≤ wasted ≤ cost, whatever the page size."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ts_langchain import Sentinel
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.replay import Replay, Run
from ts_langchain.report.summary import summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

MODELS = ["gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5", "no-such-model", None]


@st.composite
def histories(draw: st.DrawFn) -> list[Run]:
    """Several interleaved sessions of agents that loop, fail, retry, classify and embed."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    runs: list[Run] = []
    for session in range(draw(st.integers(1, 4))):
        at = 1.79e9 + chance.random() * 10
        history: list[dict[str, Any]] = [{"role": "user", "content": chance.choice(["classify: yes or no?", "go"])}]
        model = chance.choice(MODELS)
        for step in range(draw(st.integers(1, 25))):
            run_id = f"{session}-{step}"
            kind = chance.random()
            took = chance.choice([0.0, 0.5, 2.0])
            base: dict[str, Any] = {"trace_id": f"trace-{session}", "thread_id": f"thread-{session}"}
            metadata = {"ls_model_name": model, "ls_provider": "openai" if model and "gpt" in model else None}
            if kind < 0.15:
                texts = [chance.choice("abc") * 40 for _ in range(chance.randrange(1, 4))]
                runs.append(
                    Run(run_id, "embedding", "E", at, at + took, inputs={"texts": texts},
                        metadata={"ls_model_name": "text-embedding-3-small"}, **base)
                )  # fmt: skip
                at += took
                continue
            names = [chance.choice(["fetch", "search_docs"]) for _ in range(chance.choice([0, 1, 1, 2]))]
            calls = [
                {"id": f"{run_id}-{i}", "function": {"name": n, "arguments": f'{{"q": "{chance.choice("ab")}"}}'}}
                for i, n in enumerate(names)
            ]
            sent = chance.randrange(1, 90_000)
            usage = {
                "input_tokens": sent,
                "output_tokens": chance.randrange(0, 200),
                "input_token_details": {"cache_read": chance.randrange(0, sent + 1)},
            }
            failed = kind > 0.85
            above = f"{run_id}-chain" if chance.random() < 0.2 else None
            answer = {"role": "assistant", "content": None if calls else "an answer", "tool_calls": calls}
            runs.append(
                Run(
                    run_id, "llm", "M", at, at + took, inputs={"messages": list(history)},
                    outputs=None if failed else {"message": answer}, error="Boom('x')" if failed else None,
                    metadata=metadata, usage=None if failed or kind > 0.75 else usage,
                    invocation_params={"temperature": 0}, parent_id=above, **base,
                )
            )  # fmt: skip
            at += took
            if above is not None:  # its parser rejects the answer, sooner or later
                late = chance.choice([0.0, 0.2, 30.0])
                runs.append(Run(above, "chain", "C", at - took, at + late, error="OutputParserException('no')", **base))
                at += late
            if failed or above is not None:
                continue
            history.append(answer)
            for i, name in enumerate(names):
                content = chance.choice(["same", "same", "other", "x" * 500])
                runs.append(
                    Run(
                        f"{run_id}-t{i}", "tool", name, at, at + took, inputs={"q": calls[i]["function"]["arguments"]},  # type: ignore[index]
                        outputs={"output": {"content": content, "tool_call_id": calls[i]["id"], "type": "tool"}},
                        tool_call_id=str(calls[i]["id"]), **base,
                    )
                )  # fmt: skip
                history.append({"role": "tool", "tool_call_id": calls[i]["id"], "content": content})
            at += took + chance.choice([0.0, 1.0, 400.0])
    runs.sort(key=lambda r: r.started_at)
    return runs


def replayed(runs: list[Run]) -> Sentinel:
    sentinel = Sentinel()
    replay = Replay(sentinel)
    for run in runs:
        replay.feed(run)
    replay.finish()
    assert sentinel.health().ok
    return sentinel


def figures(sentinel: Sentinel) -> list[dict[str, Any]]:
    return [{n: getattr(i, n) for n in type(i).__slots__ if n != "closed"} for i in sentinel.incidents()]


@settings(max_examples=150, deadline=None)
@given(histories())
def test_every_token_once(runs: list[Run]) -> None:
    sentinel = replayed(runs)
    for session in {r.thread_id for r in runs}:
        assert session is not None
        totals = sentinel.totals(session)
        found = sentinel.incidents(session)
        assert totals is not None
        for incident in found:
            assert 0 <= incident.avoidable_nano <= incident.wasted_nano
            assert 0 <= incident.avoidable_tokens <= incident.wasted_tokens
        assert sum(i.wasted_nano for i in found) <= totals.nano
        assert sum(i.wasted_input_tokens for i in found) <= totals.input_tokens
        assert sum(i.wasted_output_tokens for i in found) <= totals.output_tokens


@settings(max_examples=75, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_order_of_equal_times_does_not_matter(runs: list[Run], chance: random.Random) -> None:
    shuffled = list(runs)
    chance.shuffle(shuffled)
    shuffled.sort(key=lambda r: r.started_at)
    assert figures(replayed(shuffled)) == figures(replayed(runs))


class Pages:
    """An importer of runs in memory, cut into pages; can break down."""

    source = "memory"
    scope = "test"
    total = None

    def __init__(self, runs: list[Run], size: int, breaks_at: int | None = None) -> None:
        self.runs, self.size, self.breaks_at = runs, size, breaks_at

    def describe(self) -> Mapping[str, str]:
        return {"memory": "test"}

    def pages(self, position: Mapping[str, Any] | None = None) -> Iterator[Any]:
        from ts_importers.base import Page

        start = int((position or {}).get("row", 0))
        for row in range(start, len(self.runs), self.size):
            if self.breaks_at is not None and row >= self.breaks_at:
                raise KeyboardInterrupt
            yield Page(self.runs[row : row + self.size], {"row": row})


def reported(ledger: Ledger) -> dict[str, Any]:
    history = ledger.histories()[0]
    summary = summarise(ledger, history).as_dict()
    incidents = [{n: getattr(i, n) for n in type(i).__slots__ if n != "closed"} for i in ledger.incidents(history)]
    calls = [
        (call._replace(answer_text=None), call.answer_text and call.answer_text.__getstate__())
        for call in sorted(ledger.calls(history), key=lambda call: call.id)
    ]
    return {"summary": summary, "incidents": incidents, "calls": calls}


@settings(max_examples=40, deadline=None)
@given(histories(), st.integers(1, 9), st.integers(1, 30), st.integers(0, 60), st.integers(1, 3), st.booleans())
def test_page_size_kills_small_memory_and_other_ranges_change_nothing(
    tmp_path_factory: Any, runs: list[Run], size: int, checkpoint: int, kill: int, memory: int, other: bool
) -> None:
    scratch: Path = tmp_path_factory.mktemp("ledger")
    whole = Ledger(scratch / "whole.sqlite")
    Import(Pages(runs, 1000), whole).run()
    pieces = Ledger(scratch / "pieces.sqlite")
    for breaks_at in (kill, kill * 2 + 3):
        with suppress(KeyboardInterrupt):
            Import(Pages(runs, size, breaks_at), pieces, checkpoint_runs=checkpoint, sessions_in_memory=memory).run()
    # gone on with at the last checkpoint; or, asked for another range, from the beginning
    asked = {"until": "2026-12-31"} if other else {}
    last = Import(Pages(runs, size), pieces, asked=asked, checkpoint_runs=checkpoint, sessions_in_memory=memory)
    last.run()
    assert reported(pieces) == reported(whole)
    # and once more: nothing counts twice
    Import(Pages(runs, size), pieces).run()
    assert reported(pieces) == reported(whole)
    whole.close()
    pieces.close()


def _beside(others: list[Run]) -> list[Run]:
    """Among two other sessions, each of which is active all the time."""
    busy = [
        Run(f"b{n}", "tool", "clock", 60.0 + 30 * n, 61.0 + 30 * n, f"B{n % 2}", thread_id=f"B{n % 2}",
            inputs={"n": n}, outputs={"output": f"tick {n}"})
        for n in range(90)
    ]  # fmt: skip
    return sorted([*others, *busy], key=lambda run: (run.started_at, run.id))


def _a_call_that_lasts_long() -> list[Run]:
    times = [(0, 1), (3, 4), (6, 7), (20, 2020), (2025, 2026)]
    return [
        Run(
            f"a{n}", "tool", "build", start, end, "A", thread_id="A", inputs={"q": "a"}, error="TimeoutError: no answer"
        )
        for n, (start, end) in enumerate(times)
    ]


def _embeddings_that_last_long() -> list[Run]:
    times = [(0, 1), (3, 4), (6, 7), (1505, 1506), (1508, 1509)]
    failed = [
        Run(f"a{n}", "tool", "build", start, end, "A", thread_id="A", inputs={"q": "a"}, error="TimeoutError: no")
        for n, (start, end) in enumerate(times)
    ]
    return [*failed, Run("e", "embedding", "texts", 800.0, 1500.0, "A", thread_id="A", inputs={"texts": ["a"]})]


def _an_older_conversation_that_goes_on() -> list[Run]:
    runs: list[Run] = []
    prompt: list[Any] = [
        {"role": "system", "content": "You are X."},
        {"role": "user", "content": "Which plan has SSO?"},
    ]
    for n, at in enumerate((0, 5, 10, 2030, 2040)):
        call = {"id": f"c{n}", "type": "function", "function": {"name": "fetch", "arguments": '{"q": "a"}'}}
        said = {"role": "assistant", "content": "", "tool_calls": [call]}
        runs.append(
            Run(f"x{n}", "llm", "m", float(at), at + 1.0, f"x{n}", thread_id="A", inputs={"messages": prompt},
                outputs={"message": said}, metadata={"ls_model_name": "gpt-4o"})
        )  # fmt: skip
        prompt = [*prompt, said, {"role": "tool", "tool_call_id": f"c{n}", "content": "same"}]
    other = [{"role": "system", "content": "You are Y."}, {"role": "user", "content": "And what is new?"}]
    answer = {"message": {"role": "assistant", "content": "Nothing."}}
    return [*runs, Run("y", "llm", "m", 30.0, 31.0, "y", thread_id="A", inputs={"messages": other}, outputs=answer)]


def _whole_as_in_pieces(runs: list[Run], kills: tuple[int, ...], tmp_path: Path) -> Ledger:
    """Imports them at one go, and again killed after so many and resumed: what is reported is the same."""
    whole = Ledger(tmp_path / "whole.sqlite")
    Import(Pages(runs, 3), whole).run()
    for kill in kills:
        pieces = Ledger(tmp_path / f"{kill}.sqlite")
        with suppress(KeyboardInterrupt):
            Import(Pages(runs, 3, kill), pieces, checkpoint_runs=3).run()
        Import(Pages(runs, 3), pieces, checkpoint_runs=3).run()
        assert reported(pieces) == reported(whole)
    return whole


@pytest.mark.parametrize(
    "session", [_a_call_that_lasts_long, _embeddings_that_last_long, _an_older_conversation_that_goes_on]
)
def test_what_is_found_after_a_long_silence_does_not_depend_on_what_was_in_memory(
    tmp_path: Path, session: Callable[[], list[Run]]
) -> None:
    runs = _beside(session())
    whole = _whole_as_in_pieces(runs, (9, 30, 60), tmp_path)
    small = Ledger(tmp_path / "small.sqlite")
    Import(Pages(runs, 3), small, checkpoint_runs=3, sessions_in_memory=1).run()
    assert reported(small) == reported(whole)


def test_what_had_begun_when_an_import_was_killed_does_not_begin_twice(tmp_path: Path) -> None:
    told: dict[str, Any] = {"inputs": {"query": "plans"}, "outputs": {"documents": [{"page_content": "a"}]}}
    texts: dict[str, Any] = {"inputs": {"texts": ["a", "b"]}, "outputs": {}}
    runs = [
        Run("tool", "tool", "search", 1.0, 20.0, "A", inputs={"q": "plans"}, outputs={"output": "timed out"}),
        # part of the tool's call, and goes on when that has given up
        Run("inside", "retriever", "plans", 2.0, 90.0, "A", "tool", **told),
        Run("embedding", "embedding", "texts", 3.0, 80.0, "B", **texts),
        *(Run(f"c{n:02}", "tool", "clock", 5.0 + n, 5.5 + n, "C", inputs={"n": n}, outputs={}) for n in range(60)),
    ]
    whole = _whole_as_in_pieces(runs, (6, 30, 60), tmp_path)
    assert {call.id for call in whole.calls(whole.histories()[0])} == {run.id for run in runs} - {"inside"}
    assert not whole.histories()[0].late
