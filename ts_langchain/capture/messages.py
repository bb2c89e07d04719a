"""Reading a message out of what LangChain and history sources hand over.

A message may be a LangChain object, a LangChain-serialised dict (`{"lc": 1, "kwargs": …}`,
`{"type": "human", "data": …}` or `{"type": "human", "content": …}`), or OpenAI- or Anthropic-shaped. All
are read by the same code, so a live run and its export give the same fingerprints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, cast

import orjson

from ts_langchain.capture.errors import reads_unavailable
from ts_langchain.capture.images import IMAGE_KINDS, read_image
from ts_langchain.capture.pending import reads_pending
from ts_langchain.fingerprint import (
    TEXT_LIMIT,
    answer_hash,
    bounded,
    canonical,
    failure_hash,
    mix,
    name_hash,
    text_hash,
    value_digest,
    value_hash,
)

if TYPE_CHECKING:
    from ts_langchain.call import Image

ROLES = {
    "human": "human",
    "user": "human",
    "HumanMessage": "human",
    "HumanMessageChunk": "human",
    "ai": "ai",
    "assistant": "ai",
    "AIMessage": "ai",
    "AIMessageChunk": "ai",
    "model": "ai",
    "system": "system",
    "developer": "system",
    "SystemMessage": "system",
    "SystemMessageChunk": "system",
    "tool": "tool",
    "ToolMessage": "tool",
    "ToolMessageChunk": "tool",
    "function": "tool",
    "FunctionMessage": "tool",
    "FunctionMessageChunk": "tool",
}
MAX_PENDING_BLOCKS = 4
FAILURE_CHARS = 600
NAME_CHARS = 200
_SAYS_NONE = (
    r"(?:null|none|false|no\b|ok\b|success\b|[-+.\d]|[\"']\s*(?:none|null|no|ok|success|0)?\s*[\"']|\{\s*\}|\[\s*\])"
)
# `Error:` in other languages, unless there is none
_ERROR_ABROAD = (
    r"(?:fehler|erreur|erro|errore|fout|hata|błąd|ошибка|エラー|错误|錯誤|오류|에러)\s?[:：]"
    r"(?!\s*(?:0\b|kein|aucun|nenhum|nessun|geen|yok|brak|нет|无|無|なし|없))"
)
_FAILURE = re.compile(
    rf"\s*(?:\[error\b|<error>|fatal:|traceback \(most|[a-z]+(?:error|exception):|(?:permission|access) denied\b|"
    # `NameError("name 'df' is not defined")`, `Tool error: …`, `❌ Failed: …`, `**Error**: …`
    rf"[a-z]+(?:error|exception)\([^\n]*\)\s*\Z|(?:api|input|internal|server|tool) error:|{_ERROR_ABROAD}|"
    r"[❌🚫🛑⛔]\ufe0f?\s*(?:error|failed)\b|\*\*(?:error|failed)(?::?\*\*|:)|"
    r"string (?:to replace )?not found\b|no replacement was performed\b|"
    r"(?:old_?str(?:ing)?|old text|text to replace|search (?:block|text|string))\b[^\n]{0,100} not (?:be )?found\b|"
    r"<tool_use_error>|#{1,6} error[ \t]*\n|unexpected error:|mcp error -?\d|"
    r"an (?:\w+ )?error (?:has )?occurred\b(?! \((?:NoSuch|\w*NotFound))|"
    r"(?:apply_patch verification|command|edit|operation|request|tool (?:call|execution|use)) failed\b|"
    r"(?:failed|unable) to (?:access|apply|complete|connect|create|delete|edit|execute|load|open|parse|perform|process|"
    r"read|update|write)\b[^\n]{0,200}\Z|"
    rf"\{{\s*[\"'](?:(?:error|error_?message|errors)[\"']\s*:\s*(?!{_SAYS_NONE})\S|"
    r"(?:success|ok)[\"']\s*:\s*false\s*,\s*[\"'](?:errors?|error_?(?:message|code)|exception)[\"']\s*:|"
    r"status[\"']\s*:\s*[\"']error[\"']\s*,\s*"
    r"[\"'](?:errors?|error_?(?:message|code|type)|message|msg|details?)[\"']\s*:|"
    r"type[\"']\s*:\s*[\"']error[\"']\s*,\s*[\"'](?:error|message)[\"']\s*:|"
    rf"(?:result|data)[\"']\s*:\s*(?:null|None)\s*,\s*[\"']errors?[\"']\s*:\s*(?!{_SAYS_NONE})\S|"
    r"(?:status|status_?code|code)[\"']\s*:\s*(?!404)[45]\d\d\s*,\s*[\"'](?:errors?|message|msg|details?)[\"']\s*:|"
    r"is_?error[\"']\s*:\s*true))",
    re.IGNORECASE,
)

_ROLE_CODES = {"human": 1, "ai": 2, "system": 3, "tool": 4}


class ToolResult(NamedTuple):
    """The answer to a tool call, as a prompt carries it."""

    tool_call_id: str
    answer: int
    chars: int
    pending: bool
    failed: bool
    unavailable: bool = False


class Asked(NamedTuple):
    """A tool call as a message carries it: raw arguments, to be forgotten once read."""

    id: str
    name: str
    args: object
    digest: int
    chars: int


class Message(NamedTuple):
    """What is known of a message after reading it."""

    role: str
    digest: int
    content: int
    chars: int
    tool_calls: tuple[Asked, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    images: tuple[Image, ...] = ()


class Text(NamedTuple):
    """Content of a message, reduced."""

    digest: int
    chars: int
    tool_calls: tuple[Asked, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    images: tuple[Image, ...] = ()


def read_message(message: object) -> Message:
    """Reads one message in whatever shape; what is no message at all counts as a human's text."""
    kind = type(message)
    if kind is dict or is_mapping(message):
        fields = unwrap(cast("Mapping[str, Any]", message))
        role = ROLES.get(str(fields.get("role") or fields.get("type")), "human")
        content, calls, result_id = fields.get("content"), fields.get("tool_calls"), fields.get("tool_call_id")
        status = fields.get("status")
    elif kind is str:
        role, content, calls, result_id, status = "human", message, None, None, None
    elif kind is tuple or kind is list:
        pair = cast("Sequence[object]", message)
        role = ROLES.get(str(pair[0]), "human") if len(pair) == 2 else "human"
        content = pair[1] if len(pair) == 2 else message
        calls = result_id = status = None
    else:
        name = getattr(message, "type", None)
        if name == "chat":
            name = getattr(message, "role", None)
        role = ROLES.get(str(name), "human")
        content = getattr(message, "content", None)
        calls = getattr(message, "tool_calls", None) if role == "ai" else None
        result_id = status = None
        if role == "tool":
            result_id, status = getattr(message, "tool_call_id", None), getattr(message, "status", None)

    images: tuple[Image, ...] = ()
    if type(content) is str:
        body, chars = text_hash(content), len(content)
        tool_calls = read_tool_calls(calls) if calls else ()
        tool_results: tuple[ToolResult, ...] = ()
    else:
        text = _read_content(content)
        body, chars, tool_results, images = text.digest, text.chars, text.tool_results, text.images
        tool_calls = read_tool_calls(calls) if calls else text.tool_calls
    digest = hash((_ROLE_CODES[role], body))
    for asked in tool_calls:
        digest = hash((digest, name_hash(asked.name), asked.digest))
        chars += asked.chars
    if result_id is not None and role == "tool":
        pending = is_pending(content)
        failed = status == "error" or (type(content) is str and reads_failed(content))
        unavailable = failed and reads_unavailable(plain_text(content))
        answer = _answer(content, body, failed)
        tool_results = (ToolResult(label(result_id), answer, chars, pending, failed, unavailable),)
    elif tool_results:
        role = "tool"
    return Message(role, digest, body, chars, tool_calls, tool_results, images)


