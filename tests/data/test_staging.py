"""Copies of the shards on a node's own disk: read like the run's own, made where they fit, and taken away again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ranks_in_threads import on_ranks
from small_runs import new_run, write_corpus

from hpcllm.data import sharding
from hpcllm.data.shards import Shards
from hpcllm.data.staging import staged
from hpcllm.data.tokenizer import Tokenizer
from hpcllm.derive.staging import BYTES, PATH
from hpcllm.job.spec import frozen_job
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    text = {"files": [str(write_corpus(tmp_path / "corpus") / "*.txt")]}
    run = new_run(tmp_path / "run", {"text": text, "split": {"validation": 0.2, "test": 0.2}})
    data = frozen_job(run).data
    Tokenizer.learn(data.tokenizer, ["a b"]).save(run.tokenizer_json)
    groups = sharding.plan_groups(data)
    sharding.write_shards(run, data, Tokenizer.load(run.tokenizer_json), groups, World.alone(), lambda done: None)
    return run


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def copies(disk: Path) -> list[Path]:
    return [path for path in disk.rglob("*") if path.is_file()]


def test_the_ranks_of_a_node_read_one_copy_that_is_gone_afterwards(run: Run, disk: Path) -> None:
    def work(world: World) -> tuple[Path, str, list[int]]:
        with staged(run, world, {PATH: str(disk)}) as (folder, said):
            return folder, said, Shards.open(run, "train", folder).streams["text"].tokens(0, 50).tolist()

    (folder, said, tokens), other = on_ranks(2, work)

    assert other == (folder, said, tokens)
    assert folder.is_relative_to(disk)
    assert "of shards copied to" in said
    np.testing.assert_array_equal(tokens, Shards.open(run, "train").streams["text"].tokens(0, 50))
    assert copies(disk) == []


def test_only_what_training_reads_is_copied(run: Run, disk: Path) -> None:
    with staged(run, World.alone(), {PATH: str(disk)}):
        names = {path.name for path in copies(disk)}

    assert names == {path.name for path in run.shards.iterdir() if not path.name.startswith("test")}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, ""),
        ({PATH: "DISK", BYTES: "10"}, "shards stay where they are: "),
        ({PATH: "DISK/missing"}, "shards stay where they are: [Errno 2]"),
    ],
)
def test_shards_are_read_where_they_lie_when_they_cannot_be_copied(
    run: Run, disk: Path, environment: dict[str, str], said: str
) -> None:
    here = {name: value.replace("DISK", str(disk)) for name, value in environment.items()}

    with staged(run, World.alone(), here) as (folder, what):
        assert folder == run.shards
        assert what.startswith(said)
        assert bool(what) == bool(said)
    assert copies(disk) == []
    assert len(list(run.shards.iterdir())) >= 2
