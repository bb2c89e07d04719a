"""The sessions of `talk`, written to files as instrumentations and logs write them, and read back by the importer.

The shapes are written by hand after the conventions: OTLP's JSON encoding (ids in hexadecimal, whole numbers as
strings, `AnyValue`), OpenTelemetry's GenAI attributes, OpenInference's attributes, OpenLLMetry's numbered ones, and
the bodies of OpenAI's and Anthropic's APIs. Spans are written in order of their end, as exporters do.
"""

from __future__ import annotations

import json
import tempfile
from datetime import datetime
from hashlib import md5
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts_importers.files import FileImporter
from ts_langchain import Sentinel
from ts_langchain.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rules.talk import Talk

    Render = Callable[..., list[dict[str, Any]]]


def any_value(value: Any) -> dict[str, Any]:
    """`AnyValue` in OTLP's JSON."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(v) for v in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": [{"key": k, "value": any_value(v)} for k, v in value.items()]}}
    return {"stringValue": value}


def pairs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": k, "value": any_value(v)} for k, v in attributes.items() if v is not None]


def nanos(text: str) -> str:
    at = datetime.fromisoformat(text)
    return str(int(at.timestamp()) * 10**9 + at.microsecond * 1000)


def raised(row: dict[str, Any]) -> tuple[str, str]:
    """Type and message of the exception that LangChain's tracer recorded as text."""
    name, _, rest = row["error"].partition("(")
    return name, rest.partition(")")[0].strip("'\"")


def answer(row: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = row["outputs"]["message"]
    return message


def otlp(talks: Iterable[Talk], attributes: Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]) -> list[Any]:
    """One `ExportTraceServiceRequest` for every eight spans, children and late ones first."""
    spans = []
    for talk in talks:
        for row in talk.rows:
            name, found = ("RunnableSequence", {}) if row["run_type"] == "chain" else attributes(row)
            span: dict[str, Any] = {
                "traceId": row["trace_id"].replace("-", ""),
                "spanId": span_id(row),
                "parentSpanId": above(row),
                "name": name,
                "kind": 3,
                "startTimeUnixNano": nanos(row["start_time"]),
                "endTimeUnixNano": nanos(row["end_time"]),
                "attributes": pairs(found),
                "status": {},
            }
            if row["error"]:
                kind, message = raised(row)
                span["status"] = {"code": 2, "message": message}
                about = {"exception.type": kind, "exception.message": message, "exception.stacktrace": "..."}
                span["events"] = [
                    {"name": "exception", "timeUnixNano": nanos(row["end_time"]), "attributes": pairs(about)}
                ]
            spans.append(span)
    spans.sort(key=lambda s: (s["endTimeUnixNano"], s["spanId"]), reverse=True)
    return [
        {
            "resourceSpans": [
                {
                    "resource": {"attributes": pairs({"service.name": "agent"})},
                    "scopeSpans": [{"scope": {"name": "instrumentation"}, "spans": spans[n : n + 8]}],
                }
            ]
        }
        for n in range(0, len(spans), 8)
    ]


def span_id(row: dict[str, Any]) -> str:
    return digest(row["id"])


def above(row: dict[str, Any]) -> str:
    """The span around it: a chain's, or the whole run's."""
    return digest(row["parent_run_id"]) if "parent_run_id" in row else row["trace_id"].replace("-", "")[:16]


def digest(name: str) -> str:
    return md5(name.encode(), usedforsecurity=False).hexdigest()[:16]


# --- GenAI conventions -----------------------------------------------------------------------------


def parts(message: dict[str, Any]) -> dict[str, Any]:
    """A message of parts."""
    if message["role"] == "tool":
        made = {"type": "tool_call_response", "id": message["tool_call_id"], "response": message["content"]}
        return {"role": "tool", "parts": [made]}
    content = message["content"]
    found: list[dict[str, Any]] = []
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if block["type"] == "text":
            found.append({"type": "text", "content": block["text"]})
        else:
            uri = block["image_url"]["url"]
            found.append({"type": "uri", "modality": "image", "mime_type": "image/png", "uri": uri})
    for call in message.get("tool_calls", ()):
        function = call["function"]
        arguments = json.loads(function["arguments"])
        found.append({"type": "tool_call", "id": call["id"], "name": function["name"], "arguments": arguments})
    return {"role": message["role"], "parts": found}


