"""Conversations as lists of OpenAI-style messages, mostly without times, usage or a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from ts_importers.base import Skipped
from ts_importers.formats.base import Key, Row, Setting, first
from ts_importers.values import timestamp
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOTHING: Mapping[str, object] = {}


class Conversations:
    """A conversation a row: a model run for each assistant message, a tool run for each tool message.

    What follows a message of the user is a trace of its own, as it is where agents are traced.
    """

    name = "messages"
    title = "OpenAI-style conversations"
    expects = "messages"
    spans = False

    def recognises(self, document: Row) -> str | None:
        return self.title if isinstance(document.get("messages"), list) else None

    def rows(self, document: Row) -> tuple[Row]:
        return (document,)

    def key(self, row: Row) -> Key:
        return Key(_started(row))

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        messages = row.get("messages")
        if not isinstance(messages, list):
            return [Skipped(setting.place, "no list of messages")]
        if not all(isinstance(m, dict) for m in messages):
            return [Skipped(setting.place, "a message is not an object")]
        started = _started(row)
        clock = setting.clock if started is None else started
        session = first(row, "session_id", "thread_id", "conversation_id", "id")
        session = setting.place.replace(" ", "-") if session is None else str(session)
        named = row.get("model")
        model = named if isinstance(named, str) and named else setting.model
        metadata = {
            "session_id": session,
            "ls_model_name": model,
            "ls_provider": row.get("provider") or setting.provider,
        }
        tools = row.get("tools")
        params: dict[str, object] = {"tools": tools} if isinstance(tools, list) and tools else {}
        row_id = f"{session}#{setting.place.removeprefix('line ')}"
        trace = row_id
        runs: list[Run | Skipped] = []
        asked: dict[str, tuple[str, object]] = {}
        for number, message in enumerate(messages):
            role, at, run_id = message.get("role"), clock + number, f"{row_id}/{number}"
            if role == "user":
                trace = f"{row_id}/{number}"
            elif role == "assistant":
                _remember(message.get("tool_calls"), asked)
                runs.append(
                    Run(
                        run_id,
                        "llm",
                        model or "model",
                        at,
                        at + 0.5,
                        trace,
                        inputs={"messages": messages[:number]},
                        outputs={"message": message, "usage": message.get("usage") or _NOTHING},
                        metadata=metadata,
                        invocation_params=params,
                    )
                )
            elif role == "tool":
                call_id = str(message.get("tool_call_id"))
                name, args = asked.get(call_id, (str(message.get("name") or "tool"), None))
                runs.append(
                    Run(
                        run_id,
                        "tool",
                        name,
                        at,
                        at + 0.5,
                        trace,
                        inputs=arguments(args),
                        outputs={"output": message},
                        metadata=metadata,
                        tool_call_id=call_id,
                    )
                )
        return runs


def _started(row: Row) -> float | None:
    for name in ("created_at", "created", "timestamp"):
        started = timestamp(row.get(name))
        if started is not None:
            return started
    return None


def _remember(calls: object, asked: dict[str, tuple[str, object]]) -> None:
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            function = call.get("function")
            source = function if isinstance(function, dict) else call
            asked[str(call.get("id"))] = (
                str(source.get("name") or "tool"),
                source.get("arguments", source.get("args")),
            )


def arguments(args: object) -> Mapping[str, object]:
    """Arguments of a tool call: an object, or the JSON of one."""
    if isinstance(args, str):
        try:
            parsed = orjson.loads(args)
        except ValueError:
            parsed = None
        return parsed if isinstance(parsed, dict) else {"input": args}
    return args if isinstance(args, dict) else {}
