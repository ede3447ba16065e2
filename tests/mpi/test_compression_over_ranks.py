"""Compressed gradients on real ranks. What holds on the ranks stands in over_ranks/."""

import pytest

pytestmark = pytest.mark.mpi


def test_compressed_gradients_train_as_fp32_ones_do(passes_on):
    passes_on(2, "ranks_compression.py")
