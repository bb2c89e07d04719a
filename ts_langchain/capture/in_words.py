"""Tool calls that a model asks for in words: what agents have their models write where those know no tool calls.

The forms are those that LangChain's classic agents read: ReAct (`Action:`, `Action Input:`), JSON (`action`,
`action_input`) and XML (`<tool>`, `<tool_input>`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import orjson

from ts_langchain.fingerprint import TEXT_LIMIT

FINAL = "Final Answer"

_NUMBER = r"[ \t]{0,4}\d{0,3}[ \t]{0,4}"
_REACT = re.compile(
    rf"^[ \t]*Action{_NUMBER}:[ \t]*(\S[^\n]{{0,199}}?)[ \t\r]*\n\s*Action{_NUMBER}Input{_NUMBER}:\s*(.*)",
    re.DOTALL | re.MULTILINE,
)
_XML = re.compile(r"<tool>([^<]{1,200})</tool>(?:\s*<tool_input>(.*?)(?:</tool_input>|\Z))?", re.DOTALL)


class InWords(NamedTuple):
    """A tool call that a model asks for in words."""

    name: str
    arguments: object
    """A dict, or a text."""


def asked_in_words(text: str) -> InWords | None:
    """The tool call that an answer asks for, None if it is an answer."""
    if len(text) > TEXT_LIMIT:
        return None
    if "Action" in text:
        return _react(text)
    if '"action"' in text:
        return _json(text)
    if "<tool>" in text:
        return _xml(text)
    return None


def _react(text: str) -> InWords | None:
    if f"{FINAL}:" in text:
        return None
    found = _REACT.search(text)
    if found is None:
        return _json(text) if '"action"' in text else None  # `Action:` and a block of JSON
    return InWords(found[1].strip(), found[2].strip(" ").strip('"'))


def _json(text: str) -> InWords | None:
    try:
        said = orjson.loads(text[text.index("{") : text.rindex("}") + 1])
    except ValueError:
        return None
    if not isinstance(said, Mapping):
        return None
    name = said.get("action")
    if type(name) is not str or not name or name == FINAL:
        return None
    if "action_input" not in said and len(said) > 1:
        return None  # an answer in fields of its own: what is decided, and why
    return InWords(name, said.get("action_input") or {})


def _xml(text: str) -> InWords | None:
    found = _XML.search(text)
    return InWords(found[1].strip(), found[2] or "") if found is not None else None


def final_in_words(said: str, prompt: Iterable[str]) -> str:
    """An agent's last answer, in the form that its prompt asks for: what is in another one its parser refuses."""
    for text in prompt:
        if FINAL in text and '"action_input"' in text:
            return orjson.dumps({"action": FINAL, "action_input": said}).decode()
        if f"{FINAL}:" in text:
            return f"{FINAL}: {said}"
        if "<final_answer>" in text:
            return f"<final_answer>{said}</final_answer>"
    return said
