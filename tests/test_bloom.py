"""The filter that says "certainly new": never wrong about what it holds, rarely about what it does not."""

from __future__ import annotations

import random

from ts_langchain.bloom import Bloom


def test_it_forgets_nothing_and_seldom_makes_things_up() -> None:
    chance = random.Random(7)
    held, others = ([chance.getrandbits(64) for _ in range(200_000)] for _ in range(2))
    known = Bloom()
    assert not any(key in known for key in held)
    known.add(held)
    assert all(key in known for key in held)
    # four bits of 2**25 each: (1 - exp(-4 * 200000 / 2**25)) ** 4 is three in ten million
    assert sum(key in known for key in others) <= 2


def test_negative_fingerprints_are_fingerprints() -> None:
    known = Bloom()
    known.add([-1, -(2**63)])
    assert -1 in known
    assert -(2**63) in known
    assert 5 not in known
