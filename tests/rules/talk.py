"""Realistic multi-turn sessions, told once, and sent through each door: live callbacks and LangSmith rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from langchain_core.callbacks import CallbackManager
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, LLMResult

from ts_importers.helicone_rows import run_from_request
from ts_importers.langfuse_rows import run_from_observation
from ts_importers.langsmith_rows import run_from_row
from ts_langchain import Sentinel, TokenSentinelHandler
from ts_langchain.replay import Replay, Run

BEGIN = datetime(2026, 9, 1, 8, tzinfo=UTC)


class Talk:
    """One session: what was said, asked and answered, when, and what it took."""

    def __init__(
        self, session: str = "talk", *, model: str = "gpt-4o", provider: str = "openai", at: float = 0.0
    ) -> None:
        self.session, self.model, self.provider = session, model, provider
        self.clock = BEGIN + timedelta(seconds=at)
        self.messages: list[dict[str, Any]] = []
        self.tools: list[Any] = []
        self.params: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.runs = 0
        self.new_run()
        self.numbers = iter(range(1_000_000))

    def system(self, text: str) -> Talk:
        self.messages.append({"role": "system", "content": text})
        return self

    def user(self, content: Any) -> Talk:
        self.messages.append({"role": "user", "content": content})
        return self

    def wait(self, seconds: float) -> Talk:
        self.clock += timedelta(seconds=seconds)
        return self

    def new_run(self) -> Talk:
        """What follows is another invocation of the agent."""
        self.runs += 1
        self.trace = str(uuid5(NAMESPACE_OID, f"{self.session} {self.runs}"))
        return self

    def ai(
        self,
        text: str = "",
        *calls: tuple[str, dict[str, Any], Any],
        sent: int | None = None,
        got: int | None = None,
        cached: int = 0,
        reasoning: int = 0,
        finish: str | None = None,
        error: str | None = None,
        keep: bool = True,
        seconds: float = 1.0,
        took: float = 0.5,
        purpose: str | None = None,
    ) -> Talk:
        """A model call, and the tools it asks for: (name, arguments, answer or exception)."""
        number = next(self.numbers)
        asked = [
            {"id": f"c{number}-{i}", "type": "function", "function": {"name": n, "arguments": json.dumps(a)}}
            for i, (n, a, _) in enumerate(calls)
        ]
        answer: dict[str, Any] = {"role": "assistant", "content": text}
        if asked:
            answer["tool_calls"] = asked
        chars = sum(len(json.dumps(m["content"])) for m in self.messages)
        usage = {
            "input_tokens": chars // 4 + 4 if sent is None else sent,
            "output_tokens": (len(text) + 40 * len(calls)) // 4 + reasoning + 1 if got is None else got,
            "input_token_details": {"cache_read": cached},
            "output_token_details": {"reasoning": reasoning},
        }
        usage["total_tokens"] = int(usage["input_tokens"]) + int(usage["output_tokens"])  # type: ignore[call-overload]
        meta = {"model_name": self.model, "finish_reason": finish or ("tool_calls" if asked else "stop")}
        outputs = {"message": {**answer, "usage_metadata": usage, "response_metadata": meta}}
        self._row("llm", "ChatModel", {"messages": list(self.messages)}, outputs, error, seconds, number)
        if purpose is not None:
            self.rows[-1]["extra"]["metadata"]["lc_source"] = purpose
        if keep:
            self.messages.append(answer)
        for call, (name, args, result) in zip(asked, calls, strict=True):
            failed = None
            content = result
            if isinstance(result, Exception):  # as LangChain's tracer records it
                kind = type(result).__name__
                failed, content = (
                    f"{result!r}Traceback (most recent call last): ...\n\n\n{kind}: {result}",
                    f"Error: {result}",
                )
            message = {"role": "tool", "content": content, "tool_call_id": call["id"]}
            outputs = None if failed else {"output": message}
            self._row("tool", name, args, outputs, failed, took, next(self.numbers), call["id"], result)
            self.messages.append(message)
        return self

    def rejected(self, text: str, error: str = "OutputParserException('no JSON')", **more: Any) -> Talk:
        """A model call whose answer the chain around it cannot use."""
        begin = self.clock
        self.ai(text, keep=False, **more)
        row = self.rows[-1]
        row["parent_run_id"] = f"{row['id']}-chain"
        chain = {"id": row["parent_run_id"], "name": "RunnableSequence", "run_type": "chain", "error": error}
        times = {"start_time": begin.isoformat(), "end_time": self.clock.isoformat(), "trace_id": self.trace}
        self.rows.append({**chain, **times, "inputs": {}, "outputs": None, "extra": row["extra"], "_result": None})
        return self

    def sum_up(self, summary: str) -> Talk:
        """The history is replaced by its summary, as LangChain's middleware has it made."""
        told = "\n".join(json.dumps(m) for m in self.messages)
        first = [m for m in self.messages if m["role"] == "system"]
        self.messages = [{"role": "user", "content": f"Sum this up: {told}"}]
        self.ai(summary, keep=False, purpose="summarization")
        self.messages = [*first, {"role": "user", "content": f"This is what was said: {summary}"}]
        return self

    def tool(self, name: str, args: dict[str, Any], result: str, *, took: float = 0.5) -> Talk:
        """A tool that the app calls by itself."""
        self._row("tool", name, args, {"output": result}, None, took, next(self.numbers), None, result)
        return self

    def retrieve(self, query: str, documents: list[str], name: str = "VectorStoreRetriever") -> Talk:
        """A retriever that the app calls by itself."""
        found = {"documents": [{"page_content": d, "metadata": {}} for d in documents]}
        self._row("retriever", name, {"query": query}, found, None, 0.3, next(self.numbers))
        return self

    def _row(
        self, kind: str, name: str, inputs: Any, outputs: Any, error: str | None, seconds: float, number: int,
        call_id: str | None = None, result: Any = None,
    ) -> None:  # fmt: skip
        start, self.clock = self.clock, self.clock + timedelta(seconds=seconds)
        extra: dict[str, Any] = {
            "metadata": {"thread_id": self.session, "ls_provider": self.provider, "ls_model_name": self.model}
        }
        if kind == "llm":
            extra["invocation_params"] = {
                "model": self.model,
                **self.params,
                **({"tools": self.tools} if self.tools else {}),
            }
        if call_id is not None:
            extra["tool_call_id"] = call_id
        self.rows.append(
            {
                "id": f"{self.session}-{number}", "name": name, "run_type": kind, "start_time": start.isoformat(),
                "end_time": self.clock.isoformat(), "trace_id": self.trace, "inputs": inputs, "outputs": outputs,
                "error": error, "extra": extra, "_result": result,
            }
        )  # fmt: skip


