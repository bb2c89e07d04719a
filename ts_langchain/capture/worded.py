"""Queries that a model has worded and code asks: how RAG is written as nodes, where no tool call says who wants what.

A node has a model put the question in other words, and the next one hands them to a retriever. What is looked up is
then what the model has said: the whole of it, a line, or a field of its structured answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from ts_langchain.capture.messages import plain_text
from ts_langchain.fingerprint import SAMPLE_LIMIT, is_free_text, text_hash
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ts_langchain.capture.messages import Asked

MAX_WORDED = 8
MAX_LINES = 8
MAX_CHARS = 4_096


class WordedBy(NamedTuple):
    """The model call that has worded a query, and how many it worded at once."""

    model_call_id: str
    siblings: int


class Worded:
    """What models have said last that code may ask for, by its fingerprint: no text is kept."""

    __slots__ = ("queries",)

    def __init__(self) -> None:
        self.queries: Recent[int, WordedBy] = Recent()

    def note(self, call_id: str, message: object, tool_calls: Sequence[Asked]) -> None:
        """Keeps what an answer says, as far as it may be a query."""
        queries = _queries(plain_text(message), tool_calls)
        for query in queries:
            self.queries[query] = WordedBy(call_id, len(queries))
            self.queries.touch(query)
        self.queries.limit(MAX_WORDED)

    def by(self, texts: Iterable[object]) -> WordedBy | None:
        """Who has worded one of these, None if no model has."""
        if not self.queries:
            return None
        for text in texts:
            if isinstance(text, str) and len(text) <= MAX_CHARS:
                found = self.queries.get(text_hash(text.strip()))
                if found is not None:
                    return found
        return None


def _queries(said: str, tool_calls: Sequence[Asked]) -> dict[int, None]:
    """Fingerprints of the texts in an answer that may be queries, in their order."""
    if len(said) > MAX_CHARS:
        return {}
    texts = [said]
    if said[:1] == "{":
        try:
            texts = list(_texts_in(orjson.loads(said)))
        except ValueError:
            return {}
    elif "\n" in said:
        texts = said.split("\n", MAX_LINES)[:MAX_LINES]
    for call in tool_calls:
        texts += _texts_in(call.args)
    short = (text.strip() for text in texts if len(text) <= MAX_CHARS)
    return dict.fromkeys(text_hash(text) for text in short if is_free_text(text[:SAMPLE_LIMIT]))


def _texts_in(value: object) -> Iterator[str]:
    """The texts of a structured answer, and those in lists of it."""
    for field in list(value.values())[:MAX_LINES] if isinstance(value, dict) else ():
        for text in field[:MAX_LINES] if isinstance(field, list) else (field,):
            if isinstance(text, str):
                yield text
