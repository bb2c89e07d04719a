"""Bounded memory: the entries used last stay."""

from __future__ import annotations

from itertools import islice
from typing import TypeVar

FEW = 64  # one in so many: a small dict is soon built anew

K = TypeVar("K")
V = TypeVar("V")


class Recent(dict[K, V]):
    """A dict in order of last use, at half the memory of an `OrderedDict`."""

    __slots__ = ()

    def touch(self, key: K) -> None:
        """Makes an entry the one used last."""
        self[key] = self.pop(key)

    def limit(self, size: int) -> None:
        """Drops the entries used longest ago, down to `size`."""
        surplus = len(self) - size
        if surplus == 1:
            del self[next(iter(self))]
        elif 0 < surplus <= size // FEW:
            for key in list(islice(self, surplus)):
                del self[key]
        elif surplus > 0:  # a dict gives memory back only when it is built anew
            kept = list(self.items())[surplus:]
            self.clear()
            self.update(kept)