def through_rows(*talks: Talk, **kwargs: Any) -> Sentinel:
    """As LangSmith rows, replayed."""
    sentinel = Sentinel(**kwargs)
    replay = Replay(sentinel)
    runs = [run_from_row(r) for talk in talks for r in talk.rows]
    for run in sorted((r for r in runs if isinstance(r, Run)), key=lambda r: (r.started_at, r.id)):
        replay.feed(run)
    replay.finish()
    assert sentinel.health().faults == {}
    return sentinel


def through_callbacks(*talks: Talk, **kwargs: Any) -> Sentinel:
    """As LangChain's callback manager hands them over: real messages, results and exceptions."""
    sentinel = Sentinel(**kwargs)
    now = [0.0]
    handler = TokenSentinelHandler(sentinel, clock=lambda: now[0])
    rows = sorted((r for talk in talks for r in talk.rows), key=lambda r: (r["start_time"], r["id"]))
    for row in rows:
        extra, above = row["extra"], row.get("parent_run_id", row["trace_id"])
        handler.adopt(above, row["trace_id"])
        manager = CallbackManager(handlers=[], parent_run_id=above, metadata=extra["metadata"])
        manager.add_handler(handler)
        now[0] = datetime.fromisoformat(row["start_time"]).timestamp()
        error = _exception(row["error"]) if row["error"] else None
        if row["run_type"] == "llm":
            params = extra["invocation_params"]
            messages = [convert_to_messages(row["inputs"]["messages"])]
            [run] = manager.on_chat_model_start({}, messages, invocation_params=params, options={}, name=row["name"])
            now[0] = datetime.fromisoformat(row["end_time"]).timestamp()
            result = LLMResult(generations=[[ChatGeneration(message=_message(row["outputs"]["message"]))]])
            run.on_llm_error(error, response=result) if error is not None else run.on_llm_end(result)
        elif row["run_type"] == "chain":
            assert error is not None
            now[0] = datetime.fromisoformat(row["end_time"]).timestamp()
            handler.on_chain_error(error, run_id=row["id"])
        elif row["run_type"] == "tool":
            call_id = extra.get("tool_call_id")
            tool = manager.on_tool_start({}, "", inputs=row["inputs"], name=row["name"], tool_call_id=call_id)
            now[0] = datetime.fromisoformat(row["end_time"]).timestamp()
            output = (row["outputs"] or {}).get("output")
            if isinstance(row["_result"], Exception):
                tool.on_tool_error(row["_result"])
            else:
                tool.on_tool_end(convert_to_messages([output])[0] if isinstance(output, dict) else output)
        else:
            retriever = manager.on_retriever_start({}, row["inputs"]["query"], name=row["name"])
            now[0] = datetime.fromisoformat(row["end_time"]).timestamp()
            retriever.on_retriever_end([Document(d["page_content"]) for d in row["outputs"]["documents"]])
    assert sentinel.health().faults == {}
    assert handler.pending() == {}
    return sentinel


