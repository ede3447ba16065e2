"""The order of samples: a permutation for each epoch, the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcllm.data.order import BLOCK_BYTES, sample_number, sample_numbers, samples_per_block

SHAPES = {
    "n": st.integers(1, 700),
    "seed": st.integers(-(2**70), 2**70),
    "block": st.integers(1, 90),
    "window": st.integers(1, 9),
    "epoch": st.integers(0, 1000),
}


@settings(max_examples=300, deadline=None)
@given(**SHAPES)
def test_every_epoch_visits_each_sample_once(n: int, seed: int, block: int, window: int, epoch: int) -> None:
    ks = np.arange(epoch * n, (epoch + 1) * n)

    assert sorted(sample_numbers(ks, n, seed, block, window)) == list(range(n))


@settings(max_examples=100, deadline=None)
@given(**SHAPES)
def test_any_stretch_of_it_is_found_alone(n: int, seed: int, block: int, window: int, epoch: int) -> None:
    k = epoch * n + n // 3

    together = sample_numbers(np.arange(k, k + 5), n, seed, block, window)

    assert [sample_number(k + i, n, seed, block, window) for i in range(5)] == together.tolist()


@settings(max_examples=100, deadline=None)
@given(**SHAPES)
def test_a_window_reads_from_so_many_blocks_only(n: int, seed: int, block: int, window: int, epoch: int) -> None:
    order = sample_numbers(np.arange(epoch * n, (epoch + 1) * n), n, seed, block, window)

    blocks = order // block
    touched = [len(set(blocks[i : i + block].tolist())) for i in range(0, n, block)]

    # A stretch as long as a block may lie over the border of two windows.
    assert max(touched) <= 2 * window


def test_epochs_and_seeds_differ() -> None:
    orders = [tuple(sample_numbers(np.arange(e * 50, (e + 1) * 50), 50, s, 7, 3)) for s in (1, 2) for e in (0, 1)]

    assert len(set(orders)) == 4


def test_each_sample_comes_at_each_place_equally_often() -> None:
    n, runs = 8, 2000
    count = np.zeros((n, n))
    for seed in range(runs):
        count[np.arange(n), sample_numbers(np.arange(n), n, seed, 2, 2)] += 1

    # Binomial: a standard deviation is 15 of 250.
    assert np.abs(count - runs / n).max() < 5.5 * np.sqrt(runs / n)


def test_the_order_never_changes() -> None:
    """A run that is resumed by a later version must see the samples that it has not seen."""
    assert sample_numbers(np.arange(10, 22), 12, 1, 3, 2).tolist() == [11, 2, 10, 6, 8, 11, 9, 7, 0, 4, 5, 3]
    assert sample_number(10**12, 123_456_789, 42, 2048) == 19472128


@pytest.mark.parametrize(
    ("sample_bytes", "expected"), [(1, BLOCK_BYTES), (3, 349526), (2**20, 1), (2**30, 1), (0, BLOCK_BYTES)]
)
def test_a_block_is_at_least_a_mebibyte(sample_bytes: int, expected: int) -> None:
    assert samples_per_block(sample_bytes) == expected
