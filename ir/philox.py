"""Random numbers of specs: Philox4x32-10, a function of seed, position and stream.

The key is the seed as two words of 32 bits, low first. Counter words 0 and 1 are the position, low
first, word 2 is the stream, word 3 is 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
STEPS = (0x9E3779B9, 0xBB67AE85)  # what a round adds to the key
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def _word(x: Any) -> Words:
    """An integer of 64 bits as its two's complement."""
    return np.asarray(x).astype(np.int64).view(np.uint64)


def philox(seed: Any, position: Any, stream: Any) -> tuple[Words, Words, Words, Words]:
    """The four random words of 32 bits, each in 64, for integers or arrays of them."""
    key, at, number = np.broadcast_arrays(_word(seed), _word(position), _word(stream))
    k0, k1 = key & _LOW, key >> _HALF
    c0, c1, c2, c3 = at & _LOW, at >> _HALF, number & _LOW, np.zeros_like(at)
    a, b = (np.uint64(m) for m in MULTIPLIERS)
    for _ in range(ROUNDS):
        p, q = a * c0, b * c2
        c0, c1, c2, c3 = (q >> _HALF) ^ c1 ^ k0, q & _LOW, (p >> _HALF) ^ c3 ^ k1, p & _LOW
        k0, k1 = (k0 + np.uint64(STEPS[0])) & _LOW, (k1 + np.uint64(STEPS[1])) & _LOW
    return c0, c1, c2, c3


def uniform(seed: Any, position: Any, stream: Any) -> NDArray[np.float64]:
    """A number of 24 bits in [0, 1) from word 0."""
    return (philox(seed, position, stream)[0] >> np.uint64(8)).astype(np.float64) * 2.0**-24


def normal(seed: Any, position: Any, stream: Any) -> NDArray[np.float64]:
    """A standard normal number by Box and Muller from 24 bits of each of the words 0 and 1.

    The first one is taken from (0, 1], so that its logarithm is finite.
    """
    first, second, _, _ = philox(seed, position, stream)
    u = ((first >> np.uint64(8)).astype(np.float64) + 1) * 2.0**-24
    angle = (second >> np.uint64(8)).astype(np.float64) * (2 * math.pi * 2.0**-24)
    return np.asarray(np.sqrt(-2 * np.log(u)) * np.cos(angle))