def genai_attributes(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    metadata = row["extra"]["metadata"]
    common = {"gen_ai.conversation.id": metadata["thread_id"], "gen_ai.provider.name": metadata["ls_provider"]}
    if row["run_type"] == "tool":
        output = (row["outputs"] or {}).get("output")
        result = output["content"] if isinstance(output, dict) else output
        return f"execute_tool {row['name']}", {
            **common,
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": row["name"],
            "gen_ai.tool.call.id": row["extra"].get("tool_call_id"),
            "gen_ai.tool.call.arguments": json.dumps(row["inputs"]),
            "gen_ai.tool.call.result": result,
        }
    if row["run_type"] == "retriever":
        documents = [{"id": str(n), "content": d["page_content"]} for n, d in enumerate(row["outputs"]["documents"])]
        return f"retrieval {row['name']}", {
            **common,
            "gen_ai.operation.name": "retrieval",
            "gen_ai.data_source.id": row["name"],
            "gen_ai.retrieval.query.text": row["inputs"]["query"],
            "gen_ai.retrieval.documents": documents,
        }
    params, said = row["extra"]["invocation_params"], answer(row)
    usage = said["usage_metadata"]
    reason = said["response_metadata"]["finish_reason"]
    reason = "tool_call" if reason == "tool_calls" else reason
    messages = row["inputs"]["messages"]
    apart = messages[0]["role"] == "system" and isinstance(messages[0]["content"], str)
    output_message = {**parts(said), "finish_reason": reason}
    return f"chat {metadata['ls_model_name']}", {
        **common,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": metadata["ls_model_name"],
        "gen_ai.request.temperature": params.get("temperature"),
        "gen_ai.system_instructions": [{"type": "text", "content": messages[0]["content"]}] if apart else None,
        "gen_ai.input.messages": json.dumps([parts(m) for m in (messages[1:] if apart else messages)]),
        "gen_ai.output.messages": json.dumps([output_message]),
        "gen_ai.tool.definitions": json.dumps(params["tools"]) if "tools" in params else None,
        "gen_ai.response.finish_reasons": [reason],
        "gen_ai.usage.input_tokens": usage["input_tokens"],
        "gen_ai.usage.output_tokens": usage["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["input_token_details"]["cache_read"],
        "gen_ai.usage.reasoning.output_tokens": usage["output_token_details"]["reasoning"],
    }


# --- OpenLLMetry -----------------------------------------------------------------------------------


def openllmetry_attributes(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    metadata = row["extra"]["metadata"]
    common = {"traceloop.association.properties.thread_id": metadata["thread_id"]}
    if row["run_type"] != "llm":
        inputs = json.dumps({"input_str": str(row["inputs"]), "inputs": row["inputs"]})
        output = json.dumps(row["outputs"]) if row["outputs"] else None
        kind = "tool" if row["run_type"] == "tool" else "task"
        return f"{row['name']}.{kind}", {
            **common,
            "traceloop.span.kind": kind,
            "traceloop.entity.name": row["name"],
            "traceloop.entity.input": inputs,
            "traceloop.entity.output": output,
        }
    params, said = row["extra"]["invocation_params"], answer(row)
    usage = said["usage_metadata"]
    found: dict[str, Any] = {
        **common,
        "llm.request.type": "chat",
        "gen_ai.system": metadata["ls_provider"].capitalize(),
        "gen_ai.request.model": metadata["ls_model_name"],
        "gen_ai.response.model": metadata["ls_model_name"],
        "gen_ai.request.temperature": params.get("temperature"),
        "gen_ai.usage.prompt_tokens": usage["input_tokens"],
        "gen_ai.usage.completion_tokens": usage["output_tokens"],
        "llm.usage.total_tokens": usage["total_tokens"],
        "gen_ai.usage.cache_read_input_tokens": usage["input_token_details"]["cache_read"],
        "gen_ai.usage.reasoning_tokens": usage["output_token_details"]["reasoning"],
    }
    for n, message in enumerate(row["inputs"]["messages"]):
        found |= numbered(f"gen_ai.prompt.{n}", message)
    found |= numbered("gen_ai.completion.0", said)
    found["gen_ai.completion.0.finish_reason"] = said["response_metadata"]["finish_reason"]
    for n, tool in enumerate(params.get("tools", ())):
        function = tool["function"]
        found[f"llm.request.functions.{n}.name"] = function["name"]
        found[f"llm.request.functions.{n}.description"] = function["description"]
        found[f"llm.request.functions.{n}.parameters"] = json.dumps(function["parameters"])
    return f"{metadata['ls_model_name']}.chat", found


def numbered(prefix: str, message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    found = {
        f"{prefix}.role": message["role"],
        f"{prefix}.content": content if isinstance(content, str) else json.dumps(content),
        f"{prefix}.tool_call_id": message.get("tool_call_id"),
    }
    for n, call in enumerate(message.get("tool_calls", ())):
        found[f"{prefix}.tool_calls.{n}.id"] = call["id"]
        found[f"{prefix}.tool_calls.{n}.name"] = call["function"]["name"]
        found[f"{prefix}.tool_calls.{n}.arguments"] = call["function"]["arguments"]
    return found


# --- OpenInference ---------------------------------------------------------------------------------


def openinference_attributes(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    metadata = row["extra"]["metadata"]
    common = {
        "openinference.span.kind": row["run_type"].upper(),
        "session.id": metadata["thread_id"],
        "metadata": json.dumps({k: v for k, v in metadata.items() if k in ("ls_provider", "lc_source")}),
    }
    if row["run_type"] == "chain":
        return row["name"], common
    if row["run_type"] == "tool":
        return row["name"], {
            **common,
            "tool.name": row["name"],
            "input.value": json.dumps(row["inputs"]),
            "input.mime_type": "application/json",
            "output.value": json.dumps(row["outputs"]) if row["outputs"] else None,
            "tool_call.id": row["extra"].get("tool_call_id"),
        }
    if row["run_type"] == "retriever":
        found: dict[str, Any] = {**common, "input.value": row["inputs"]["query"]}
        for n, document in enumerate(row["outputs"]["documents"]):
            found[f"retrieval.documents.{n}.document.content"] = document["page_content"]
            found[f"retrieval.documents.{n}.document.metadata"] = json.dumps(document["metadata"])
        return row["name"], found
    params, said = row["extra"]["invocation_params"], answer(row)
    usage = said["usage_metadata"]
    found = {
        **common,
        "llm.model_name": metadata["ls_model_name"],
        "llm.provider": metadata["ls_provider"],
        "llm.system": metadata["ls_provider"],
        "llm.invocation_parameters": json.dumps({k: v for k, v in params.items() if k != "tools"}),
        "llm.token_count.prompt": usage["input_tokens"],
        "llm.token_count.completion": usage["output_tokens"],
        "llm.token_count.total": usage["total_tokens"],
        "llm.token_count.prompt_details.cache_read": usage["input_token_details"]["cache_read"],
        "llm.token_count.completion_details.reasoning": usage["output_token_details"]["reasoning"],
        "llm.finish_reason": said["response_metadata"]["finish_reason"],
        "input.value": json.dumps({"messages": [row["inputs"]["messages"]]}),
    }
    for n, message in enumerate(row["inputs"]["messages"]):
        found |= spelled(f"llm.input_messages.{n}.message", message)
    found |= spelled("llm.output_messages.0.message", said)
    for n, tool in enumerate(params.get("tools", ())):
        found[f"llm.tools.{n}.tool.json_schema"] = json.dumps(tool)
    return "ChatModel", found


def spelled(prefix: str, message: dict[str, Any]) -> dict[str, Any]:
    found = {f"{prefix}.role": message["role"], f"{prefix}.tool_call_id": message.get("tool_call_id")}
    content = message["content"]
    if isinstance(content, str):
        found[f"{prefix}.content"] = content
    else:
        for n, block in enumerate(content):
            at = f"{prefix}.contents.{n}.message_content"
            found[f"{at}.type"] = "text" if block["type"] == "text" else "image"
            if block["type"] == "text":
                found[f"{at}.text"] = block["text"]
            else:
                found[f"{at}.image.image.url"] = block["image_url"]["url"]
    for n, call in enumerate(message.get("tool_calls", ())):
        at = f"{prefix}.tool_calls.{n}.tool_call"
        found[f"{at}.id"] = call["id"]
        found[f"{at}.function.name"] = call["function"]["name"]
        found[f"{at}.function.arguments"] = call["function"]["arguments"]
    return found


def unflattened(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as Phoenix hands them out: objects in objects, lists for numbered keys, JSON parsed where it was."""

    def plant(at: dict[str, Any], key: str, value: Any) -> None:
        head, dot, rest = key.partition(".")
        if dot:
            plant(at.setdefault(head, {}), rest, value)
        else:
            at[head] = value

    def listed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if value and all(k.isdigit() for k in value):
            return [listed(v) for _, v in sorted(value.items(), key=lambda i: int(i[0]))]
        return {k: listed(v) for k, v in value.items()}

    tree: dict[str, Any] = {}
    for key, value in attributes.items():
        if value is not None:
            plant(tree, key, json.loads(value) if key == "metadata" else value)
    return {k: listed(v) for k, v in tree.items()}


def phoenix(talks: Iterable[Talk]) -> list[dict[str, Any]]:
    """Spans as Phoenix exports them."""
    made = []
    for talk in talks:
        for row in talk.rows:
            name, attributes = openinference_attributes(row)
            kind, message = raised(row) if row["error"] else ("", "")
            about = {"exception.type": kind, "exception.message": message}
            made.append(
                {
                    "name": name,
                    "context": {"trace_id": row["trace_id"].replace("-", ""), "span_id": span_id(row)},
                    "span_kind": row["run_type"].upper(),
                    "parent_id": above(row),
                    "start_time": row["start_time"],
                    "end_time": row["end_time"],
                    "status_code": "ERROR" if row["error"] else "OK",
                    "status_message": message,
                    "attributes": unflattened(attributes),
                    "events": [{"name": "exception", "timestamp": row["end_time"], "attributes": about}]
                    if row["error"]
                    else [],
                }
            )
    made.sort(key=lambda s: str(s["end_time"]), reverse=True)
    return made


# --- requests and responses ------------------------------------------------------------------------


def chat_completions(talks: Iterable[Talk]) -> list[dict[str, Any]]:
    """OpenAI's chat completions, the model calls only."""
    made = []
    for talk in talks:
        for row in (r for r in talk.rows if r["run_type"] == "llm"):
            said, params = answer(row), row["extra"]["invocation_params"]
            usage = said["usage_metadata"]
            message = {k: v for k, v in said.items() if k in ("role", "content", "tool_calls")}
            body = {
                "id": f"chatcmpl-{row['id']}",
                "object": "chat.completion",
                "model": talk.model,
                "choices": [
                    {"index": 0, "message": message, "finish_reason": said["response_metadata"]["finish_reason"]}
                ],
                "usage": {
                    "prompt_tokens": usage["input_tokens"],
                    "completion_tokens": usage["output_tokens"],
                    "total_tokens": usage["total_tokens"],
                    "prompt_tokens_details": {"cached_tokens": usage["input_token_details"]["cache_read"]},
                    "completion_tokens_details": {"reasoning_tokens": usage["output_token_details"]["reasoning"]},
                },
            }
            error = {"error": {"message": "no", "type": raised(row)[0]}} if row["error"] else None
            made.append(
                {
                    "id": row["id"],
                    "session_id": talk.session,
                    "provider": talk.provider,
                    "start_time": row["start_time"],
                    "end_time": row["end_time"],
                    "request": {**params, "messages": row["inputs"]["messages"]},
                    "response": error or body,
                }
            )
    return made


def read_back(rows: list[Any], **kwargs: Any) -> Sentinel:
    """The rows as JSON lines in a file, imported and replayed."""
    sentinel = Sentinel(**kwargs)
    replay = Replay(sentinel)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for page in FileImporter(path).pages():
            assert page.skipped == []
            for run in page.runs:
                replay.feed(run)
    replay.finish()
    assert sentinel.health().faults == {}
    return sentinel


# OpenLLMetry has no spans for retrievers; the span conventions do not say in which detail an image was sent; logs of
# requests hold model calls only, and nothing of an answer that was left
FILE_BLIND = {("OpenLLMetry spans", "retrieval_thrash"), ("OpenLLMetry spans", "rerank_thrash")}
FILE_BLIND |= {
    (door, "vision_high_detail_misroute") for door in ("GenAI spans", "OpenInference spans", "Phoenix spans")
}
FILE_BLIND |= {
    ("Requests and responses", rule)
    for rule in (
        "retrieval_thrash",
        "rerank_thrash",
        "audio_multichannel_doubling",
        "abandoned_stream",
        "discarded_output",
    )
}
FILE_BLIND |= {(door, "compaction_thrash") for door in ("GenAI spans", "OpenLLMetry spans", "Requests and responses")}
# an image of unknown detail counts as a small one: found, at fewer tokens
FILE_ESTIMATES = {(door, "vision_re_upload") for door in ("GenAI spans", "OpenInference spans", "Phoenix spans")}
FILE_DOORS: dict[str, Callable[..., Sentinel]] = {
    "GenAI spans": lambda *talks, **kw: read_back(otlp(talks, genai_attributes), **kw),
    "OpenInference spans": lambda *talks, **kw: read_back(otlp(talks, openinference_attributes), **kw),
    "OpenLLMetry spans": lambda *talks, **kw: read_back(otlp(talks, openllmetry_attributes), **kw),
    "Phoenix spans": lambda *talks, **kw: read_back(phoenix(talks), **kw),
    "Requests and responses": lambda *talks, **kw: read_back(chat_completions(talks), **kw),
}
