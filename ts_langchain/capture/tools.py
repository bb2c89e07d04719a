"""Reading tool definitions, and what tools and retrievers brought back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard, cast

from langchain_core.utils.function_calling import convert_to_openai_tool

from ts_langchain.call import Toolset
from ts_langchain.capture.errors import reads_unavailable
from ts_langchain.capture.messages import Message, is_mapping, is_pending, name_of, read_message, reads_failed, unwrap
from ts_langchain.fingerprint import (
    DEPTH_LIMIT,
    answer_hash,
    canonical,
    failure_hash,
    mix,
    name_hash,
    text_hash,
    value_hash,
)
from ts_langchain.forked import survives_fork
from ts_langchain.recent import Recent


class _Toolsets:
    """The newest 512 lists of tools of this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._known: Recent[tuple[object, ...], Toolset] = Recent()
        self.get = self._known.get
        survives_fork(self)

    def after_fork(self) -> None:
        """Has a lock of its own in a forked process."""
        self._lock = threading.RLock()

    def keep(self, key: tuple[object, ...], toolset: Toolset) -> None:
        """Remembers a list of tools."""
        with self._lock:
            self._known[key] = toolset
            self._known.limit(512)


_TOOLSETS = _Toolsets()
NAMELESS = "?"


def read_toolset(tools: object) -> Toolset | None:
    """Reads the tool definitions of a request, in OpenAI's, Anthropic's, Google's, Bedrock's or Cohere's shape.

    The lists are rebuilt by the framework at each turn; they are recognised by names, the lengths of descriptions
    and the names of parameters, so that their JSON is measured only once.
    """
    if not _is_list(tools) or not tools:
        return None
    flat = _flatten(tools)
    if not flat:
        return None
    key = tuple([_look(t) for t in flat])
    known = _TOOLSETS.get(key)
    if known is None:
        names = tuple(name for name, *_ in key)
        sizes = tuple(len(canonical(_plain(t))) for t in flat)
        known = Toolset(names, sizes, mix(*(mix(name_hash(n), size) for n, size in zip(names, sizes, strict=True))))
        _TOOLSETS.keep(key, known)
    return known


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple))


def _flatten(tools: Sequence[object]) -> list[object]:
    flat: list[object] = []
    for tool in tools:
        declarations = tool.get("function_declarations") if isinstance(tool, Mapping) else None
        if _is_list(declarations):
            flat.extend(declarations)
        elif not (isinstance(tool, Mapping) and "cachePoint" in tool):  # Bedrock's mark behind the tools to be cached
            flat.append(tool)
    return flat


def _look(tool: object) -> tuple[str, int, int, object]:
    """What a tool is recognised by: name, shape, length of its description, parameters; all of it without a name."""
    name, shape = _tool_name(tool), len(tool) if isinstance(tool, Mapping) else 0
    told = canonical(_plain(tool)) if name == NAMELESS else str(_tool_field(tool, "description") or "")
    return name, shape, len(told), _parameters(tool)


