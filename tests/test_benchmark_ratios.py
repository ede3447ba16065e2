"""The intervals that the benchmarks' bars are held against."""

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from turns import ratio_of


def test_a_ratio_is_the_median_over_the_turns():
    ratio = ratio_of(theirs=[2, 4, 6, 8, 10, 1200, 14], ours=[1, 2, 3, 4, 5, 6, 7])

    assert (ratio.median, ratio.low) == (2, 2)


def test_six_turns_are_the_fewest():
    assert ratio_of([6, 5, 4, 3, 2, 1], [1] * 6).low == 1  # the smallest and the largest: 1 − 2/2⁶ = 0.969
    with pytest.raises(ValueError, match="found 5 pairs"):
        ratio_of([1] * 5, [1] * 5)


@pytest.mark.parametrize("turns", [11, 50])
def test_the_interval_holds_the_true_median_in_19_of_20_runs(turns: int):
    draw = random.Random(1)
    runs = [ratio_of([draw.lognormvariate(0, 1) for _ in range(turns)], [1.0] * turns) for _ in range(2000)]

    held = sum(run.low <= 1 <= run.high for run in runs) / len(runs)

    assert 0.94 <= held <= 0.99