def _message(recorded: dict[str, Any]) -> AIMessage:
    message = convert_to_messages([{k: v for k, v in recorded.items() if k in ("role", "content", "tool_calls")}])[0]
    assert isinstance(message, AIMessage)
    return message.model_copy(
        update={"usage_metadata": recorded["usage_metadata"], "response_metadata": recorded["response_metadata"]}
    )


def _exception(text: str) -> BaseException:
    name, _, rest = text.partition("(")
    made = type(name, (Exception,), {})
    return made(rest.partition(")")[0].strip("'\""))  # type: ignore[no-any-return]


def observations(*talks: Talk) -> list[dict[str, Any]]:
    """The rows as Langfuse's own LangChain handler records them and its v2 endpoint hands them out."""
    kinds = {"llm": "GENERATION", "tool": "TOOL", "retriever": "RETRIEVER", "chain": "CHAIN"}
    made = []
    for talk in talks:
        for row in talk.rows:
            metadata = row["extra"]["metadata"]
            observation: dict[str, Any] = {
                "id": row["id"], "traceId": row["trace_id"], "projectId": "p", "type": kinds[row["run_type"]],
                "name": row["name"], "startTime": row["start_time"].replace("+00:00", "Z"),
                "endTime": row["end_time"].replace("+00:00", "Z"), "level": "DEFAULT", "statusMessage": None,
                "sessionId": metadata["thread_id"], "tags": [], "parentObservationId": row.get("parent_run_id"),
                "metadata": {k: v for k, v in metadata.items() if k in ("ls_provider", "lc_source")},
            }  # fmt: skip
            if row["error"]:
                text = row["error"].partition("(")[2].partition(")")[0].strip("'\"")
                level = "DEFAULT" if row["error"].startswith("GraphInterrupt") else "ERROR"
                observation |= {"level": level, "statusMessage": text or row["error"]}
            output: Any = (row["outputs"] or {}).get("output")
            given = row["inputs"]
            if row["run_type"] == "llm":
                given, output = _langfuse_call(row, observation)
            elif row["run_type"] == "retriever":
                given, output = given["query"], row["outputs"]["documents"]
            observation |= {"input": json.dumps(given), "output": None if output is None else json.dumps(output)}
            made.append(observation)
    return made


