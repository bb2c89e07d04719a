"""Which conversation a model call belongs to where nothing names one: told by what was sent before.

Loops written by hand call a model, or a chain with a model in it, again and again, each time in a run of its own; a
gateway's log is nothing else. What holds them together is that each prompt goes on from the one before.
"""

from __future__ import annotations

import re
import threading
import weakref
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ts_langchain.capture.messages import plain_text, read_message
from ts_langchain.fingerprint import name_hash, text_hash
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ts_langchain.call import ToolCall

MAX_PROMPTS = 10_000
MAX_RUNS = 10_000
MAX_ALIKE = 32
MAX_REQUESTED = 6_144
MAX_NEW_MESSAGES = 64
OPENING_MESSAGES = 8
MAX_MESSAGES = 256
RETRIED_SECONDS = 600.0
_FAMILY = re.compile("[a-z]+")
_SIBLINGS = {"o": "gpt", "chatgpt": "gpt", "ft": "gpt", "codex": "gpt"}
_REDACTED = re.compile(r"\W*(?:redacted|masked|filtered)(?:[ _-]by[ _-]\w+)?\W*|[*█•]+", re.IGNORECASE)
_REDACTED_CHARS = 60
_EMPTY = text_hash("")


class Asked(NamedTuple):
    """A request of which the conversation was told by its prompt.

    Attributes:
        conversation: The conversation.
        prompt: Fingerprint of the prompt.
        number: Number of the request.
        caller: Fingerprint of whoever asks.
    """

    conversation: str
    prompt: int
    number: int
    caller: int


class _Read(NamedTuple):
    """What is needed of a message."""

    role: str
    digest: int
    blank: bool


class _Last(NamedTuple):
    """The last request of a conversation."""

    conversation: str
    number: int
    at: float
    ended: float | None = None
    answer: int | None = None
    failed: bool = False


State = tuple[Recent[int, tuple[_Last, ...]], Recent[int, None], Recent[int, str], Recent[str, str], int]


