"""The stages that learn the vocabulary and write the shards, alone and on MPI ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import new_run, write_aligned, write_corpus

from hpcllm.data.corpus import documents
from hpcllm.data.shards import Shards, verify
from hpcllm.data.tokenizer import Tokenizer
from hpcllm.errors import UserError
from hpcllm.job.spec import frozen_job
from hpcllm.launch.pipeline import find_stage
from hpcllm.parallel.world import World
from hpcllm.progress import Progress
from hpcllm.run_directory import Run
from hpcllm.stages import shard, tokenizer

PROGRAMS = {"tokenizer": tokenizer.main, "shard": shard.main}


def do(run: Run, *names: str) -> None:
    for name in names:
        PROGRAMS[name](run, find_stage(frozen_job(run), name), World.alone())


def text_data(folder: Path, **more: Any) -> dict[str, Any]:
    split = {"validation": 0.2, "test": 0.2}
    return {"text": {"files": [f"{write_corpus(folder)}/*.txt"]}, "split": split, **more}


def test_text_becomes_shards_that_can_be_trained_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path / "run", text_data(tmp_path / "corpus", tokenizer={"kind": "bpe", "vocabulary": 300}))

    do(run, "tokenizer", "shard")

    assert verify(run) == []
    said = capfd.readouterr().out
    assert "10-tokenizer: bpe, vocabulary 300, " in said
    assert "bytes per token" in said
    train = Shards.open(run, "train")
    assert f"20-shard: train: {train.num_documents} documents" in said
    progress = [Progress.parse(line) for line in said.splitlines()]
    assert [p.name for p in progress if p and p.done == p.total] == ["tokenizer", "shard"]


def test_pairs_share_one_vocabulary(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = {"pairs": write_aligned(tmp_path / "files"), "tokenizer": {"kind": "word", "vocabulary": 300}}
    run = new_run(tmp_path / "run", {**data, "split": {"validation": 0.2, "test": 0.2}})

    do(run, "tokenizer", "shard")

    learned = Tokenizer.load(run.tokenizer_json)
    assert learned.decode(learned.encode("sentence 句")) == "sentence句"
    assert "pairs, " in capfd.readouterr().out


def test_held_out_text_shapes_no_vocabulary(tmp_path: Path) -> None:
    whole, without = (new_run(tmp_path / name, text_data(tmp_path / name / "corpus")) for name in ("whole", "without"))
    data = frozen_job(without).data
    held_out = {document.name for part in ("validation", "test") for document in documents(data, part)}
    for name in held_out:
        (tmp_path / "without" / "corpus" / name).write_text("zebra " * 100)

    do(whole, "tokenizer")
    do(without, "tokenizer")

    assert held_out
    assert Tokenizer.load(whole.tokenizer_json).sha256 == Tokenizer.load(without.tokenizer_json).sha256


def test_an_empty_training_part_is_the_users_to_mend(tmp_path: Path) -> None:
    data = text_data(tmp_path / "corpus")
    run = new_run(tmp_path / "run", {**data, "split": {"validation": 0.499999999999, "test": 0.5}})

    with pytest.raises(UserError, match="nothing fell into the training part"):
        do(run, "tokenizer")

    assert not run.tokenizer_json.exists()


def test_fewer_samples_than_a_global_batch_are_told_before_training(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", text_data(tmp_path / "corpus"), train={"global_batch": 10_000})

    do(run, "tokenizer")
    with pytest.raises(UserError, match="found 10000 sequences; the training part has"):
        do(run, "shard")


def test_an_empty_held_out_part_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one long text " * 200)
    files = {"text": {"files": [f"{tmp_path}/one.txt"]}}

    run = new_run(tmp_path / "asked", {**files, "split": {"validation": 0.05, "test": 0}})
    do(run, "tokenizer")
    with pytest.raises(UserError, match=r"data\.split\.validation: found 0\.05; nothing fell into it"):
        do(run, "shard")

    run = new_run(tmp_path / "not asked", {**files, "split": {"validation": 0, "test": 0}})
    do(run, "tokenizer", "shard")
    assert Shards.open(run, "test").num_documents == 0


ON_RANKS = """
import sys
from pathlib import Path
from hpcllm.job.spec import frozen_job
from hpcllm.launch.pipeline import find_stage
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run
from hpcllm.stages import shard

run = Run(Path(sys.argv[1]))
shard.main(run, find_stage(frozen_job(run), "shard"), World.of_mpi())
"""


@pytest.mark.mpi
def test_mpi_ranks_write_what_one_process_writes(tmp_path: Path) -> None:
    data = text_data(tmp_path / "corpus", shard_tokens="1000 tokens")
    alone, together = new_run(tmp_path / "alone", data), new_run(tmp_path / "together", data)
    do(alone, "tokenizer", "shard")
    do(together, "tokenizer")

    command = ["mpirun", "-n", "3", sys.executable, "-c", ON_RANKS, str(together.root)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    assert ended.returncode == 0, ended.stderr
    contents = [{p.name: p.read_bytes() for p in [run.index_json, *run.shards.iterdir()]} for run in (alone, together)]
    assert contents[0] == contents[1]
    assert ended.stdout.count("20-shard: train") == 1
