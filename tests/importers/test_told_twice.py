"""One model call, told by several instrumentations: LangChain's, a client library's, the client's own."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importers.test_spans import BEGIN, pairs, runs, write

from ts_importers.files import FileImporter

if TYPE_CHECKING:
    from pathlib import Path

    from ts_langchain.replay import Run

FRAMEWORK, WRAPPER, CLIENT = (
    "opentelemetry.instrumentation.langchain",
    "opentelemetry.instrumentation.anthropic",
    "anthropic",
)
CLAUDE = {
    "gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic", "gen_ai.request.model": "claude-sonnet-4-5",
}  # fmt: skip
LANGCHAIN = {
    **CLAUDE,
    "traceloop.association.properties.ls_provider": "anthropic",
    "traceloop.association.properties.thread_id": "t-1",
}
COUNTS = {"gen_ai.usage.input_tokens": 1011, "gen_ai.usage.output_tokens": 40}
SAID = {"gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}])}
FAILED = {"code": 2, "message": "RateLimitError: slow down"}


def tell(scope: str, begin: float, end: float, attributes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A document of one span, in a trace of its own."""
    number = f"{len(scope):02x}{int(begin * 1000):014x}"
    span = {
        "traceId": number * 2,
        "spanId": number,
        "name": scope.rpartition(".")[2],
        "startTimeUnixNano": str(int((BEGIN + begin) * 1000) * 1_000_000),
        "endTimeUnixNano": str(int((BEGIN + end) * 1000) * 1_000_000),
        "attributes": pairs(attributes),
        "status": {},
        **fields,
    }
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": scope}, "spans": [span]}]}]}


def imported(folder: Path, *documents: dict[str, Any]) -> list[Run]:
    """What is read of the spans: the same, in whatever order they come and whatever files they are in."""
    found = runs(write(folder / "a.json", *documents))
    orders = itertools.permutations(documents) if len(documents) < 5 else [documents[::-1]]
    for order in orders:
        assert runs(write(folder / "a.json", *order)) == found
        paths = [write(folder / f"{n}.json", document) for n, document in enumerate(order)]
        assert [r for p in FileImporter(paths).pages() for r in p.runs] == found
    return found


def begun(found: list[Run]) -> list[float]:
    return [round(run.started_at - BEGIN, 3) for run in found]


def test_two_spans_with_one_answer_are_one_call(tmp_path: Path) -> None:
    """The client's own span and its instrumentation's, in two traces: the one that says what was said is kept."""
    answer = {"gen_ai.response.id": "msg_1"}
    outer = tell(WRAPPER, 0, 0.5, {**CLAUDE, **COUNTS, **SAID, **answer})
    inner = tell(CLIENT, 0.01, 0.49, {**CLAUDE, **COUNTS, **answer})
    [run] = imported(tmp_path, outer, inner)
    assert (begun([run]), len(run.inputs["messages"])) == ([0], 1)  # type: ignore[arg-type]
    # of which it does not matter who begins first
    assert begun(imported(tmp_path, tell(WRAPPER, 0.02, 0.5, {**CLAUDE, **COUNTS, **SAID, **answer}), inner)) == [0.02]
    other = tell(CLIENT, 0.01, 0.49, {**CLAUDE, **COUNTS, "gen_ai.response.id": "msg_2"})
    assert begun(imported(tmp_path, outer, other)) == [0, 0.01]


def test_an_answer_that_comes_again_later_is_another_call(tmp_path: Path) -> None:
    """Caches give the same answer again, and so do servers that number their answers in their own way."""
    spans = [tell(s, 60 * n, 60 * n + 1, {**CLAUDE, **COUNTS, "gen_ai.response.id": "1"}) for n, s in enumerate("ab")]
    assert begun(imported(tmp_path, *spans)) == [0, 60]


def test_a_stream_whose_span_ends_too_early_has_the_counts_of_the_other(tmp_path: Path) -> None:
    outer = tell(WRAPPER, 0, 0.01, {**CLAUDE, **SAID})
    inner = tell(CLIENT, 0.005, 0.5, {**CLAUDE, **COUNTS, "gen_ai.response.id": "msg_1"})
    [run] = imported(tmp_path, outer, inner)
    assert run.inputs["messages"]
    assert run.usage is not None
    assert (run.usage["input_tokens"], run.usage["output_tokens"]) == (1011, 40)
    assert begun(imported(tmp_path, outer, tell(CLIENT, 0.02, 0.5, {**CLAUDE, **COUNTS}))) == [0, 0.02]


