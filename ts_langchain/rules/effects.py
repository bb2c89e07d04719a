"""What a tool does, as declared or by its name: whether calling another one again may bring something else."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from ts_langchain.capture.traits import trait
from ts_langchain.fingerprint import mix

if TYPE_CHECKING:
    from ts_langchain.call import Call
    from ts_langchain.fingerprint import Arguments

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# The first of these words in a name decides: `get_order` looks, `update_list` and `email_send` change something.
_CHANGES = frozenset({
    "accept", "ack", "activate", "add", "adjust", "advance", "allocate", "append", "apply", "approve", "archive",
    "assign", "attach", "attack", "back", "book", "brighten", "build", "buy", "cancel", "change", "checkout", "clear",
    "click", "close", "comment", "commit", "complete", "craft", "create", "deactivate", "decline", "decrease",
    "decrement", "delay", "delete", "deploy", "deposit", "dig", "dim", "disable", "discard", "disconnect", "dismiss",
    "dispense", "drag", "drop", "edit", "eject", "emit", "enable", "enqueue", "enroll", "enter", "equip", "escalate",
    "extend", "fill", "fix", "fly", "forward", "go", "goto", "grab", "increase", "increment", "ingest", "insert",
    "install", "invite", "invoke", "jump", "kill", "listen", "log", "mark", "merge", "migrate", "modify", "move",
    "mute", "navigate", "next", "nudge", "open", "order", "paste", "patch", "pause", "pay", "pick", "play", "pop",
    "post", "press", "publish", "purchase", "push", "put", "raise", "record", "redo", "refactor", "refresh", "refund",
    "register", "reject", "reload", "remove", "rename", "replace", "reply", "requeue", "rerun", "resend", "reserve",
    "reset", "restart", "restore", "resubmit", "retry", "revert", "rollback", "rotate", "save", "scale", "schedule",
    "scroll", "select", "sell", "send", "set", "skip", "sleep", "snooze", "spawn", "start", "step", "stop", "store",
    "strafe", "submit", "subscribe", "swap", "swipe", "tap", "throw", "toggle", "transfer", "trigger", "turn", "type",
    "undo", "unlock", "unmute", "unsubscribe", "update", "upload", "upsert", "wait", "walk", "withdraw", "write",
})  # fmt: skip
_LOOKS = frozenset({
    "analyze", "browse", "calculate", "cat", "check", "compare", "count", "describe", "details", "diff", "fetch",
    "find", "geocode", "get", "glob", "grep", "history", "info", "inspect", "list", "load", "locate", "look", "lookup",
    "ls", "preview", "query", "read", "retrieve", "search", "show", "stat", "stats", "status", "test", "tree",
    "validate", "verify", "view",
})  # fmt: skip
# Nouns too, in front of what is looked at (`order_status`); and what is only looked at when it is opened.
_NOUNS = frozenset({
    "book", "build", "comment", "deposit", "log", "order", "post", "purchase", "record", "refund", "schedule", "store",
    "transfer", "type",
})  # fmt: skip
# What is done to the thing before it (`search_index_delete`), or right behind it (`list_add_item`).
_AT_THE_END = frozenset({
    "add", "append", "apply", "clear", "complete", "delete", "edit", "increment", "insert", "remove", "replace",
    "reset", "update", "upsert",
})  # fmt: skip
_RIGHT_BEHIND = frozenset({"add", "append", "insert", "remove", "replace", "upsert"})
_OF = frozenset({
    "count", "details", "diff", "find", "history", "info", "list", "lookup", "preview", "search", "stat", "stats",
    "status", "view",
})  # fmt: skip
_JOINED = frozenset({"and", "or"})
# What is dealt with where it is resolved; all else is looked up.
_RESOLVED = frozenset({
    "alert", "case", "comment", "conflict", "conflicts", "dispute", "incident", "issue", "merge", "thread", "ticket",
})  # fmt: skip
_REPOSITORY = frozenset({"blame", "log", "show"})
_OPENED = frozenset({"document", "file", "link", "page", "site", "url", "website"})
# Work on a text, which is what they are about.
_PROCESSES = frozenset({
    "categorise", "categorize", "classify", "detect", "embed", "extract", "grade", "moderate", "paraphrase", "parse",
    "proofread", "rewrite", "score", "sentiment", "summarise", "summarize", "tokenize", "translate",
})  # fmt: skip
# What comes back is a verdict on what they were given: the same one on something else is news.
_JUDGES = frozenset({
    "analyse", "analyze", "assess", "check", "compare", "count", "evaluate", "grade", "has", "inspect", "is", "lint",
    "moderate", "pytest", "review", "test", "tests", "validate", "verify",
})  # fmt: skip
_THINKS = frozenset({"reflect", "reflection", "scratchpad", "think", "thinking", "thought", "thoughts"})
_WAITS = re.compile(
    r"check_?status|get_?status|poll|wait_?for|^watch_?for|(?:wait|block)_?until|sleep|keep_?alive", re.IGNORECASE
)
_WAITING = frozenset({"await", "heartbeat", "idle", "listen", "receive", "wait", "wakeup"})
_PAUSES = frozenset({"delay", "pause"})
_MOVES_ON = frozenset({"dequeue", "more", "next", "pop"})
# Work on what others have made; they fail until that has been mended.
_WORKS_ON = frozenset({
    "activate", "apply", "build", "checkout", "click", "commit", "compile", "deploy", "enable", "enter", "fill", "goto",
    "install", "launch", "merge", "migrate", "navigate", "open", "press", "publish", "push", "rerun", "restart", "run",
    "select", "start", "submit", "tap", "trigger", "type",
})  # fmt: skip
# Steps from where one is: a key, a page, one more. Five of them are as common as two.
_RELATIVE = frozenset({
    "advance", "attack", "back", "backspace", "backward", "brighten", "continue", "decrease", "decrement", "dim",
    "down", "forward", "go", "increase", "increment", "jump", "left", "move", "press", "redo", "refresh", "reload",
    "right", "rotate", "scroll", "step", "swipe", "tap", "turn", "undo", "up", "walk", "zoom",
})  # fmt: skip
_SWITCHES = frozenset({"off", "on"})  # `turn_on`
_PASSES_TIME = frozenset({"await", "backoff", "delay", "pause", "sleep", "wait", "wakeup"})
_CHANCE = frozenset({"dice", "flip", "randint", "random", "roll", "shuffle", "spin", "toss"})
_ANOTHER = frozenset({
    "clock", "date", "datetime", "dequeue", "generate", "guid", "id", "new", "next", "now", "pop", "time", "timestamp",
    "today", "token", "uuid",
})  # fmt: skip
_WHO = r"(?:user|human|person|customer|operator|caller|student|audience|patient|player|client)"
_PERSON = re.compile(
    rf"(?:^|_)(?:ask|prompt|consult)_?(?:the_?)?{_WHO}|{_WHO}_?(?:input|approval|assistance|confirmation)$|"
    rf"^(?:human|user)_?(?:feedback|reply|response|answer)$|"
    rf"^(?:request|await|wait_?for|collect)_?{_WHO}_?(?:feedback|reply|response|answer)$|"
    r"human_?(?:input|feedback|approval|review)$|user_?input|^human$|^confirm(?:ation|_?with_?user)?$|"
    r"(?:^|_)ask_?follow_?up|^ask_?for_?help$|wait_?for_?reply|^contact_?human$|^ask_?clarif|"
    r"^(?:request|get|require|seek)_?(?:approval|confirmation|clarification|permission)$",
    re.IGNORECASE,
)
_RUNS_CODE = re.compile(
    r"^(?:bash|shell|sh|terminal|computer|execute|exec|repl|python|ipython|code_interpreter|"
    r"kubectl|docker|helm|psql|sqlite3|npm|git|gh|make|cargo|terraform|aws_?cli|call_?aws|"
    r"(?:run|execute|exec)_?(?:in_)?(?:bash|shell|terminal|command|commands|code|script|python|cell)_?(?:cmd|command)?|"
    r"(?:bash|shell|terminal|python|python_repl|python_ast)_?(?:tool|repl|repl_ast|command|execute|exec)?)$",
    re.IGNORECASE,
)


Effect = Literal["looks", "processes", "changes", "runs code", "thinks", "unknown"]
"""It only looks (`get_order`); works on what it is given (`translate`, `classify_ticket`); changes something
(`book_flight`, `sendEmail`); runs what it is given, to look or to change something (`bash`, `run_python`); takes a
thought down and brings nothing back (`think`); or its name does not say (`process_invoice`)."""

WORD_CHARS = 24
"""An answer as short as that (`ok`, `Order filled`) says no more than that something was done."""

_KNOWN: dict[str, Effect] = {}


def named_effect(name: str) -> Effect:
    """What the name of a tool says about its effects."""
    known = _KNOWN.get(name)
    if known is None:
        if len(_KNOWN) > 4096:
            _KNOWN.clear()
        known = _KNOWN[name] = _read(name)
    return known


def effect_of(call: Call) -> Effect:
    """What a tool does: as declared (`metadata={"read_only": True}`, MCP's `readOnlyHint`), else what its name says.

    A tool for queries changes what it is told to (`UPDATE … SET`).
    """
    if call.kind == "retriever":
        return "looks"
    named = _KNOWN.get(call.name) or named_effect(call.name)  # asked for a dozen times a call
    declared = trait(call.traits, "read_only") if call.traits else None
    if declared is None:
        if named != "looks" and named != "unknown":
            return named
        return "changes" if call.arguments is not None and call.arguments.told == "write" else named
    return "looks" if declared else "runs code" if named == "runs code" else "changes"


def _read(name: str) -> Effect:
    if _RUNS_CODE.match(name):
        return "runs code"
    words = [word.lower() for word in _WORDS.findall(name)]
    if words and words[0] in _THINKS:
        return "thinks"
    for at, word in enumerate(words):
        behind = words[at + 1 :]
        if word == "check" and behind[:1] in (["in"], ["off"], ["out"]):
            return "changes"
        if word == "resolve":
            return "looks" if _RESOLVED.isdisjoint(behind) else "changes"
        if word == "git" and not _REPOSITORY.isdisjoint(behind[:1]):
            return "looks"
        if word in _LOOKS:
            return "changes" if _changes_after_all(word, behind) else "looks"
        if word in _PROCESSES:
            return "processes"
        if word in _CHANGES:
            looked_at = (word in _NOUNS and words[-1] in _LOOKS) or (word == "open" and words[-1] in _OPENED)
            return "looks" if looked_at else "changes"
    return "unknown"


def _changes_after_all(look: str, behind: list[str]) -> bool:
    """True if a change stands behind the look: `find_or_create_user`, `search_replace`, `list_append`."""
    done = bool(behind) and (behind[-1] in _AT_THE_END or behind[0] in _RIGHT_BEHIND)
    if done and look in _OF and behind[-1] not in _LOOKS:
        return True
    joined = next((n for n, word in enumerate(behind[:-1]) if word in _JOINED), None)
    return joined is not None and behind[joined + 1] in _CHANGES - _NOUNS


@lru_cache(maxsize=4096)
def is_meant_again(name: str) -> bool:
    """True for a tool that is called again by nature.

    It waits for something, asks whether it is done (`wait_for`, `poll`, `check_status`), or leaves it to chance
    (`roll_dice`).
    """
    if _WAITS.search(name):
        return True
    words = [word.lower() for word in _WORDS.findall(name)]
    return not (_WAITING | _CHANCE).isdisjoint(words) or (bool(words) and words[-1] in _PAUSES)


@lru_cache(maxsize=4096)
def brings_another(name: str) -> bool:
    """True for a tool that brings another thing each time by nature, and may tell by an id or a time alone."""
    return not _ANOTHER.isdisjoint(word.lower() for word in _WORDS.findall(name))


def is_under_way(call: Call) -> bool:
    """True if the tool says that its work is not done yet, or was told to wait first (`sleep 10 && kubectl get pods`).

    What a list of things to do says of them is no such word.
    """
    if call.arguments is not None and call.arguments.told == "sleep" and effect_of(call) == "runs code":
        return True
    return call.pending and "todo" not in call.name.lower()


@lru_cache(maxsize=4096)
def judges(name: str) -> bool:
    """True for a tool that gives its verdict on what it is given (`validate_file`, `check_link`)."""
    return not _JUDGES.isdisjoint(word.lower() for word in _WORDS.findall(name))


@lru_cache(maxsize=4096)
def asks_a_person(name: str) -> bool:
    """True for a tool that puts a question to a person (`ask_user`, `human_input`)."""
    return _PERSON.search(name) is not None


def may_be_reworded(call: Call) -> bool:
    """True if the same thing can be asked of this tool in other words.

    Not where the words are what it is about: a message that is sent, a text that is translated or judged, a command, a
    thought.
    """
    return effect_of(call) in ("looks", "unknown") and not judges(call.name)


def is_change(call: Call) -> bool:
    """True if this tool call has changed something, as its name says or as is declared."""
    return call.kind == "tool" and call.status == "ok" and effect_of(call) == "changes" and not was_told_to_look(call)


def was_told_to_look(call: Call) -> bool:
    """True for a shell or an editor that was told to look (`git diff`, `view`)."""
    told = call.arguments.told if call.arguments is not None else ""
    return told == "view" or (told == "look" and effect_of(call) == "runs code")


@lru_cache(maxsize=4096)
def moves_on(name: str) -> bool:
    """True for a tool that brings the next one of several (`show_next_card`)."""
    return not _MOVES_ON.isdisjoint(word.lower() for word in _WORDS.findall(name))


def may_be_meant(call: Call) -> int:
    """How often as many times to do this may well be meant: the next step, one more of them (`show_next_card`).

    4 for steps from where one is (`press_key`, `undo`), 2 for all else that acts, 0 for what is not meant again.

    So for a tool of which nobody can say what it does, and for code where a word is all that comes back (`ok`, `done`,
    in whatever language); not for a verdict (`run_tests`). 2, too, where whoever answers is not there for now.
    """
    if call.unavailable:
        return 2
    if call.kind != "tool" or call.status != "ok":
        return 0
    effect = effect_of(call)
    if effect == "changes" or moves_on(call.name):
        return 4 if _is_relative(call.name) else 2
    if judges(call.name) or not (effect == "unknown" or (effect == "runs code" and call.answer_chars <= WORD_CHARS)):
        return 0
    return 4 if effect == "unknown" and _is_relative(call.name) else 2


@lru_cache(maxsize=4096)
def _is_relative(name: str) -> bool:
    words = {word.lower() for word in _WORDS.findall(name)}
    return not (_RELATIVE | _MOVES_ON).isdisjoint(words) and _SWITCHES.isdisjoint(words)


@lru_cache(maxsize=4096)
def lets_time_pass(name: str) -> bool:
    """True for a tool that waits (`sleep`, `wait_seconds`): what was refused may be allowed now."""
    return not _PASSES_TIME.isdisjoint(word.lower() for word in _WORDS.findall(name))


def may_have_changed(call: Call) -> bool:
    """True if other tools may answer something else after this tool call."""
    acts = call.kind == "tool" and call.status == "ok" and effect_of(call) in ("changes", "runs code")
    return acts and not was_told_to_look(call)


def works_on_all(call: Call) -> bool:
    """True for a change that works on what others have made: failing, it is tried again once they have been mended.

    To build, deploy, commit, submit, click; not to edit.
    """
    return effect_of(call) == "changes" and _works_on(call.name)


@lru_cache(maxsize=4096)
def _works_on(name: str) -> bool:
    return not _WORKS_ON.isdisjoint(word.lower() for word in _WORDS.findall(name))


def is_worth_another_try(call: Call) -> bool:
    """True if this call may be made again once something has changed: to look, to test, to do the next thing.

    Not a change that keeps failing.
    """
    return call.status == "ok" or effect_of(call) != "changes"


def outcome(call: Call) -> int:
    """Fingerprint of what came of a call: what came back, and what was done.

    What a tool was given is what it did, unless its name says that it only looks or thinks, or it failed: then only
    what came back counts.
    """
    if call.kind != "tool" or call.status != "ok" or call.arguments is None:
        return call.answer
    if effect_of(call) in ("looks", "thinks"):
        return call.answer
    return mix(call.answer, asked_for(call, call.arguments))


def asked_for(call: Call, arguments: Arguments) -> int:
    """Fingerprint of what a tool was asked for: of one that looks or runs code, without why (`explanation`).

    Elsewhere, and where it is judged, an explanation may be what the call is about.
    """
    if (
        arguments.asked
        and arguments.told != "page"
        and effect_of(call) in ("looks", "runs code")
        and not judges(call.name)
    ):
        return arguments.asked
    return arguments.fingerprint
