"""Which sample is the k-th of a run: integers in, integers out.

Every epoch visits each sample once, in two levels. Blocks of neighbouring samples are permuted over the whole part, and
then samples inside a window of W permuted blocks: so a parallel filesystem sees whole blocks, W of them at a time, and
neighbours in the order come from W places of the text. Both permutations are Feistel networks with cycle walking (Black
& Rogaway 2002, "Ciphers with arbitrary finite domains"): nothing is stored, any k is found at once, and a run resumes
anywhere, at any number of ranks. They are written in integers of this file alone, because the streams of a library's
random generator change between its versions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 2**20
WINDOW_BLOCKS = 64

_ROUNDS = range(6)
_GOLDEN = 0x9E3779B97F4A7C15
_BLOCK_LEVEL, _WINDOW_LEVEL = 1, 2

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]


def sample_number(
    k: int, num_samples: int, seed: int, block_samples: int = 1, window_blocks: int = WINDOW_BLOCKS
) -> int:
    """The number of the k-th sample of a run (k counts on over epochs)."""
    return int(sample_numbers(np.array([k]), num_samples, seed, block_samples, window_blocks)[0])


def sample_numbers(
    ks: Integers, num_samples: int, seed: int, block_samples: int = 1, window_blocks: int = WINDOW_BLOCKS
) -> Integers:
    """The same of many k at once.

    `block_samples` is the number of samples in a block (`samples_per_block`), of which the last may hold fewer.
    """
    epochs, places = np.divmod(ks.astype(np.int64), num_samples)
    num_blocks = -(-num_samples // block_samples)
    block_keys = _key(seed % 2**63, epochs, _BLOCK_LEVEL)

    # The last block lacks some samples. Whatever stands behind it in this epoch's order begins so much earlier.
    lacking = num_blocks * block_samples - num_samples
    short_at = _permute(np.full_like(ks, num_blocks - 1), num_blocks, block_keys, reversed(_ROUNDS))

    def start(block: Integers) -> Integers:
        return block * block_samples - np.where(short_at < block, lacking, 0)

    def holder(place: Integers, blocks: int) -> Integers:
        """Which group of so many blocks holds this place of the epoch."""
        if_behind = (place + lacking) // (blocks * block_samples)
        return np.where(short_at < if_behind * blocks, if_behind, place // (blocks * block_samples))

    # Within its window of blocks, a place goes to another one of the same window.
    windows = holder(places, window_blocks)
    first = start(windows * window_blocks)
    size = start(np.minimum((windows + 1) * window_blocks, num_blocks)) - first
    window_keys = _key(seed % 2**63, epochs, _WINDOW_LEVEL, windows)
    places = first + _permute(places - first, size, window_keys, _ROUNDS)

    # The block that stands at this place is another one of the part.
    blocks = holder(places, 1)
    return _permute(blocks, num_blocks, block_keys, _ROUNDS) * block_samples + places - start(blocks)


def samples_per_block(sample_bytes: int) -> int:
    """How many samples make a block of at least 1 MiB."""
    return -(-BLOCK_BYTES // max(1, sample_bytes))


def _permute(x: Integers, n: Integers | int, keys: Words, rounds: Iterable[int]) -> Integers:
    """A permutation of 0…n−1 for each key; the rounds reversed give its inverse."""
    x, n = np.broadcast_arrays(x, n)
    half = _half_bits(n)
    rounds = tuple(rounds)
    y = _feistel(x.astype(np.uint64), half, keys, rounds)
    # The network permutes a power of four; a value outside of 0…n−1 is sent through again until it comes out inside.
    while (outside := y >= n.astype(np.uint64)).any():
        y[outside] = _feistel(y[outside], half[outside], keys[outside], rounds)
    return y.astype(np.int64)


def _half_bits(n: Integers) -> Words:
    """Half the bits of the smallest power of four that is at least n (frexp is exact below 2⁵³)."""
    bits = np.frexp(np.maximum(n - 1, 1).astype(np.float64))[1]
    return ((bits + 1) // 2).astype(np.uint64)


def _feistel(x: Words, half: Words, keys: Words, rounds: tuple[int, ...]) -> Words:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & mask
    for number in rounds:
        left, right = right, left ^ (_mix(right ^ _mix(keys + np.uint64(number))) & mask)
    return (right << half) | left


def _key(*parts: Any) -> Words:
    """One 64-bit key of several integers (or arrays of them)."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        key = _mix(key ^ np.asarray(part, np.int64).astype(np.uint64))
    return key


def _mix(x: Words) -> Words:
    """The step of splitmix64 (Steele et al. 2014), whose every output bit depends on every input bit."""
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