class Continued:
    """Tells conversations apart that nothing names. Of all handlers of a Sentinel together; bounded; no content.

    A request belongs to the conversation whose last prompt it begins with, or whose last prompt it sends again
    within 10 minutes of its failure: a retry. Where it is known by neither, since its past was rewritten, to the one
    that asked for the tool call whose result it ends with. Every other begins one. A request that names the response it
    goes on from belongs to that response's conversation, and goes on from no other. Of prompts alike, the one counts
    whose tool call, or else whose answer, came back in the new prompt, else the latest that has not failed. Prompts are
    known by the user's first message, by their length and by their last message.
    """

    def __init__(self) -> None:
        self._last: Recent[int, tuple[_Last, ...]] = Recent()
        self._lengths: Recent[int, None] = Recent()  # of these prompts: what has another length need not be read
        # tool calls of these conversations, by id and by arguments, and responses, by id
        self._requested: Recent[int, str] = Recent()
        self._runs: Recent[str, str] = Recent()  # outermost runs that models were asked in
        self._number = 0
        self._messages: Recent[int, tuple[weakref.ReferenceType[Any], _Read]] = Recent()  # read a moment ago
        # the collector may run inside and end a stream that nobody holds any more, which comes back here
        self._lock = threading.RLock()

    def snapshot(self) -> State:
        """All that is known, to go on with later."""
        with self._lock:
            return Recent(self._last), Recent(self._lengths), Recent(self._requested), Recent(self._runs), self._number

    def restore(self, state: State) -> None:
        """Goes on where `snapshot` was taken."""
        with self._lock:
            self._last, self._lengths, self._requested, self._runs, self._number = state

    def after_fork(self) -> None:
        """Has a lock of its own in a forked process."""
        self._lock = threading.RLock()

    # --- model calls -------------------------------------------------------------------------------

    def begin(
        self,
        root_id: str,
        messages: Sequence[object],
        who: Sequence[str | None],
        at: float,
        around: str | None = None,
        previous: str | None = None,
    ) -> Asked | None:
        """A request is about to be sent. To be asked in order of time.

        Args:
            root_id: Its run: names the conversation that it begins.
            messages: The prompt.
            who: Whatever tells callers apart: user, family of models.
            at: Event time.
            around: The outermost run around it, if there is one. Its first request tells the conversation of all.
            previous: Id of the response that it goes on from, where the provider keeps what was said before.

        Returns:
            Its conversation; None if the prompt says nothing.
        """
        if previous is not None:
            who = (*who, previous)
        with self._lock:
            opening = _opening(messages, who, self._read)
            if opening is None:
                if around is not None and around not in self._runs:
                    self.place(around, root_id)
                return None
            prompt, length = self._prompt(messages, opening, len(messages)), hash((opening.digest, len(messages)))
            found = self._found(messages, prompt, opening, at)
            if found is not None:
                self._forget(*found)
            self._number += 1
            conversation = self._runs.get(around) if around is not None else None
            if conversation is None and previous is not None:
                conversation = self._requested.get(_response(previous))
            if conversation is None:
                conversation = found[1].conversation if found is not None else self._answered(messages, opening)
            now = _Last(conversation or root_id, self._number, at)
            if around is not None:
                self.place(around, now.conversation)
            self._last[prompt] = (*self._last.pop(prompt, ()), now)[-MAX_ALIKE:]
            self._last.limit(MAX_PROMPTS)
            self._lengths.pop(length, None)
            self._lengths[length] = None
            self._lengths.limit(MAX_PROMPTS)
        return Asked(now.conversation, prompt, now.number, opening.caller)

    def look(
        self, messages: Sequence[object], who: Sequence[str | None], at: float, previous: str | None = None
    ) -> str | None:
        """The conversation that a request goes on with, None if it begins one. Arguments are those of `begin`."""
        if previous is not None:
            who = (*who, previous)
        with self._lock:
            opening = _opening(messages, who, self._read)
            if opening is None:
                return None
            if previous is not None and (conversation := self._requested.get(_response(previous))) is not None:
                return conversation
            found = self._found(messages, self._prompt(messages, opening, len(messages)), opening, at)
            return found[1].conversation if found is not None else self._answered(messages, opening)

    def end(
        self,
        asked: Asked,
        ended: float,
        answer: int | None,
        tool_calls: Sequence[ToolCall] = (),
        response_id: str | None = None,
        *,
        failed: bool,
    ) -> None:
        """The request was answered, has failed, or was not sent.

        Args:
            asked: What `begin` gave.
            ended: Event time.
            answer: Fingerprint of the message that answered, None without one.
            tool_calls: What it asks for.
            response_id: By which another request may go on from it.
            failed: It failed, or was not sent.
        """
        with self._lock:
            alike = self._last.get(asked.prompt, ())
            for place, last in enumerate(alike):
                if last.number == asked.number:
                    now = last._replace(ended=ended, answer=answer, failed=failed)
                    self._last[asked.prompt] = (*alike[:place], now, *alike[place + 1 :])
            for call in tool_calls:
                if call.id:
                    self._requested[text_hash(call.id)] = asked.conversation
                    self._requested[_request(asked.caller, call.id, call.name, call.args)] = asked.conversation
                self._requested[_run(call.name, call.args)] = asked.conversation
            if response_id is not None:
                self._requested[_response(response_id)] = asked.conversation
            self._requested.limit(MAX_REQUESTED)

    def named(self, conversation: str, tool_calls: Sequence[ToolCall]) -> None:
        """A chain called by hand asks for tools in a conversation that its config names: LangChain tells no tool of it.

        Args:
            conversation: Its name.
            tool_calls: What it asks for.
        """
        with self._lock:
            for call in tool_calls:
                if call.id:
                    self._requested[text_hash(call.id)] = conversation
            self._requested.limit(MAX_REQUESTED)

    # --- what is no model call ---------------------------------------------------------------------

    def place(self, run: str, conversation: str) -> None:
        """Whatever runs inside this run from now on belongs to this conversation."""
        with self._lock:
            self._runs[run] = conversation
            self._runs.limit(MAX_RUNS)

    def of_run(self, run: str) -> str | None:
        """The conversation that a run was placed in; None before a model was asked in it."""
        return self._runs.get(run)

    def of_tool(self, name: str, arguments: int, tool_call_id: str | None) -> str | None:
        """The conversation in which a tool was asked for that runs by itself; None if it is not known.

        Args:
            name: The tool.
            arguments: Fingerprint of its arguments.
            tool_call_id: The model's request for it, where that is known.
        """
        with self._lock:
            return self._requested.get(text_hash(tool_call_id) if tool_call_id else _run(name, arguments))

    # --- inside; the lock is held ------------------------------------------------------------------

    def _found(self, messages: Sequence[object], prompt: int, opening: _Opening, at: float) -> tuple[int, _Last] | None:
        """The last request of the conversation that this one goes on, and its prompt."""
        total = len(messages)
        for last in reversed(self._last.get(prompt, ())):
            if last.failed and last.ended is not None and last.ended <= at <= last.ended + RETRIED_SECONDS:
                return prompt, last
        for known in range(total - 1, max(opening.length, total - MAX_NEW_MESSAGES) - 1, -1):
            if hash((opening.digest, known)) not in self._lengths:
                continue
            prompt = self._prompt(messages, opening, known)
            alike = [last for last in self._last.get(prompt, ()) if last.at <= at]
            if len(alike) > 1:
                told, came_back = self._answered(messages, opening), self._read(messages[known]).digest
                alike.sort(key=lambda o: (o.conversation == told, o.answer == came_back, not o.failed, o.number))
            if alike:
                return prompt, alike[-1]
        return None

    def _answered(self, messages: Sequence[object], opening: _Opening) -> str | None:
        """The caller's conversation that asked for the tool call whose result comes last."""
        results = read_message(messages[-1]).tool_results if len(messages) > 1 else ()
        if not results:
            return None
        wanted = results[-1].tool_call_id
        for message in reversed(messages[-MAX_NEW_MESSAGES:-1]):
            for call in read_message(message).tool_calls:
                if call.id == wanted:  # an id alone may be another one's: some models count their calls
                    return self._requested.get(_request(opening.caller, call.id, call.name, call.digest))
        return None

    def _forget(self, prompt: int, last: _Last) -> None:
        rest = tuple(other for other in self._last[prompt] if other is not last)
        if rest:
            self._last[prompt] = rest
        else:
            del self._last[prompt]

    def _prompt(self, messages: Sequence[object], opening: _Opening, length: int) -> int:
        """Fingerprint of the first so many messages."""
        return hash((opening.digest, length, self._read(messages[length - 1]).digest))

    def _read(self, message: object) -> _Read:
        """As `_read_anew`, of each message object once."""
        known = self._messages.get(id(message))
        if known is not None and known[0]() is message:
            return known[1]
        read = _read_anew(message)
        with suppress(TypeError):  # recorded dicts have no references
            self._messages[id(message)] = (weakref.ref(message), read)
            self._messages.limit(MAX_MESSAGES)
        return read


