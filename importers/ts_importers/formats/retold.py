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
        self._told: Recent[str, array[int]] = Recent()

    def known(self, conversation: str, digests: Sequence[int], answer: int) -> int:
        """How many messages at the beginning of a row were told by the row before.

        The last answer is not among them: a row that tells nothing more than the one before is one more request.

        Args:
            conversation: Its name.
            digests: Of the messages of the row.
            answer: Place of its last answer.
        """
        before = self._told.pop(conversation, array("q"))
        now = self._told[conversation] = array("q")
        self._told.limit(MAX_CONVERSATIONS)
        chain = 0
        for digest in digests:
            chain = mix(chain, digest)
            now.append(chain)
        # behind one that differs all do: each stands for the messages before it, too
        return min(sum(told == tells for told, tells in zip(before, now, strict=False)), answer)