@pytest.mark.parametrize("told", [{"attributes": COUNTS}, {"attributes": {}, "status": FAILED}])
def test_two_that_listen_to_langchain_tell_of_one_call(tmp_path: Path, told: dict[str, Any]) -> None:
    """It calls them one after the other, at the beginning and at the end: neither lies within the other."""
    told = {**told, "attributes": {**LANGCHAIN, **told["attributes"]}}
    calls = [(scope, n + later) for n in (0.0, 1.0) for later, scope in ((0.0, FRAMEWORK), (0.01, "openinference"))]
    spans = [tell(scope, begin, begin + 0.6, **told) for scope, begin in calls]
    assert begun(imported(tmp_path, *spans)) == [0, 1]
    beside = tell("openinference", 0.55, 1.15, **told)  # begins before the first ends, but not with it
    assert begun(imported(tmp_path, spans[0], beside)) == [0, 0.55]


def test_a_failure_is_told_once(tmp_path: Path) -> None:
    outer = tell(FRAMEWORK, 0, 0.5, LANGCHAIN, status=FAILED)
    nameless = {k: v for k, v in CLAUDE.items() if k != "gen_ai.request.model"}
    [run] = imported(tmp_path, outer, tell(CLIENT, 0.01, 0.4, nameless, status=FAILED))
    assert (run.thread_id, run.error) == ("t-1", "RateLimitError: slow down")


def test_attempts_that_failed_before_are_calls_of_their_own(tmp_path: Path) -> None:
    outer = tell(FRAMEWORK, 0, 9, {**LANGCHAIN, **COUNTS})
    attempts = [tell(CLIENT, 1 + n, 1.5 + n, CLAUDE, status=FAILED) for n in range(2)]
    found = imported(tmp_path, outer, *attempts, tell(CLIENT, 7, 8, {**CLAUDE, **COUNTS}))
    assert [(r.started_at - BEGIN, r.error is None) for r in found] == [(0, True), (1, False), (2, False)]


def test_a_call_of_langchains_stands_for_one_call_only(tmp_path: Path) -> None:
    """Five calls of the client library beside it, with the same tokens: four of them are not LangChain's."""
    outer = tell(FRAMEWORK, 0, 2, {**LANGCHAIN, **COUNTS})
    direct = [tell(CLIENT, 0.1 * n, 0.1 * n + 0.05, {**CLAUDE, **COUNTS}) for n in range(1, 6)]
    assert len(imported(tmp_path, outer, *direct)) == 5
    uncounted = [tell(CLIENT, 0.1 * n, 0.1 * n + 0.05, CLAUDE) for n in range(1, 6)]
    assert len(imported(tmp_path, outer, *uncounted)) == 5


def test_calls_of_another_model_beside_it_are_counted(tmp_path: Path) -> None:
    gpt = {**LANGCHAIN, "gen_ai.request.model": "gpt-4o", "gen_ai.provider.name": "openai"}
    outer = tell(FRAMEWORK, 0, 2, {**gpt, **COUNTS})
    direct = [tell(CLIENT, 0.1 * n, 0.1 * n + 0.05, {**CLAUDE, **COUNTS}) for n in range(1, 6)]
    assert len(imported(tmp_path, outer, *direct)) == 6
    dated = {**CLAUDE, "gen_ai.response.model": "claude-sonnet-4-5-20250929"}
    assert begun(imported(tmp_path, tell(FRAMEWORK, 0, 2, LANGCHAIN), tell(CLIENT, 0.1, 1.9, dated))) == [0]


def test_what_names_no_model_does_not_join_two(tmp_path: Path) -> None:
    nameless = {k: v for k, v in CLAUDE.items() if k != "gen_ai.request.model"}
    gpt = {**LANGCHAIN, "gen_ai.request.model": "gpt-4o"}
    told = tell(FRAMEWORK, 0, 2, gpt), tell(WRAPPER, 0.1, 1.9, nameless), tell(CLIENT, 0.2, 1.8, CLAUDE)
    assert len(imported(tmp_path, *told)) == 2