def _langfuse_call(row: dict[str, Any], observation: dict[str, Any]) -> tuple[Any, Any]:
    params = dict(row["extra"]["invocation_params"])
    tools = params.pop("tools", [])
    message = row["outputs"]["message"]
    usage = message["usage_metadata"]
    cached, reasoning = usage["input_token_details"]["cache_read"], usage["output_token_details"]["reasoning"]
    observation |= {
        "model": params.pop("model"),
        "modelParameters": json.dumps(params),
        "usageDetails": {
            "input": usage["input_tokens"] - cached, "input_cache_read": cached,
            "output": usage["output_tokens"] - reasoning, "output_reasoning": reasoning, "total": usage["total_tokens"],
        },
        "costDetails": {},
    }  # fmt: skip
    made = _message(message)
    said: dict[str, Any] = {"role": "assistant", "content": made.content}
    if made.tool_calls:
        said["tool_calls"] = made.tool_calls
    given = [*row["inputs"]["messages"], *({"role": "tool", "content": tool} for tool in tools)]
    return given, None if row["error"] else said


def through_langfuse(*talks: Talk, **kwargs: Any) -> Sentinel:
    """As Langfuse observations, replayed."""
    sentinel = Sentinel(**kwargs)
    replay = Replay(sentinel)
    made = observations(*talks)
    runs = [run_from_observation(o) for o in made]
    assert all(isinstance(run, Run) or o["type"] == "CHAIN" for o, run in zip(made, runs, strict=True))
    for run in sorted((r for r in runs if isinstance(r, Run)), key=lambda r: (r.started_at, r.id)):
        replay.feed(run)
    replay.finish()
    assert sentinel.health().faults == {}
    return sentinel


def requests(*talks: Talk) -> list[dict[str, Any]]:
    """The model calls as Helicone records them: OpenAI's bodies, no tools."""
    made = []
    for talk in talks:
        for row in (r for r in talk.rows if r["run_type"] == "llm"):
            message = row["outputs"]["message"]
            usage, params = message["usage_metadata"], row["extra"]["invocation_params"]
            said = {k: v for k, v in message.items() if k in ("role", "content", "tool_calls")}
            answer = {"choices": [{"message": said, "finish_reason": message["response_metadata"]["finish_reason"]}]}
            made.append(
                {
                    "request_id": row["id"], "request_created_at": row["start_time"],
                    "response_created_at": row["end_time"], "response_status": 429 if row["error"] else 200,
                    "provider": talk.provider.upper(), "request_model": talk.model, "response_model": talk.model,
                    "request_path": "/v1/chat/completions", "request_properties": {"Helicone-Session-Id": talk.session},
                    "prompt_tokens": usage["input_tokens"], "completion_tokens": usage["output_tokens"],
                    "prompt_cache_read_tokens": usage["input_token_details"]["cache_read"],
                    "reasoning_tokens": usage["output_token_details"]["reasoning"],
                    "request_body": {"messages": row["inputs"]["messages"], **params},
                    "response_body": {} if row["error"] else answer,
                }
            )  # fmt: skip
    return made


def through_helicone(*talks: Talk, **kwargs: Any) -> Sentinel:
    """As Helicone rows, replayed."""
    sentinel = Sentinel(**kwargs)
    replay = Replay(sentinel)
    runs = [run_from_request(r) for r in requests(*talks)]
    assert all(isinstance(run, Run) for run in runs)
    for run in sorted((r for r in runs if isinstance(r, Run)), key=lambda r: (r.started_at, r.id)):
        replay.feed(run)
    replay.finish()
    assert sentinel.health().faults == {}
    return sentinel


DOORS = {"live callbacks": through_callbacks, "LangSmith rows": through_rows, "Langfuse rows": through_langfuse}
DOORS["Helicone rows"] = through_helicone
# what Langfuse's LangChain handler does not record: the type of an exception, and a stream that was left has nothing
# else; why an answer ended
BLIND = {("Langfuse rows", "abandoned_stream"), ("Langfuse rows", "truncated_output")}
# Helicone sees model calls; tools that no model asked for, retrievers and streams that were left are not recorded
BLIND |= {
    ("Helicone rows", rule)
    for rule in (
        "retrieval_thrash", "rerank_thrash", "audio_multichannel_doubling", "abandoned_stream", "compaction_thrash",
        "discarded_output",
    )
}  # fmt: skip