def _parameters(tool: object) -> tuple[object, ...]:
    """Names of the parameters, as far as a JSON schema tells them."""
    schema = _tool_field(tool, "parameters") or _tool_field(tool, "input_schema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return tuple(properties) if type(properties) is dict else ()


def _plain(tool: object) -> object:
    """What is sent of a definition that is full of None (langchain-google-genai), or no definition yet.

    Those are objects of langchain-cohere, and in front of a door what LangChain makes definitions of: tools, functions,
    classes.
    """
    if isinstance(tool, Mapping):
        return _said(tool)
    if hasattr(tool, "function") and callable(dump := getattr(tool, "model_dump", None)):
        return _said(dump(mode="json"))
    try:
        return convert_to_openai_tool(cast("Any", tool))
    except Exception:  # noqa: BLE001 - whatever it is, it is of some length
        return tool


def _said(value: object, depth: int = DEPTH_LIMIT) -> object:
    """A value without the None in it."""
    if not depth or not isinstance(value, (dict, list)):
        return value
    if isinstance(value, dict):
        return {key: _said(item, depth - 1) for key, item in value.items() if item is not None}
    return [_said(item, depth - 1) for item in value]


def _tool_field(tool: object, field: str) -> object:
    if not isinstance(tool, Mapping):
        return getattr(getattr(tool, "function", None) or tool, field, None)
    inner = tool.get("function") or tool.get("toolSpec")
    if isinstance(inner, Mapping):
        return inner.get(field)
    return tool.get(field)


def _tool_name(tool: object) -> str:
    name = _tool_field(tool, "name")
    if not name and not isinstance(tool, Mapping):  # a function or a class
        name = getattr(tool, "__name__", None)
    elif not name and isinstance(tool, Mapping):  # a provider's own: `{"type": "web_search"}`, `{"google_search": {}}`
        told = [key for key, value in tool.items() if value is not None]
        name = tool.get("type") or (told[0] if len(told) == 1 else None)
    return name_of(name) or NAMELESS


class Output(NamedTuple):
    """What a tool brought back."""

    digest: int
    chars: int
    pending: bool = False
    failed: bool = False
    unavailable: bool = False
    read: Message | None = None
    text: str | None = None


NOT_RECORDED = Output(0, 0)
"""A history that holds no content does not say what a tool brought back."""


def read_tool_output(output: object) -> Output:
    """Reads a tool's output: a `ToolMessage`, text, a `Command`, any value, or these as recorded.

    A `Command` says to the model what its last tool message says; it may hold the whole history before it.
    """
    if output is NOT_RECORDED:
        return NOT_RECORDED
    if is_mapping(output):
        if "output" in output and "content" not in output and "lc" not in output:
            return read_tool_output(output["output"])
        if "update" in output and "goto" in output:
            return _read_update(output["update"])
        is_message = "content" in unwrap(output)
    elif isinstance(output, str):
        output = output if type(output) is str else str.__str__(output)
        failed = reads_failed(output)
        answer = failure_hash(output) if failed else answer_hash(output)
        unavailable = failed and reads_unavailable(output)
        return Output(answer, len(output), is_pending(output), failed, unavailable, text=output)
    else:
        kind = getattr(output, "type", None)  # a table's column, perhaps
        is_message = (kind is None or isinstance(kind, str)) and hasattr(output, "content")
    if is_message:
        message = read_message(output)
        if len(message.tool_results) == 1:
            result = message.tool_results[0]
            _, digest, chars, pending, failed, unavailable = result
            return Output(digest, chars, pending, failed, unavailable, message, _text_of(output))
        content = unwrap(output).get("content") if is_mapping(output) else getattr(output, "content", None)
        failed = isinstance(content, str) and reads_failed(content)
        unavailable = failed and reads_unavailable(str(content))
        return Output(message.content, message.chars, is_pending(content), failed, unavailable)
    if hasattr(output, "update") and hasattr(output, "goto"):
        return _read_update(output.update)
    told = isinstance(output, (dict, list, tuple))
    return Output(answer_hash(canonical(output).decode()) if told else value_hash(output), _size(output))


def _text_of(message: object) -> str | None:
    """A message's text, None if it has more than that."""
    content = unwrap(message).get("content") if is_mapping(message) else getattr(message, "content", None)
    if isinstance(content, list):
        texts = [block.get("text") if isinstance(block, Mapping) else None for block in content]
        content = "\n".join(cast("list[str]", texts)) if texts and all(type(t) is str for t in texts) else None
    return content if type(content) is str else None


def _size(output: object) -> int:
    """Items of a list or dict; of anything else 1, unless it is nothing. A table is neither true nor false."""
    if isinstance(output, (list, dict, tuple)):
        return len(output)
    return 1 if type(output) not in (int, float, bool, type(None)) else int(bool(output))


def _read_update(update: object) -> Output:
    """Reads what a tool's `Command` changes in the state of its graph."""
    if _is_list(update):  # of names and values
        update = {str(pair[0]): pair[1] for pair in update if _is_list(pair) and len(pair) == 2}
    messages = update.get("messages") if is_mapping(update) else getattr(update, "messages", None)
    for message in reversed(messages if _is_list(messages) else [messages]):
        read = read_message(message)
        if read.role == "tool":
            return read_tool_output(message)._replace(read=None)
    return Output(value_hash(update), 0)


def document_hash(document: object) -> int:
    """Fingerprint of a retrieved document, by its text."""
    if isinstance(document, Mapping):
        fields = document.get("kwargs") if "lc" in document else document
        text = fields.get("page_content") if isinstance(fields, Mapping) else None
    else:
        text = getattr(document, "page_content", None)
    return text_hash(text) if isinstance(text, str) else value_hash(document)