def unwrap(message: Mapping[str, object]) -> Mapping[str, object]:
    """The fields of a serialised message, whatever it is wrapped in."""
    inner = message.get("kwargs") if "lc" in message else message.get("data")
    if inner is not None and isinstance(inner, Mapping) and "content" in inner:
        if "type" in inner or "role" in inner:
            return inner
        ids = message.get("id")
        kind = ids[-1] if "lc" in message and isinstance(ids, list) and ids else message.get("type")
        return {**inner, "type": kind}
    return message


def _read_content(content: object) -> Text:
    """Content blocks: text is text, tool blocks are tool calls and results, the rest counts by its hash."""
    if content is None:
        return Text(text_hash(""), 0)
    if not isinstance(content, (list, tuple)):
        return Text(value_hash(content), len(str(bounded(content))))
    texts: list[str] = []
    others: list[object] = []
    calls: list[Asked] = []
    results: list[ToolResult] = []
    images: list[Image] = []
    chars = 0
    for block in content:
        if isinstance(block, str):
            texts.append(block)
        elif not isinstance(block, Mapping):
            others.append(block)
        elif isinstance(text := block.get("text"), str):
            texts.append(text)
        elif (kind := block.get("type")) in ("tool_use", "tool_call"):
            args = block.get("input") if kind == "tool_use" else block.get("args")
            calls.append(_asked(block.get("id"), block.get("name"), args))
        elif kind == "tool_result":
            inner = block.get("content")
            text_ = Text(text_hash(inner), len(inner)) if isinstance(inner, str) else _read_content(inner)
            failed = bool(block.get("is_error")) or (isinstance(inner, str) and reads_failed(inner))
            results.append(
                ToolResult(
                    label(block.get("tool_use_id")),
                    _answer(inner, text_.digest, failed),
                    text_.chars,
                    is_pending(inner),
                    failed,
                    failed and reads_unavailable(plain_text(inner)),
                )
            )
            others.append(text_.digest)
            chars += text_.chars
        elif kind in ("thinking", "reasoning"):
            thought = block.get("thinking") or block.get("reasoning")
            chars += len(thought) if isinstance(thought, str) else 0
            others.append({k: v for k, v in block.items() if k not in ("signature", "index", "id")})
        else:
            image = read_image(block) if isinstance(kind, str) and kind in IMAGE_KINDS else None
            if image is not None:
                images.append(image)
                others.append(image.digest)
            else:
                others.append({k: v for k, v in block.items() if k not in ("index", "id")})
    joined = "".join(texts)
    digest = text_hash(joined) if not others else mix(text_hash(joined), value_hash(others))
    return Text(digest, chars + len(joined), tuple(calls), tuple(results), tuple(images))


