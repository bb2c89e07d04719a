"""Histories that hold no content: what was asked and answered was hidden or never recorded.

Usage, errors and times are judged; that calls look alike because nothing of them is known is no repeat.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from importers.test_spans import request, span
from recorder import replay_of

from ts_importers.files import FileImporter
from ts_importers.langfuse_rows import run_from_observation
from ts_importers.langsmith_rows import run_from_row
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 12
BEGIN = 1_788_000_000
KINDS = ("llm", "tool", "retriever", "embedding")
NAMES = {"llm": "gpt-4o", "tool": "fetch_page", "retriever": "docs", "embedding": "text-embedding-3-small"}
SENT = {"llm": 3000, "embedding": 500}


def calls() -> list[tuple[int, str, float]]:
    """Number, kind and start of each call: twelve turns of an agent that also searches and embeds."""
    return [(4 * n + i, kind, BEGIN + 4.0 * n + i) for n in range(ROUNDS) for i, kind in enumerate(KINDS)]


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat()


def langsmith(_folder: Path) -> list[Run]:
    """With `LANGSMITH_HIDE_INPUTS` and `LANGSMITH_HIDE_OUTPUTS`."""
    rows: list[dict[str, Any]] = [
        {
            "id": f"r{number}", "run_type": kind, "name": NAMES[kind], "start_time": iso(at), "end_time": iso(at + 0.5),
            "trace_id": "t", "inputs": {}, "outputs": {}, "status": "success",
            "extra": {"metadata": {"thread_id": "s", "ls_provider": "openai", "ls_model_name": NAMES[kind],
                                   "ls_temperature": 0.0}},
            **({"prompt_tokens": SENT[kind], "completion_tokens": 20 * (kind == "llm")} if kind in SENT else {}),
        }
        for number, kind, at in calls()
    ]  # fmt: skip
    return [run for row in rows if isinstance(run := run_from_row(row), Run)]


def langfuse(_folder: Path) -> list[Run]:
    """With a `mask` that leaves nothing."""
    types = {"llm": "GENERATION", "tool": "TOOL", "retriever": "RETRIEVER", "embedding": "EMBEDDING"}
    rows: list[dict[str, Any]] = [
        {
            "id": f"r{number}", "type": types[kind], "name": NAMES[kind], "startTime": iso(at),
            "endTime": iso(at + 0.5), "traceId": "t", "sessionId": "s", "input": None, "output": None,
            "model": NAMES[kind] if kind in SENT else None, "metadata": {"ls_provider": "openai"},
            "modelParameters": {"temperature": 0},
            "usageDetails": {"input": SENT[kind], "output": 20 * (kind == "llm")} if kind in SENT else {},
        }
        for number, kind, at in calls()
    ]  # fmt: skip
    return [run for row in rows if isinstance(run := run_from_observation(row), Run)]


def _spans(folder: Path, attributes: dict[str, dict[str, Any]]) -> list[Run]:
    made = [span(number, attributes[kind]) for number, kind, _ in calls()]
    path = folder / "spans.json"
    path.write_text(json.dumps(request(*made)))
    return [run for page in FileImporter(path).pages() for run in page.runs]


def genai(folder: Path) -> list[Run]:
    """OpenTelemetry's conventions, of which content is no part unless it is asked for."""
    operations = {"llm": "chat", "tool": "execute_tool", "retriever": "retrieval", "embedding": "embeddings"}
    common = {"gen_ai.provider.name": "openai", "gen_ai.conversation.id": "s"}
    attributes: dict[str, dict[str, Any]] = {k: {**common, "gen_ai.operation.name": o} for k, o in operations.items()}
    attributes["tool"]["gen_ai.tool.name"] = "fetch_page"
    for kind, sent in SENT.items():
        attributes[kind] |= {"gen_ai.request.model": NAMES[kind], "gen_ai.usage.input_tokens": sent}
    attributes["llm"] |= {"gen_ai.usage.output_tokens": 20, "gen_ai.request.temperature": 0.0}
    return _spans(folder, attributes)


def openinference(folder: Path) -> list[Run]:
    """With `OPENINFERENCE_HIDE_INPUTS` and `OPENINFERENCE_HIDE_OUTPUTS`."""
    attributes: dict[str, dict[str, Any]] = {
        k: {"openinference.span.kind": k.upper(), "session.id": "s"} for k in KINDS
    }
    attributes["tool"]["tool.name"] = "fetch_page"
    attributes["llm"] |= {
        "llm.model_name": "gpt-4o", "llm.provider": "openai",
        "llm.token_count.prompt": 3000, "llm.token_count.completion": 20,
    }  # fmt: skip
    attributes["embedding"] |= {"embedding.model_name": NAMES["embedding"], "llm.token_count.prompt": 500}
    return _spans(folder, attributes)


SOURCES = {"langsmith": langsmith, "langfuse": langfuse, "genai": genai, "openinference": openinference}


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_not_known_is_no_repeat(source: str, tmp_path: Path) -> None:
    runs = SOURCES[source](tmp_path)
    assert [run.run_type for run in runs] == [kind for _, kind, _ in calls()]
    recorder = replay_of(*runs)
    assert recorder.incidents() == []
    models = [call for call in recorder.seen if call.kind == "model"]
    assert {call.temperature for call in models} == ({None} if source == "openinference" else {0.0})
    assert {call.answer for call in recorder.seen if call.kind in ("tool", "retriever")} == {0}
    totals = recorder.totals("s")
    assert totals is not None
    assert (totals.calls, totals.input_tokens, totals.output_tokens) == (48, ROUNDS * 3500, ROUNDS * 20)
    assert totals.unpriced_calls == totals.estimated_calls == 0
