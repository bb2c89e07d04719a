"""What the agents inside a tool call have found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ts_langchain.fingerprint import mix
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PLACES = 8
MAX_LOST = 64
MAX_FOUND = 64


class Found:
    """What tools gave inside one task of LangGraph."""

    __slots__ = ("results", "shared", "spoke")

    def __init__(self) -> None:
        self.results: set[int] = set()
        self.spoke = False
        """A model was asked."""
        self.shared = False
        """Nobody can say what a tool call in it has found: several run there, or some of it is lost."""


class Inside:
    """What was found inside the tool calls of a session that run agents of their own.

    A model words the same findings differently each time. What its tools gave does not depend on its words: that is
    what such a call brought.
    """

    __slots__ = ("lost", "places")

    def __init__(self) -> None:
        self.places: Recent[int, Found] = Recent()
        self.lost: Recent[int, None] = Recent()
        """Tasks that there was no room for: what is found there later is not all of it."""

    def spoke(self, around: Sequence[int]) -> None:
        """A model is asked inside of these tasks."""
        for place in around:
            self._at(place).spoke = True

    def note(self, around: Sequence[int], result: int) -> None:
        """A tool has given this inside of these tasks."""
        for place in around:
            found = self._at(place)
            if len(found.results) <= MAX_FOUND:
                found.results.add(result)

    def end(self, place: int, *, shared: bool) -> int:
        """A tool call has ended in this task: fingerprint of what was found inside it; 0 if nobody can say.

        Args:
            place: The task.
            shared: Other tool calls are under way in it.
        """
        found = self.places.get(place)
        if found is None:
            return 0
        if shared or found.shared:
            found.shared = True
            return 0
        del self.places[place]
        if not found.spoke or not 0 < len(found.results) <= MAX_FOUND:
            return 0
        return mix(*sorted(found.results))

    def _at(self, place: int) -> Found:
        found = self.places.get(place)
        if found is not None:
            self.places.touch(place)  # a task goes on for as long as those inside of it
            return found
        found = self.places[place] = Found()
        found.shared = place in self.lost
        if len(self.places) > MAX_PLACES:
            self.lost[next(iter(self.places))] = None
            self.lost.limit(MAX_LOST)
            self.places.limit(MAX_PLACES)
        return found