def test_many_calls_side_by_side_find_each_their_own(tmp_path: Path) -> None:
    outer = [tell(FRAMEWORK, 0.01 * n, 2 + 0.1 * n, LANGCHAIN) for n in range(9)]
    inner = [tell(CLIENT, 0.01 * n + 0.005, 1.9 + 0.1 * n, CLAUDE) for n in range(9)]
    assert begun(imported(tmp_path, *outer, *inner)) == [round(0.01 * n, 3) for n in range(9)]


def test_a_call_told_by_three_is_one(tmp_path: Path) -> None:
    outer = tell(FRAMEWORK, 0, 0.5, LANGCHAIN)
    middle = tell(WRAPPER, 0.1, 0.4, {**CLAUDE, **SAID})
    inner = tell(CLIENT, 0.2, 0.39, {**CLAUDE, **COUNTS})
    [run] = imported(tmp_path, outer, middle, inner)
    assert (run.thread_id, run.usage and run.usage["total_tokens"]) == ("t-1", 1051)


def test_what_an_enclosing_span_does_not_count(tmp_path: Path) -> None:
    """Its first call stands in for it; what else it called is billed as well."""
    first = tell(CLIENT, 1, 2, {**CLAUDE, **COUNTS})
    outer = tell(FRAMEWORK, 0, 9, LANGCHAIN)
    ids = {k: outer["resourceSpans"][0]["scopeSpans"][0]["spans"][0][k] for k in ("traceId", "spanId")}
    inside = {"traceId": ids["traceId"], "parentSpanId": ids["spanId"]}
    calls = [tell(CLIENT, n, n + 1, {**CLAUDE, **COUNTS}, **inside) for n in (1, 4)]
    found = imported(tmp_path, outer, *calls)
    assert [(r.started_at - BEGIN, r.usage and r.usage["total_tokens"]) for r in found] == [(0, 1051), (4, 1051)]
    assert begun(imported(tmp_path, tell(FRAMEWORK, 0, 9, {**LANGCHAIN, **COUNTS}), *calls)) == [0]
    assert begun(imported(tmp_path, first)) == [1]


def test_exports_that_name_no_instrumentation(tmp_path: Path) -> None:
    """As SDKs print them: whoever calls the operation by another name is another."""

    def flat(number: int, name: str, attributes: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "context": {"trace_id": f"{number + 1:032x}", "span_id": f"{number + 1:016x}"},
            "start_time": f"2026-09-01T10:00:00.{number}00000Z",
            "end_time": f"2026-09-01T10:00:00.9{9 - number}0000Z",
            "attributes": {**CLAUDE, **COUNTS, **attributes},
        }

    told = [flat(0, "anthropic.chat", SAID), flat(1, "anthropic.messages.create", {"gen_ai.response.id": "msg_1"})]
    assert len(runs(write(tmp_path / "a.jsonl", *told))) == 1
    model = CLAUDE["gen_ai.request.model"]
    dated = {"gen_ai.response.model": f"{model}-20250929"}
    parallel = [flat(0, f"chat {model}", {}), flat(1, f"chat {model}", {}), flat(2, f"chat {model}", dated)]
    assert len(runs(write(tmp_path / "b.jsonl", *parallel))) == 3


SENT, GOT = ({k: v} for k, v in COUNTS.items())
NAMELESS = {k: v for k, v in CLAUDE.items() if k != "gen_ai.request.model"}
GPT = {**CLAUDE, "gen_ai.request.model": "gpt-4o", "gen_ai.provider.name": "openai"}


