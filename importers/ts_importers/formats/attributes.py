"""Attributes of spans: flat with dots, nested, or both; JSON in strings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from ts_importers.values import parsed

if TYPE_CHECKING:
    from collections.abc import Mapping

Attributes: TypeAlias = "dict[str, Any]"

MAX_PARTS = 24
MAX_DEPTH = 24


# what was said and brought back: much the largest part of a span, and not needed to know what it is
CONTENT = (
    "gen_ai.input",
    "gen_ai.output",
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.tool.call",
    "gen_ai.retrieval",
    "llm.input_messages",
    "llm.output_messages",
    "llm.tools",
    "llm.request.functions",
    "retrieval.documents",
    "embedding.embeddings",
    "input.",
    "output.",
    "traceloop.entity.input",
    "traceloop.entity.output",
    "langfuse.observation.input",
    "langfuse.observation.output",
    "tool_arguments",
    "tool_response",
    "ai.prompt",
    "ai.response.text",
    "ai.response.object",
    "ai.response.toolCalls",
    "ai.toolCall.args",
    "ai.toolCall.result",
    "ai.embedding",
)
ANSWERS = (
    "gen_ai.output",
    "gen_ai.completion",
    "llm.output_messages",
    "output.",
    "traceloop.entity.output",
    "langfuse.observation.output",
    "ai.response.text",
    "ai.response.object",
    "ai.response.toolCalls",
)


class _Node(dict[str, Any]):
    """An inner node of the tree, to be told from an object that is a value."""


def nested(attributes: Mapping[str, Any]) -> Attributes:
    """A tree of attributes: keys are split at their dots, numbered keys become lists.

    Objects are taken for inner nodes where their key has no dot, as exports write them that nest everything; under
    a dotted key they are values. Where a name has both a value and parts (`gen_ai.prompt` and
    `gen_ai.prompt.0.role`), the parts win.
    """
    tree = _Node()
    _plant(tree, attributes, 0)
    return {k: _listed(v) for k, v in tree.items()}


def _plant(tree: _Node, attributes: Mapping[Any, Any], depth: int) -> None:
    for key, value in attributes.items():
        if not isinstance(key, str):
            continue
        if "." not in key:
            if isinstance(value, dict) and depth < MAX_DEPTH:
                _plant(_below(tree, key), value, depth + 1)
            elif isinstance(value, list) and depth < MAX_DEPTH:
                tree[key] = [_planted(v, depth + 1) for v in value]
            elif not isinstance(tree.get(key), _Node):
                tree[key] = value
            continue
        *parts, last = key.split(".", MAX_PARTS)
        at = tree
        for part in parts:
            at = _below(at, part)
        if not isinstance(at.get(last), _Node):
            at[last] = value


def _below(tree: _Node, part: str) -> _Node:
    below = tree.get(part)
    if not isinstance(below, _Node):
        below = tree[part] = _Node()
    return below


def _planted(value: object, depth: int) -> object:
    if not isinstance(value, dict):
        return value
    tree = _Node()
    _plant(tree, value, depth)
    return tree


def _listed(value: object) -> object:
    """The tree with nodes of numbered keys turned into lists."""
    if isinstance(value, list):
        return [_listed(v) for v in value]
    if not isinstance(value, _Node):
        return value
    if value and all(k.isdecimal() and len(k) < 9 for k in value):
        return [_listed(v) for _, v in sorted(value.items(), key=lambda i: int(i[0]))]
    return {k: _listed(v) for k, v in value.items()}


def at(tree: object, *path: str) -> Any:
    """What a tree holds at a path, None if nothing."""
    for part in path:
        if not isinstance(tree, dict):
            return None
        tree = tree.get(part)
    return tree


def objects(value: object) -> list[dict[str, Any]]:
    """The objects in a list, or in the JSON of one; a single object counts as a list of one."""
    value = parsed(value)
    if isinstance(value, dict):
        value = [value]
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def words(value: object) -> str | None:
    """A string that says something."""
    return value if isinstance(value, str) and value else None


def named(*values: object) -> str | None:
    """The first that is a string with something in it, or a number."""
    for value in values:
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)[:200]
    return None


def attribute_names(row: Mapping[str, Any]) -> list[str]:
    """The names of a span's attributes: of OTLP's pairs, of an object, of columns."""
    found = row.get("attributes")
    if isinstance(found, dict):
        return [name for name in found if isinstance(name, str)]
    if isinstance(found, list):
        return [p["key"] for p in found if isinstance(p, dict) and isinstance(p.get("key"), str)]
    return [name.removeprefix("attributes.") for name in row if name.startswith("attributes.")]
