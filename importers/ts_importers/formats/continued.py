"""Which conversation a request belongs to where nothing names one: told by what was sent before."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import NamedTuple

from ts_importers.redacted import says_nothing
from ts_langchain.capture.messages import read_message
from ts_langchain.fingerprint import text_hash

MOST_PROMPTS = 20_000
MOST_ALIKE = 8
RETRIED_AFTER_FAILURE = 600.0
RETRIED_AFTER_SUCCESS = 30.0
_FAMILY = re.compile("[a-z]+")
_SIBLINGS = {"o": "gpt", "chatgpt": "gpt", "ft": "gpt", "codex": "gpt"}


class Asked(NamedTuple):
    """A request, as far as it tells which conversation it belongs to.

    Attributes:
        id: Unique, and the same whenever the history is read: names the conversation that begins with it.
        messages: The prompt.
        answer: The message that answered, None if it failed or is not known.
        started: Seconds since the epoch, None if nobody told.
        ended: Seconds since the epoch, None if nobody told.
        failed: It failed.
        who: Whatever tells callers apart: user, key, family of models.
    """

    id: str
    messages: object
    answer: object = None
    started: float | None = None
    ended: float | None = None
    failed: bool = False
    who: tuple[str | None, ...] = ()


class _Last(NamedTuple):
    """The last request of a conversation."""

    conversation: str
    number: int
    answer: int | None
    at: float | None
    ended: float | None
    failed: bool


class Continued:
    """Tells conversations apart. To be asked in order of time, from the beginning of a history.

    A request belongs to the conversation whose last prompt it begins with, or whose last prompt it sends again
    shortly after: a retry. Every other begins one. Of prompts alike, the one counts whose answer came back in the new
    prompt, else the latest. What it tells depends on the requests before alone: who resumes asks for those again.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[int, list[_Last]] = OrderedDict()
        self._number = 0

    def conversation(self, asked: Asked) -> str | None:
        """The conversation of the next request, named after its first request; None if its prompt says nothing.

        Args:
            asked: The request.
        """
        prefixes, digests = _read(asked)
        if not prefixes:
            return None
        found = self._found(asked, prefixes, digests)
        if found is not None:
            prompt, last = found
            self._forget(prompt, last)
        conversation = found[1].conversation if found is not None else asked.id
        self._number += 1
        answer = read_message(asked.answer).digest if asked.answer is not None else None
        now = _Last(conversation, self._number, answer, asked.started, asked.ended, asked.failed)
        self._remember(prefixes[-1], now)
        return conversation

    def _found(self, asked: Asked, prefixes: list[int], digests: list[int]) -> tuple[int, _Last] | None:
        whole = prefixes[-1]
        again = [last for last in self._last.get(whole, ()) if _is_retry(last, asked)]
        retried = (whole, again[-1]) if again else None
        for length in range(len(prefixes) - 1, 0, -1):
            if alike := self._last.get(prefixes[length - 1]):
                answered = [last for last in alike if last.answer == digests[length]]
                last = (answered or alike)[-1]
                # two runs of one script send the same prompts: the later run goes on
                if retried is None or last.number > retried[1].number:
                    return prefixes[length - 1], last
                break
        return retried

    def _forget(self, prompt: int, last: _Last) -> None:
        alike = self._last[prompt]
        alike.remove(last)
        if not alike:
            del self._last[prompt]

    def _remember(self, prompt: int, last: _Last) -> None:
        alike = self._last.setdefault(prompt, [])
        self._last.move_to_end(prompt)
        alike.append(last)
        del alike[:-MOST_ALIKE]
        if len(self._last) > MOST_PROMPTS:
            self._last.popitem(last=False)


def _read(asked: Asked) -> tuple[list[int], list[int]]:
    """A hash of each beginning of the prompt, and of each message; nothing if what the user said is not there."""
    if says_nothing(asked.messages):
        return [], []
    said = asked.messages if isinstance(asked.messages, list) else [asked.messages]
    prefix = hash(tuple(None if part is None else text_hash(part) for part in asked.who))
    prefixes, digests = [], [read_message(message).digest for message in said]
    for digest in digests:
        prefix = hash((prefix, digest))
        prefixes.append(prefix)
    return prefixes, digests


def _is_retry(last: _Last, asked: Asked) -> bool:
    """True if the request was sent again after it had failed, or so soon after it was answered that it is one run."""
    at, before = asked.started, last.ended if last.ended is not None else last.at
    if at is None or before is None:
        return last.failed
    within = RETRIED_AFTER_FAILURE if last.failed else RETRIED_AFTER_SUCCESS
    return before <= at <= before + within


def family_of(model: str | None) -> str | None:
    """What a model's name begins with: `gpt`, `claude`; a fallback to a smaller model stays in the family."""
    found = _FAMILY.match((model or "").rpartition("/")[2].lower())
    return None if found is None else _SIBLINGS.get(found[0], found[0])
