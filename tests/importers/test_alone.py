"""Model calls of client libraries, each in a trace of its own: which conversation they belong to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from importers.test_spans import request, runs, span, write
from recorder import replay_of

from ts_importers.files import FileImporter
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

SAID = "requests that name no conversation: one that goes on from an earlier prompt belongs to the same"


def alone(number: int, attributes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return span(number, attributes, traceId=f"{number + 1:032x}", **fields)


def part(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def turn(turns: int, question: str = "Look and report.", *, ids: str = "call") -> dict[str, Any]:
    """A request after so many rounds of the same tool call, and its answer; the last one answers in words."""
    asked = [[part("tool_call", id=f"{ids}_{n}", name="fetch", arguments={"url": "u"})] for n in range(7)]
    said = [{"role": "user", "parts": [part("text", content=question)]}]
    for n in range(turns):
        answer = part("tool_call_response", id=f"call_{n}", response="nothing new")
        said += [{"role": "assistant", "parts": asked[n]}, {"role": "tool", "parts": [answer]}]
    made = asked[turns] if turns < 6 else [part("text", content="No.")]
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.provider.name": "openai",
        "gen_ai.usage.input_tokens": 1000 + 100 * turns,
        "gen_ai.usage.output_tokens": 40,
        "gen_ai.input.messages": json.dumps(said),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": made, "finish_reason": "stop"}]),
    }


def conversations(folder: Path, told: list[dict[str, Any]]) -> list[int]:
    """The number of the span that began each request's conversation."""
    seen = replay_of(*runs(write(folder / "a.json", request(*told)))).seen
    return [int(call.session_id, 16) - 1 for call in seen if call.kind == "model"]


@pytest.mark.parametrize("ids", ["call", "fc"])  # OpenLLMetry has the ids of items for those of OpenAI's calls
def test_requests_that_go_on_from_each_other_are_one_conversation(tmp_path: Path, ids: str) -> None:
    told = [alone(n, turn(n, ids=ids)) for n in range(7)]
    source = FileImporter(write(tmp_path / "a.json", request(*told[::-1])))
    found = [run for page in source.pages() for run in page.runs]
    assert source.notices[1:] == [SAID]
    seen = replay_of(*found)
    assert {call.session_id for call in seen.seen} == {f"{1:032x}"}
    assert {i.rule for i in seen.incidents()} == {"tool_loop"}


def test_a_request_back_at_the_opening_begins_a_new_one(tmp_path: Path) -> None:
    told = [alone(100 * run + n, turn(n)) for run in range(3) for n in range(2)]
    assert conversations(tmp_path, told) == [100 * run for run in range(3) for _ in range(2)]


def test_users_and_models_tell_apart(tmp_path: Path) -> None:
    told = [
        alone(0, {**turn(0), "user.id": "ada"}),
        alone(1, {**turn(0), "user.id": "bob"}),
        alone(2, {**turn(1), "user.id": "bob"}),
        alone(3, {**turn(1), "user.id": "ada", "gen_ai.request.model": "llama-3.3-70b"}),
        alone(4, {**turn(1), "user.id": "ada"}),
    ]
    assert conversations(tmp_path, told) == [0, 1, 1, 3, 0]


def test_what_is_recorded_stands(tmp_path: Path) -> None:
    """A conversation that is named, a trace with more in it, and requests of which nothing is known."""
    chain = {"gen_ai.operation.name": "invoke_agent"}
    told = [
        alone(0, {**turn(0), "gen_ai.conversation.id": "c-1"}),
        span(1, chain),
        span(2, turn(1), parent=1),
        alone(3, {k: v for k, v in turn(2).items() if "messages" not in k}),
    ]
    source = FileImporter(write(tmp_path / "a.json", request(*told)))
    assert [run.thread_id for page in source.pages() for run in page.runs] == ["c-1", None, None]
    assert FileImporter(write(tmp_path / "b.json", request(*told[:3]))).notices[1:] == []
    named = alone(9, {**turn(1), "traceloop.association.properties.thread_id": "t-1"})
    inside = alone(9, turn(1), spanId="f" * 16)
    assert FileImporter(write(tmp_path / "c.json", request(named, inside))).notices[1:] == []


def test_an_import_that_goes_on_tells_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", 3)
    path = write(tmp_path / "a.json", request(*(alone(n, turn(n)) for n in range(7))))
    ledger = Ledger(tmp_path / "l.sqlite")
    for pages in range(3):
        first = Import(FileImporter(path), ledger)
        assert first.resumes == (pages > 0)
        history = first.run(lambda _, first=first: first.stop())
    history = Import(FileImporter(path), ledger).run()
    whole = replay_of(*runs(path)).incidents()
    assert [i.rule for i in whole] == ["tool_loop"]
    assert [(i.id, i.wasted_nano) for i in ledger.incidents(history)] == [(i.id, i.wasted_nano) for i in whole]
    assert history.runs == 7


def test_an_answer_in_several_messages_is_one(tmp_path: Path) -> None:
    """OpenInference's of OpenAI's responses API: reasoning, then each call of a tool as a message of its own."""

    def asked(number: int, call: str) -> dict[str, Any]:
        place = f"llm.output_messages.{number}.message"
        function = f"{place}.tool_calls.0.tool_call.function"
        return {
            f"{place}.role": "assistant",
            f"{place}.tool_calls.0.tool_call.id": call,
            f"{function}.name": "fetch",
            f"{function}.arguments": "{}",
        }

    reasons = {
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.contents.0.message_content.type": "reasoning",
    }
    told = {"openinference.span.kind": "LLM", "llm.model_name": "gpt-5"}
    one = {**told, **reasons, **asked(1, "c1"), **asked(2, "c2")}
    choices = {**told, "llm.invocation_parameters": '{"n": 2}', **asked(0, "c1"), **asked(1, "c2")}
    calls = []
    for run in runs(write(tmp_path / "a.json", request(alone(0, one), alone(1, choices)))):
        assert run.outputs is not None
        calls.append([call["id"] for call in run.outputs["message"]["tool_calls"]])  # type: ignore[index]
    assert calls == [["c1", "c2"], ["c1"]]
