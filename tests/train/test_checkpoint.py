"""What is saved, and what happens when it is damaged. Run: pytest tests/train"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import events, tiny_job, tiny_run, train_here, weights

from hpcllm.errors import HpcllmError, UserError
from hpcllm.job.spec import frozen_job
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run, read_json, write_json
from hpcllm.train import checkpoint
from hpcllm.train.optimizer import adamw


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained to its end, step 12, with the checkpoints of steps 8 and 12."""
    folder = tmp_path_factory.mktemp("finished")
    run = tiny_run(folder / "run", tiny_job(folder))
    train_here(run)
    return run


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """The same, to be damaged."""
    return Run(shutil.copytree(finished.root, tmp_path / "run"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_the_newest_are_kept_and_latest_names_one_that_is_whole(run: Run) -> None:
    assert checkpoint.steps(run) == [12, 8]
    assert run.latest.read_text() == "step-12\n"
    assert checkpoint.damage_of(run.checkpoint(12)) is None


def test_the_trained_model_has_other_weights_than_the_untrained_and_is_in_eval_mode(run: Run) -> None:
    trained, untrained = checkpoint.trained_model(run), checkpoint.untrained_model(run)

    assert not trained.training
    assert not untrained.training
    assert not torch.equal(trained.embedding.tokens.weight, untrained.embedding.tokens.weight)
    for ours, again in zip(untrained.parameters(), checkpoint.untrained_model(run).parameters(), strict=True):
        assert torch.equal(ours, again)


@pytest.mark.parametrize("damage", [flip_a_bit, cut, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(
    run: Run, name: str, damage: Callable[[Path], None]
) -> None:
    damage(run.checkpoint(12) / name)

    step, damages = checkpoint.latest(run)

    assert step == 8
    assert str(run.checkpoint(12) / name) in damages[0]


def test_going_on_from_the_one_before_makes_the_damaged_one_anew(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = weights(run, 12)
    flip_a_bit(run.checkpoint(12) / "model.safetensors")

    train_here(run, attempt=2)

    assert "model.safetensors: damaged" in capsys.readouterr().out
    assert "damaged" in events(run)
    assert weights(run, 12) == before
    assert checkpoint.damage_of(run.checkpoint(12)) is None


def test_a_damaged_newer_checkpoint_does_not_push_out_the_whole_ones(run: Run) -> None:
    cut(run.checkpoint(12) / checkpoint.MODEL)
    job = frozen_job(run)
    model = checkpoint.fresh_model(job, read_json(run.index_json)["vocabulary_size"])
    optimizer = adamw(model, job.train.optimizer, World.alone())
    checkpoint.load_model(run, job, model, 8)
    checkpoint.load_optimizer(run, model, optimizer, 8, World.alone())

    checkpoint.save(run, job, model, optimizer, 10, "fp32", World.alone())

    assert checkpoint.steps(run) == [10, 8]
    assert run.latest.read_text() == "step-10\n"


def test_evaluating_a_damaged_model_is_refused_with_the_file_and_the_way_out(run: Run) -> None:
    flip_a_bit(run.checkpoint(12) / "model.safetensors")

    with pytest.raises(HpcllmError, match=r"step-12/model\.safetensors: damaged.*run the train stage again"):
        checkpoint.trained_model(run)


def test_before_training_there_is_no_model_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(HpcllmError, match="train stage has not saved"):
        checkpoint.trained_model(Run(tmp_path))


def test_a_job_with_another_model_does_not_go_on_from_it(run: Run) -> None:
    resolved = read_json(run.resolved_json)
    resolved["job"]["model"]["heads"] = 4
    write_json(run.resolved_json, resolved)

    with pytest.raises(UserError, match=r"model: found .*'heads': 2.*new directory"):
        train_here(run, attempt=2)


def test_a_disk_that_is_full_leaves_the_checkpoint_before_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    model = checkpoint.trained_model(run)

    with pytest.raises(HpcllmError, match=r"step-13: cannot be written: .*No space left.*make room"):
        checkpoint.save(run, frozen_job(run), model, torch.optim.AdamW(model.parameters()), 13, "fp32", World.alone())

    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["LATEST", "step-12", "step-8"]
    assert checkpoint.latest(run) == (12, [])


def test_what_a_killed_writer_left_is_removed_by_the_next(run: Run) -> None:
    half_written = run.checkpoints / ".step-13.123.tmp"
    half_written.mkdir()

    flip_a_bit(run.checkpoint(12) / "state.json")
    train_here(run, attempt=2)

    assert not half_written.exists()
