"""A thousand random collectives on random sub-groups, types, shapes and layouts agree with gloo: see over_ranks/."""

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.mpi

PROGRAM = Path(__file__).parent / "over_ranks" / "random_collectives.py"
SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


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


def test_ten_seconds_of_collectives_and_groups_leave_memory_flat(mpirun, tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # or the heap's holes hide what leaks

    ended = mpirun(2, SOAK, "--measure", tmp_path / "rows.json", "--minutes", 10 / 60)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["rank"] for row in rows] == [0, 1]
    assert all(row["flat"] for row in rows), rows
    assert all(row["groups"] > 2 for row in rows)