@pytest.mark.parametrize(
    ("one", "other", "calls"),
    [
        # neither counts: one lies within the other, and they begin or end together
        ((0, 9, CLAUDE), (2, 5, CLAUDE), 1),
        ((0, 9, CLAUDE), (2.1, 5, CLAUDE), 2),
        ((0, 9, CLAUDE), (5, 7, CLAUDE), 1),
        ((0, 9, CLAUDE), (5, 6.9, CLAUDE), 2),
        ((0, 9, CLAUDE), (0, 3, CLAUDE), 1),
        ((1, 3, CLAUDE), (0, 2.5, CLAUDE), 1),  # a stream that ends its span too early
        ((1, 3, CLAUDE), (0, 0.9, CLAUDE), 2),
        ((1, 3, CLAUDE), (0, 2.5, {**CLAUDE, **SENT}), 2),
        ((1, 3, CLAUDE), (0, 2.5, {**CLAUDE, **GOT}), 2),
        # both count
        ((0, 9, {**CLAUDE, **COUNTS}), (4, 5, {**CLAUDE, **COUNTS}), 1),
        ((0, 9, {**CLAUDE, **COUNTS}), (0.1, 9.1, {**CLAUDE, **COUNTS}), 2),
        # one counts a part
        ((0, 9, {**CLAUDE, **COUNTS}), (1, 8, {**CLAUDE, **SENT}), 1),
        ((0, 9, {**CLAUDE, **GOT}), (1, 8, {**CLAUDE, **COUNTS}), 1),
        ((0, 9, {**CLAUDE, **SENT}), (1, 8, {**CLAUDE, **GOT}), 1),
        ((0, 9, {**CLAUDE, "gen_ai.usage.input_tokens": 7}), (1, 8, {**CLAUDE, **COUNTS}), 2),
        ((0, 9, {**CLAUDE, "gen_ai.usage.output_tokens": 7}), (1, 8, {**CLAUDE, **COUNTS}), 2),
        # models and providers, as far as both tell
        ((0, 2, GPT), (1, 2, CLAUDE), 2),
        ((0, 2, GPT), (1, 2, {**GPT, "gen_ai.provider.name": "azure.ai.openai"}), 1),
        ((0, 2, {**GPT, "gen_ai.request.model": "gpt-4o-2024-08-06"}), (1, 2, GPT), 1),
        ((0, 2, {**GPT, "gen_ai.request.model": "gpt-4o-mini"}), (1, 2, {**GPT, "gen_ai.provider.name": "azure"}), 2),
        ((0, 2, NAMELESS), (1, 2, {**CLAUDE, "gen_ai.provider.name": ""}), 1),
        ((0, 2, NAMELESS), (1, 2, GPT), 2),
        ((0, 2, NAMELESS), (1, 2, {**NAMELESS, "gen_ai.provider.name": "openai"}), 2),
    ],
)  # fmt: skip
def test_two_spans_are_one_call_or_two(tmp_path: Path, one: Any, other: Any, calls: int) -> None:
    assert len(imported(tmp_path, tell(WRAPPER, *one), tell(CLIENT, *other))) == calls


TOLD = st.tuples(
    st.sampled_from([FRAMEWORK, WRAPPER, CLIENT, ""]),
    st.integers(0, 8),
    st.integers(0, 8),
    st.sampled_from([{}, COUNTS, {"gen_ai.usage.output_tokens": 40}, SAID]),
    st.sampled_from(["", "msg_1", "msg_2"]),
    st.booleans(),
    st.none() | st.integers(0, 5),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TOLD, min_size=1, max_size=6), st.randoms())
def test_the_order_of_the_files_does_not_matter(tmp_path: Path, told: list[Any], random: Any) -> None:
    """And something is kept of every call, whatever encloses what."""
    documents = []
    for number, (scope, begin, took, said, response, failed, parent) in enumerate(told):
        attributes = {**(LANGCHAIN if scope == FRAMEWORK else CLAUDE), **said}
        ids = {"traceId": "1" * 32, "spanId": f"{number + 1:016x}"}
        ids |= {"parentSpanId": f"{parent + 1:016x}"} if parent is not None else {}
        status = {"status": FAILED} if failed else {}
        attributes |= {"gen_ai.response.id": response} if response else {}
        documents.append(tell(scope, begin / 4, (begin + took) / 4, attributes, **ids, **status))
    found = runs(write(tmp_path / "a.json", *documents))
    assert found
    random.shuffle(documents)
    shuffled = runs(write(tmp_path / "b.json", *documents))
    assert sorted(found, key=lambda run: run.id) == sorted(shuffled, key=lambda run: run.id)