def _answer(content: object, digest: int, failed: bool) -> int:
    """Fingerprint of what a tool answered, given that of its content."""
    if type(content) is list:
        texts = [block.get("text") if isinstance(block, Mapping) else None for block in content]
        content = "\n".join(cast("list[str]", texts)) if texts and all(type(t) is str for t in texts) else None
    if type(content) is not str:
        return digest
    return failure_hash(content) if failed else answer_hash(content)


def read_tool_calls(calls: object) -> tuple[Asked, ...]:
    """Tool calls in LangChain's (`name`, `args`) or OpenAI's (`function`) shape."""
    if not isinstance(calls, (list, tuple)):
        return ()
    read = []
    for call in calls:
        if type(call) is not dict and not isinstance(call, Mapping):
            continue
        function = call.get("function")
        if function is not None and isinstance(function, Mapping):
            read.append(_asked(call.get("id"), function.get("name"), function.get("arguments")))
        else:
            read.append(_asked(call.get("id"), call.get("name"), call.get("args", call.get("arguments"))))
    return tuple(read)


def _asked(call_id: object, name: object, args: object) -> Asked:
    """Arguments may be a value, or a JSON string, which counts as what it says."""
    value = args
    if type(args) is str and args[:1] == "{" and len(args) <= TEXT_LIMIT:
        try:
            value = orjson.loads(args)
        except ValueError:
            value = args
    digest, chars = value_digest(value)
    return Asked(label(call_id), name_of(name), value, digest, chars)


def label(value: object) -> str:
    """An id or a name as text, which may be kept; empty for objects and lists: those may hold what was said."""
    if type(value) is str:
        return value
    return "" if not value or isinstance(value, (Mapping, list, tuple)) else str(value)


