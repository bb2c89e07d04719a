"""Conversations that are told anew with each answer: chat servers often log the whole of it in every row."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from ts_langchain.fingerprint import mix
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_CONVERSATIONS = 2_000


class Retold:
    """Remembers what the last row of each conversation told: of the newest 2 000, 8 bytes a message."""

    def __init__(self) -> None:
        self._told: Recent[str, tuple[array[int], int]] = Recent()

    def known(self, conversation: str, digests: Sequence[int], answers: Sequence[int]) -> int:
        """How many messages at the beginning of a row were told by the row before.

        None, unless the row goes on from there, or from before the last answer, which was given anew: one that soon
        says something else is another conversation of that name. The row's own last answer is never known: a row that
        tells nothing more than the one before is one more request.

        Args:
            conversation: Its name.
            digests: Of the messages of the row.
            answers: Places of its answers.
        """
        before, needed = self._told.pop(conversation, (array("q"), 0))
        now, chain = array("q"), 0
        for digest in digests:
            chain = mix(chain, digest)
            now.append(chain)
        self._told[conversation] = now, answers[-2] + 1 if len(answers) > 1 else 0
        self._told.limit(MAX_CONVERSATIONS)
        # behind one that differs all do: each stands for the messages before it, too
        same = sum(told == tells for told, tells in zip(before, now, strict=False))
        return min(same, answers[-1]) if same >= needed and answers else 0
