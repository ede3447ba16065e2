"""A thousand random collectives on random sub-groups, types, shapes and layouts agree with gloo: see over_ranks/."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.mpi

PROGRAM = Path(__file__).parent / "over_ranks" / "random_collectives.py"


def outcome(ended) -> tuple[int, str]:
    """How many collectives there were, and the digest of their bits."""
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"(\d+) collectives, digest (\w+)", ended.stdout)
    assert found, ended.stdout + ended.stderr
    return int(found[1]), found[2]


def test_a_thousand_random_collectives_agree_with_gloo_and_equal_runs_give_equal_bits(mpirun):
    compared, digest = outcome(mpirun(3, PROGRAM))
    repeated = outcome(mpirun(3, PROGRAM, "--without-gloo"))

    assert compared >= 1000
    assert repeated == (compared, digest)