def name_of(value: object) -> str:
    """The name of a tool, as it is kept and shown: one line of `NAME_CHARS` at most, without control characters.

    A model may ask for a tool that there is not, in any words. Those that are changed stay apart from others.
    """
    name = label(value)
    if len(name) <= NAME_CHARS and name.isprintable():
        return name
    shown = "".join(c if c.isprintable() else "\ufffd" for c in name[: NAME_CHARS - 17])
    return f"{shown}~{text_hash(name):016x}"


def is_pending(content: object) -> bool:
    """True for a short answer, in text or blocks, that says that something is still under way."""
    if isinstance(content, str):
        return reads_pending(content)
    few = isinstance(content, (list, tuple)) and len(content) <= MAX_PENDING_BLOCKS
    return few and reads_pending(plain_text(content))


def reads_failed(content: str) -> bool:
    """True for what a tool gives back instead of raising: an error, a short text that begins like one.

    That nothing was found is an answer.
    """
    if content[:5].lower() == "error" and not (content[5:6].isalnum() or content[5:6] in ("_", ".", "-")):
        return True  # and no file called errors.py
    return len(content) <= FAILURE_CHARS and _FAILURE.match(content) is not None


def plain_text(message: object) -> str:
    """The text of a message, whatever its shape."""
    content = unwrap(message).get("content") if is_mapping(message) else getattr(message, "content", message)
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):
        return " ".join(filter(None, map(_block_text, content)))
    return ""


def _block_text(block: object) -> str:
    if isinstance(block, Mapping):
        text = block.get("text")
        if text is None and block.get("type") == "tool_result":
            return plain_text(block)
        return text if isinstance(text, str) else ""
    return block if isinstance(block, str) else ""


NOTHING: Mapping[str, object] = {}


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """`isinstance(value, Mapping)`, which is slow to ask of an abstract class, without asking twice for a class."""
    kind = type(value)
    known = _MAPS.get(kind)
    if known is None:
        if len(_MAPS) > 1024:
            _MAPS.clear()
        known = _MAPS[kind] = issubclass(kind, Mapping)
    return known


_MAPS: dict[type, bool] = {}


def mapping(value: object) -> Mapping[str, object]:
    if type(value) is dict:
        return value
    return value if value is not None and isinstance(value, Mapping) else NOTHING


def request_messages(inputs: Mapping[str, object]) -> Sequence[object]:
    """The messages of a recorded model run, whatever they are wrapped in; prompts count as human messages."""
    if "questions" in inputs and "state" in inputs:  # a decision model's
        return [canonical({name: _told(inputs[name]) for name in ("state", "questions")}).decode()]
    messages = inputs.get("messages")
    if isinstance(messages, (list, tuple)) and messages:
        first = messages[0]
        # a batch of one: [[message, …]]; but [["human", "hi"], …] is a list of pairs
        if isinstance(first, (list, tuple)) and not (len(first) == 2 and isinstance(first[0], str)):
            return first
        return messages
    for key in ("prompts", "prompt", "input", "text"):
        value = inputs.get(key)
        if isinstance(value, str):
            return [value]
        if isinstance(value, (list, tuple)) and value:
            return value
    return [messages] if isinstance(messages, (str, dict)) else []


def _told(value: object) -> object:
    """What is laid before a decision model, messages by their text: the same from objects and from what is recorded."""
    if is_mapping(value):
        if "lc" in value or ("content" in value and ("type" in value or "role" in value)):
            return _said(value, unwrap(value).get("content"), unwrap(value).get("tool_calls"))
        return {str(name): _told(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(item) for item in value]
    if hasattr(value, "content"):
        return _said(value, value.content, getattr(value, "tool_calls", None))
    return as_recorded(value)


def _said(message: object, content: object, tool_calls: object) -> object:
    """The text of a message; images and tool calls, which may be all there is, by its fingerprint."""
    text = plain_text(message)
    return text if isinstance(content, str) and not tool_calls else [text, read_message(message).digest]


def as_recorded(value: object) -> object:
    """An object in the form in which LangSmith records it."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json", exclude_none=True) if callable(dump) else value
