"""Conversations as lists of messages, in OpenAI's, Anthropic's or LangChain's shape; mostly without times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from ts_importers.base import Skipped
from ts_importers.bodies import mapping, text
from ts_importers.formats.base import Key, Row, Setting, first
from ts_importers.values import MAX_USD, number, timestamp
from ts_langchain.call import SourceCost
from ts_langchain.capture.messages import label, name_of, read_message, unwrap
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOTHING: Mapping[str, object] = {}
_SESSION = ("session_id", "thread_id", "conversation_id", "id")


class Conversations:
    """A conversation a row: a model run for each assistant message, a tool run for each tool message.

    What follows a message of the user is a trace of its own, as it is where agents are traced.
    """

    name = "messages"
    title = "conversations"
    expects = "messages, or values with messages"
    spans = False

    def recognises(self, document: Row) -> str | None:
        messages = _messages(document)
        if not isinstance(messages, list):
            return None
        fields = [unwrap(m) for m in messages if isinstance(m, dict)]
        return "LangChain's messages" if any("response_metadata" in f for f in fields) else self.title

    def rows(self, document: Row) -> tuple[Row]:
        return (document,)

    def key(self, row: Row) -> Key:
        return Key(_started(row))

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        messages = _messages(row)
        if not isinstance(messages, list):
            return [Skipped(setting.place, "no list of messages")]
        if not all(isinstance(m, dict) for m in messages):
            return [Skipped(setting.place, "a message is not an object")]
        started = _started(row)
        clock = setting.clock if started is None else started
        named = _session(row)
        session = named or setting.place.replace(" ", "-")
        about = {"session_id": session}
        tools = row.get("tools")
        params: dict[str, object] = {"tools": tools} if isinstance(tools, list) and tools else {}
        row_id = f"{session}#{setting.place.removeprefix('line ')}"
        trace = row_id
        messages = [_answering(m) for m in messages]
        reads = [read_message(m) for m in messages]
        answers = [index for index, read in enumerate(reads) if read.role == "ai"]
        checkpoint, known = _is_checkpoint(row), 0
        if setting.retold is not None and named is not None and not checkpoint:
            known = setting.retold.known(named, [read.digest for read in reads], answers)
        # of several answers nobody knows which part is whose
        beside = mapping(row.get("usage")) if sum(index >= known for index in answers) == 1 else _NOTHING
        runs: list[Run | Skipped] = []
        asked: dict[str, tuple[str, object]] = {}
        for index, (message, read) in enumerate(zip(messages, reads, strict=True)):
            fields = unwrap(message)
            own = text(fields.get("id")) if checkpoint else None
            at, run_id = clock + max(0, index - known), f"{row_id}/{index}" if own is None else f"{session}#{own}"
            if read.role == "human":
                trace = run_id
            elif read.role == "ai" and not fields.get("is_demo"):
                asked |= {call.id: (call.name or "tool", call.args) for call in read.tool_calls}
                if index < known:
                    continue
                recorded, cost = _recorded(fields)
                metadata = about | _model(row, {**fields, **recorded}, setting)
                runs.append(
                    Run(
                        run_id,
                        "llm",
                        metadata["ls_model_name"] or "model",
                        at,
                        at + 0.5,
                        trace,
                        inputs=_Prompt(messages, index),
                        outputs={"message": message, "usage": fields.get("usage") or recorded.get("usage") or beside},
                        metadata=metadata,
                        invocation_params=params,
                        cost=cost,
                    )
                )
            elif read.role == "tool" and str(fields.get("role")) != "user":  # Anthropic's are read out of the prompts
                if index < known:
                    continue
                call_id = label(fields.get("tool_call_id"))
                name, args = asked.get(call_id, (name_of(fields.get("name")) or "tool", None))
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
                        metadata=about | _model(row, {}, setting),
                        tool_call_id=call_id or None,
                    )
                )
        return runs


class _Prompt(Mapping[str, Any]):
    """What was said before an answer, copied only when it is asked for: the prompts of a long talk hold it many times.

    Args:
        messages: The whole conversation.
        length: How many of its messages came before.
    """

    __slots__ = ("_length", "_messages")

    def __init__(self, messages: list[Any], length: int) -> None:
        self._messages, self._length = messages, length

    def __getitem__(self, name: str) -> list[Any]:
        if name != "messages":
            raise KeyError(name)
        return self._messages[: self._length]

    def __iter__(self) -> Iterator[str]:
        return iter(("messages",))

    def __len__(self) -> int:
        return 1


def _messages(row: Row) -> object:
    """The messages; of a LangGraph thread's state those in its values; of SWE-agent's and τ-bench's files theirs."""
    messages = row.get("messages")
    if messages is None:
        messages = mapping(row.get("values")).get("messages")
    if messages is None:
        messages = next((found for n in ("history", "traj") if _are_messages(found := row.get(n))), None)
    return messages


def _are_messages(found: object) -> bool:
    return isinstance(found, list) and bool(found) and all(isinstance(m, dict) and "role" in m for m in found)


def _answering(message: Row) -> Row:
    """A message that says which call it answers: SWE-agent lists the one."""
    answered = message.get("tool_call_ids")
    if not isinstance(answered, list) or len(answered) != 1 or "tool_call_id" in message:
        return message
    return {**message, "tool_call_id": answered[0]}


def _recorded(fields: Mapping[str, object]) -> tuple[dict[str, Any], SourceCost | None]:
    """The provider's answer that mini-swe-agent keeps with a message, and what the message cost."""
    extra = mapping(fields.get("extra"))
    cost = number(fields.get("cost"), MAX_USD) or number(extra.get("cost"), MAX_USD)
    return mapping(extra.get("response")), SourceCost(total_usd=cost) if cost else None


def _session(row: Row) -> str | None:
    """The conversation that the row, or the state of a LangGraph thread, names."""
    config = mapping(mapping(row.get("config")).get("configurable"))
    places = (row, mapping(row.get("checkpoint")), config, mapping(row.get("metadata")))
    found = next((v for p in places if (v := first(p, *_SESSION)) is not None), None)
    return None if found is None else str(found)


def _is_checkpoint(row: Row) -> bool:
    """True for the state of a named thread: the next one holds its messages again, and those are known by their ids."""
    return row.get("messages") is None and _session(row) is not None and "messages" in mapping(row.get("values"))


def _model(row: Row, fields: Mapping[str, object], setting: Setting) -> dict[str, Any]:
    """The model and provider that the row names, or LangChain has noted with the message."""
    told = mapping(fields.get("response_metadata"))
    return {
        "ls_model_name": text(row.get("model"))
        or text(first(told, "model_name", "model"))
        or text(fields.get("model"))
        or setting.model,
        "ls_provider": row.get("provider") or text(told.get("model_provider")) or setting.provider,
    }


def _started(row: Row) -> float | None:
    for name in ("created_at", "created", "timestamp"):
        started = timestamp(row.get(name))
        if started is not None:
            return started
    return None


def arguments(args: object) -> Mapping[str, object]:
    """Arguments of a tool call: an object, or the JSON of one."""
    if isinstance(args, str):
        try:
            parsed = orjson.loads(args)
        except ValueError:
            parsed = None
        return parsed if isinstance(parsed, dict) else {"input": args}
    return args if isinstance(args, dict) else {}