class _Opening(NamedTuple):
    """How a prompt opens: with the user's first message. A system message before it may hold the time of day."""

    digest: int
    length: int
    """Number of messages up to and including it."""
    caller: int
    """Whoever asks."""


def says_nothing(messages: Sequence[object]) -> bool:
    """True for a prompt of which the user's first message (or, without one, the first) is redacted or empty.

    It stands for nothing, and is the same of prompts that differ.
    """
    return _opening(messages, (), _read_anew) is None


def _opening(messages: Sequence[object], who: Sequence[str | None], read: Callable[[object], _Read]) -> _Opening | None:
    """How a caller's prompt opens, None if that says nothing."""
    found = None
    for length, message in enumerate(messages[:OPENING_MESSAGES], 1):
        known = read(message)
        if found is None or known.role == "human":
            found = known, length
        if known.role == "human":
            break
    if found is None or found[0].blank:
        return None
    # numbers only: before Python 3.12 the hash of None is another one in each process
    caller = hash(tuple(0 if part is None else name_hash(part) for part in who))
    return _Opening(hash((found[0].digest, caller)), found[1], caller)


def _read_anew(message: object) -> _Read:
    read = read_message(message)
    empty = read.content == _EMPTY or (not read.images and is_redacted(plain_text(message)))
    return _Read(read.role, read.digest, empty and not read.tool_calls)


def is_redacted(text: str) -> bool:
    """True for `[REDACTED]`, `redacted-by-litellm`, `***`."""
    return len(text) <= _REDACTED_CHARS and _REDACTED.fullmatch(text) is not None


@lru_cache(1024)
def family_of(model: str | None) -> str | None:
    """What a model's name begins with: `gpt`, `claude`; a fallback to a smaller model stays in the family."""
    found = _FAMILY.match((model or "").rpartition("/")[2].lower())
    return None if found is None else _SIBLINGS.get(found[0], found[0])


def _request(caller: int, call_id: str, name: str, arguments: int) -> int:
    """A caller's request for a tool call."""
    return hash((caller, text_hash(call_id), name_hash(name), arguments))


def _response(response_id: str) -> int:
    """A response that another request may go on from."""
    return hash((text_hash(response_id), 0))


def _run(name: str, arguments: int) -> int:
    """A tool's run, as far as it is known without the id of its call."""
    return hash((name_hash(name), arguments))
