"""The loop, alone and on ranks: what is equal to what. Run: pytest tests/train (mpi: pytest -m mpi tests/train)"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import events, losses, start_training, tiny_job, tiny_run, train_here, trained, weights

from hpcllm.errors import HpcllmError, Interrupted
from hpcllm.run_directory import Run, read_json, read_jsonl
from hpcllm.train import loop
from hpcllm.train.interrupt import stop_requests
from hpcllm.train.loop import seed_dropout

LONG = {"steps": 150, "validate_every_steps": 1000, "checkpoint": {"every_steps": 20, "keep": 2}}
DROPOUT = {"dropout": 0.1}


@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_a_few_sequences_are_learned_by_heart(tmp_path: Path, architecture: str) -> None:
    job = tiny_job(tmp_path, architecture, {"width": 32, "layers": 1}, steps=120, schedule={"warmup_steps": 20})
    run = tiny_run(tmp_path / "run", job)

    train_here(run)

    assert losses(run)[-1] < losses(run)[0] / 3


@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_smaller_micro_batches_give_the_losses_of_large_ones(tmp_path: Path, architecture: str) -> None:
    job = tiny_job(tmp_path, architecture)
    whole, cut = tiny_run(tmp_path / "4", job, micro_batch=4), tiny_run(tmp_path / "1", job, micro_batch=1)

    train_here(whole)
    train_here(cut)

    assert losses(cut) == pytest.approx(losses(whole), rel=1e-5)


@pytest.mark.mpi
@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_two_ranks_give_the_losses_of_one_step_by_step(tmp_path: Path, architecture: str) -> None:
    job = tiny_job(tmp_path, architecture)
    alone = tiny_run(tmp_path / "1", job)
    two = tiny_run(tmp_path / "2", job, world_size=2, micro_batch=2)
    accumulating = tiny_run(tmp_path / "3", job, world_size=2, micro_batch=1)

    train_here(alone)
    trained(two)
    trained(accumulating)

    assert losses(two) == pytest.approx(losses(alone), rel=1e-5)
    assert losses(accumulating) == pytest.approx(losses(alone), rel=1e-5)
    validations = [
        [line["loss"] for line in read_jsonl(run.metrics_jsonl("validation"))] for run in (alone, two, accumulating)
    ]
    assert validations[1] == pytest.approx(validations[0], rel=1e-5)
    assert validations[2] == pytest.approx(validations[0], rel=1e-5)


@pytest.mark.mpi
def test_killed_or_stopped_in_the_middle_the_final_weights_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, model=DROPOUT, **LONG)
    whole, killed, stopped = (tiny_run(tmp_path / name, job, 2, 1) for name in ("whole", "killed", "stopped"))
    trained(whole)

    _start_and_signal(killed, signal.SIGKILL, after_step=30)
    assert 20 <= max(checkpoint_steps(killed)) < 150
    assert "resumed after step" in trained(killed)

    code = _start_and_signal(stopped, signal.SIGTERM, after_step=30)
    saved = checkpoint_steps(stopped)
    assert code == 75
    assert events(stopped)[-2:] == ["checkpoint", "interrupted"]
    assert max(saved) == len(losses(stopped)) < 150
    trained(stopped)

    assert losses(stopped) == losses(whole)
    assert weights(killed, 150) == weights(whole, 150) == weights(stopped, 150)
    optimizers = [(run.checkpoint(150) / "optimizer.safetensors").read_bytes() for run in (killed, whole)]
    assert optimizers[0] == optimizers[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_lets_the_step_finish_saves_once_and_interrupts(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path / "run", tiny_job(tmp_path))
    _signal_in_step(6, number, monkeypatch)

    with pytest.raises(Interrupted, match=f"{number.name}; step 6 is saved"):
        train_here(run)

    assert events(run) == ["start", "checkpoint", "checkpoint", "interrupted"]
    assert checkpoint_steps(run) == [6, 4]


def test_a_signal_in_the_last_step_is_no_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "run", tiny_job(tmp_path))
    _signal_in_step(12, signal.SIGTERM, monkeypatch)

    train_here(run)

    assert events(run)[-1] == "end"


def test_resumed_with_dropout_alone_the_losses_go_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny_job(tmp_path, model={"dropout": 0.3})
    whole, stopped = tiny_run(tmp_path / "whole", job), tiny_run(tmp_path / "stopped", job)
    train_here(whole)

    _signal_in_step(6, signal.SIGTERM, monkeypatch)
    with pytest.raises(Interrupted):
        train_here(stopped)
    train_here(stopped, attempt=2)

    assert losses(stopped) == losses(whole)
    assert weights(stopped, 12) == weights(whole, 12)


def test_a_resumed_run_keeps_the_precision_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "run", tiny_job(tmp_path, precision="bf16"))
    _signal_in_step(6, signal.SIGTERM, monkeypatch)
    with pytest.raises(Interrupted):
        train_here(run)

    resolved = run.resolved_json.read_text().replace('"bf16"', '"auto"')
    run.resolved_json.write_text(resolved)
    train_here(run, attempt=2)

    starts = [line for line in read_jsonl(run.metrics_jsonl("events")) if line["event"] == "start"]
    assert [(line["precision"], line["flops_per_s"]) for line in starts] == [("bf16", {}), ("bf16", {})]
    assert losses(run)[-1] < losses(run)[0]


def test_a_loss_that_is_no_number_ends_the_training_and_saves_nothing(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, optimizer={"learning_rate": 1e30, "clip_norm": 0}, schedule={"warmup_steps": 0})
    run = tiny_run(tmp_path / "run", job)

    with pytest.raises(HpcllmError, match=r"the loss is nan; try a lower train\.optimizer\.learning_rate"):
        train_here(run)

    assert not run.latest.exists()


def test_a_line_of_metrics_has_what_readers_expect(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", tiny_job(tmp_path))

    train_here(run)

    line = read_jsonl(run.metrics_jsonl("train"))[-1]
    assert set(line) == {
        *("attempt", "step", "loss", "targets", "learning_rate", "gradient_norm", "step_s", "data_s"),
        *("compute_s", "communication_s", "checkpoint_s", "tokens_per_s", "time"),
    }
    assert line["data_s"] + line["compute_s"] + line["communication_s"] == pytest.approx(line["step_s"])
    assert line["communication_s"] == 0
    assert read_jsonl(run.metrics_jsonl("validation"))[-1]["step"] == 12
    assert read_jsonl(run.metrics_jsonl("events"))[-1]["memory_peak_bytes"] > 10**6


def test_a_line_that_a_killed_writer_tore_costs_no_other_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "run", tiny_job(tmp_path))
    _signal_in_step(6, signal.SIGTERM, monkeypatch)
    with pytest.raises(Interrupted):
        train_here(run)

    with run.metrics_jsonl("train").open("a") as file:
        file.write('{"attempt": 1, "st')
    train_here(run, attempt=2)

    assert [line["step"] for line in read_jsonl(run.metrics_jsonl("train"))] == list(range(1, 13))


def test_a_dropout_mask_depends_on_seed_step_micro_batch_and_rank_alone() -> None:
    def mask(*key: int) -> list[float]:
        torch.rand(3)
        seed_dropout(*key)
        return torch.rand(8).tolist()

    assert mask(1, 2, 3, 4) == mask(1, 2, 3, 4)
    assert (
        len({tuple(mask(*key)) for key in ((1, 2, 3, 4), (2, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5))}) == 5
    )


def test_outside_of_training_signals_do_what_they_did_before() -> None:
    before = signal.getsignal(signal.SIGUSR2)

    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.signal_name == "SIGUSR2"

    assert signal.getsignal(signal.SIGUSR2) == before


def checkpoint_steps(run: Run) -> list[int]:
    return sorted((int(path.name.removeprefix("step-")) for path in run.checkpoints.glob("step-*")), reverse=True)


def _signal_in_step(step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal while it computes that step, once."""
    rate_of = loop.learning_rate

    def learning_rate(now: int, settings: object) -> float:
        if now == step:
            os.kill(os.getpid(), number)
        return rate_of(now, settings)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "learning_rate", learning_rate)


def _start_and_signal(run: Run, number: signal.Signals, after_step: int) -> int:
    """Start the stage on its ranks and send rank 0 the signal; the exit code of mpirun."""
    process = start_training(run)
    deadline = time.monotonic() + 60
    while len(read_jsonl(run.metrics_jsonl("train"))) < after_step and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    os.kill(read_json(run.state_json("30-train"))["pid"], number)
    process.communicate(timeout=60)
    return process.returncode
