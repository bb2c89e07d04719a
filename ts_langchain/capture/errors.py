"""Reading errors: exceptions, and what tracers recorded of them."""

from __future__ import annotations

import re

from ts_langchain.errors import CallRefused, WasteBlocked
from ts_langchain.fingerprint import TEXT_LIMIT, failure_hash

SUMMARY_CHARS = 500

# Control flow of LangGraph, raised through tools and nodes: no errors.
INTERRUPTS = frozenset({"GraphInterrupt", "NodeInterrupt"})
HANDOFFS = frozenset({"ParentCommand", "GraphBubbleUp"})
CANCELLED = frozenset({"CancelledError", "GeneratorExit", "KeyboardInterrupt", "SystemExit"})
NO_FAILURES = INTERRUPTS | HANDOFFS | CANCELLED | {WasteBlocked.__name__, CallRefused.__name__}

_UNAVAILABLE = re.compile(
    r"(?:service|server|api|temporarily)(?: is)?(?: temporarily| currently)? ?unavailable|bad ?gateway|"
    r"gateway ?time-?out|too ?many ?requests|(?<![a-z])rate[ _-]?limit|throttling|temporary failure|"
    r"(?<!of )(?<!to )overloaded(?! (?:constructor|function|member|method|operator|signature))|"
    r"connection(?: was)? ?(?:reset|refused|aborted)|"
    # not of `error on line 502`, nor of `Error: order 503 not found`
    r"(?:http(?:/\d(?:\.\d)?)?|status|code|error)(?:[\W_]|\b(?:code|error|http|is|server|status|was)\b){0,8}"
    r"(?:429|50[234])\b|"
    r"\A\W*(?:429|50[234])\b",
    re.IGNORECASE,
)
_ERROR_REPR = re.compile(r"([A-Za-z_]\w*)\(")
_ERROR_LINE = re.compile(r"(?:[\w.]*\.)?([A-Za-z_]\w*): (.*)")


def error_line(error: BaseException | str) -> tuple[str, str]:
    """Type name and first line of the message, of an exception or of what a tracer recorded of one.

    LangChain's tracer writes the exception's `repr`, directly followed by the formatted traceback.
    """
    if isinstance(error, BaseException):
        return type(error).__name__, str(error).partition("\n")[0][:SUMMARY_CHARS]
    text = error.strip()
    if recorded := _ERROR_REPR.match(text):
        name = recorded[1]
        _, found, message = text[-TEXT_LIMIT:].rpartition(f"{name}: ")
        return name, message.partition("\n")[0][:SUMMARY_CHARS] if found else ""
    first, last = text.partition("\n")[0], text[-TEXT_LIMIT:].rpartition("\n")[2]
    if first != text and (raised := _raised(text[-TEXT_LIMIT:], first)):
        return raised, first[:SUMMARY_CHARS]
    if line := _ERROR_LINE.match(first) or _ERROR_LINE.match(last):
        return line[1], line[2][:SUMMARY_CHARS]
    return "Error", first[:SUMMARY_CHARS]


def _raised(text: str, message: str) -> str | None:
    """The name in front of this message in a traceback: the `repr` of some (pydantic's) begins with the message."""
    at = text.rfind(f": {message}\n")
    name = text[text.rfind("\n", 0, at) + 1 : at].rpartition(".")[2] if at >= 0 else ""
    return name if name.isidentifier() else None


def error_name(error: BaseException | str) -> str:
    """Type name of an error."""
    return type(error).__name__ if isinstance(error, BaseException) else error_line(error)[0]


def is_unavailable(error: BaseException | str) -> bool:
    """True for an error that says that whoever answers is not there for now."""
    return reads_unavailable(": ".join(error_line(error)))


def reads_unavailable(message: str) -> bool:
    """The same of an error's text. Trying again may help.

    Not so after a time-out: what takes too long takes as long the next time.
    """
    return _UNAVAILABLE.search(message[:SUMMARY_CHARS]) is not None


def error_hash(error: BaseException | str) -> int:
    """Fingerprint of an error: its type and the first line of its message, without the id of the request."""
    return failure_hash(": ".join(error_line(error)))
