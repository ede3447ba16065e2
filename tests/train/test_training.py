"""The loop, alone and on ranks: what is equal to what. Run: pytest tests/train (mpi: pytest -m mpi tests/train)"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import (
    ended,
    events,
    latest_losses,
    losses,
    moved,
    start_training,
    tiny_job,
    tiny_run,
    train_here,
    trained,
    weights,
)

from hpcllm.errors import HpcllmError, Interrupted
from hpcllm.run_directory import Run, read_json, read_jsonl
from hpcllm.train import checkpoint, loop
from hpcllm.train.interrupt import stop_requests
from hpcllm.train.loop import seed_dropout

LONG = {"steps": 150, "validate_every_steps": 1000, "checkpoint": {"every_steps": 20, "keep": 2}}


@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_the_training_text_is_learned(tmp_path: Path, architecture: str) -> None:
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
def test_two_ranks_give_the_losses_of_one_step_by_step(tmp_path: Path) -> None:
    text, pairs = tiny_job(tmp_path), tiny_job(tmp_path, "seq2seq")
    one_text, one_pairs = tiny_run(tmp_path / "one-text", text), tiny_run(tmp_path / "one-pairs", pairs)
    two_text, two_pairs = tiny_run(tmp_path / "two-text", text, 2, 2), tiny_run(tmp_path / "two-pairs", pairs, 2, 2)
    accumulating = tiny_run(tmp_path / "accumulating", text, 2, micro_batch=1)
    train_here(one_text)
    train_here(one_pairs)
    on_two = moved(one_text, tmp_path / "moved", 8, 2, "ddp")

    trained(two_text, two_pairs, accumulating, on_two)

    for two, one in ((two_text, one_text), (two_pairs, one_pairs), (accumulating, one_text), (on_two, one_text)):
        assert latest_losses(two) == pytest.approx(latest_losses(one), rel=1e-5)
        assert latest_losses(two, "validation") == pytest.approx(latest_losses(one, "validation"), rel=1e-5)


@pytest.mark.mpi
def test_killed_and_then_stopped_the_final_weights_are_those_of_an_uninterrupted_run_to_the_bit(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, model={"dropout": 0.1}, **LONG)
    whole, broken = (tiny_run(tmp_path / name, job, 2, 1) for name in ("whole", "broken"))

    killed = _start_and_signal(whole, broken, number=signal.SIGKILL, after_step=30)
    last_saved = max(checkpoint.steps(broken))
    stopped = _start_and_signal(broken, number=signal.SIGTERM, after_step=last_saved + 30)
    stopped_at = max(checkpoint.steps(broken))
    said = trained(broken)

    assert (killed != 0, stopped) == (True, 75)
    assert 20 <= last_saved < stopped_at < 150
    assert events(broken).count("interrupted") == 1
    assert f"resumed after step {stopped_at}" in said
    assert latest_losses(broken) == latest_losses(whole)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (broken.checkpoint(150) / name).read_bytes() == (whole.checkpoint(150) / name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_lets_the_step_finish_saves_once_and_interrupts(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path / "run", tiny_job(tmp_path))
    _signal_in_step(6, number, monkeypatch)

    with pytest.raises(Interrupted, match=f"{number.name}; step 6 is saved"):
        train_here(run)

    assert events(run) == ["start", "checkpoint", "checkpoint", "interrupted"]
    assert checkpoint.steps(run) == [6, 4]


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


def _signal_in_step(step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal while it computes that step, once."""
    rate_of = loop.learning_rate

    def learning_rate(now: int, settings: object) -> float:
        if now == step:
            os.kill(os.getpid(), number)
        return rate_of(now, settings)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "learning_rate", learning_rate)


def _start_and_signal(*runs: Run, number: signal.Signals, after_step: int) -> int:
    """Train these runs on ranks, and send rank 0 the signal when the last one is so far; the exit code of mpirun."""
    process, run = start_training(*runs), runs[-1]
    deadline = time.monotonic() + 100
    while not any(line["step"] == after_step for line in read_jsonl(run.metrics_jsonl("train"))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(read_json(run.state_json("30-train"))["pid"], number)
    ended(process)
    return process.returncode
