"""What is read from a run directory: all of it, whatever state it is in. Run: pytest tests/report"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_run import START, new_run, shipped_job, write_result, write_states, write_training

from hpcllm.job.spec import CommandJob
from hpcllm.report.collect import collect
from hpcllm.report.summary import Comparison
from hpcllm.run_directory import Run, append_jsonl, write_json, write_text


def _row(rows: tuple[Comparison, ...], figure: str) -> Comparison:
    return next(row for row in rows if row.figure == figure)


def test_a_step_that_was_made_twice_counts_once_as_its_latest_attempt_left_it(unstarted: Run) -> None:
    for attempt, step, loss in ((1, 1, 9.0), (1, 2, 8.0), (1, 3, 7.0), (2, 2, 8.5), (2, 3, 7.5), (2, 4, 6.0)):
        append_jsonl(unstarted.metrics_jsonl("train"), {"attempt": attempt, "step": step, "loss": loss, "targets": 10})

    training = collect(unstarted).training

    assert training is not None
    assert training.train_loss == ((1, 9.0), (2, 8.5), (3, 7.5), (4, 6.0))
    assert (training.tokens, training.attempts, training.resumed_at) == (40, 2, (2,))


def test_the_median_step_leaves_out_the_warm_up_of_each_attempt(unstarted: Run) -> None:
    for attempt in (1, 2):
        for i in range(12):
            step, seconds = 12 * (attempt - 1) + i + 1, 5.0 if i < 5 else 1.0
            append_jsonl(
                unstarted.metrics_jsonl("train"), {"attempt": attempt, "step": step, "loss": 1.0, "step_s": seconds}
            )

    training = collect(unstarted).training

    assert training is not None
    assert training.step_s == 1.0


def test_the_total_time_is_that_of_all_attempts_without_the_wait_between_them(unstarted: Run) -> None:
    for attempt, time in ((1, 0.0), (1, 10.0), (2, 500.0), (2, 504.0)):
        append_jsonl(unstarted.metrics_jsonl("events"), {"attempt": attempt, "event": "x", "time": time})
    append_jsonl(unstarted.metrics_jsonl("train"), {"attempt": 2, "step": 1, "loss": 1.0, "time": 503.0})

    training = collect(unstarted).training

    assert training is not None
    assert training.total_s == 14.0


def test_predicted_stands_beside_measured(finished: Run) -> None:
    rows = collect(finished).predictions

    step = _row(rows, "step time")
    assert (step.before, step.unit) == (0.545, "s")
    assert step.after == pytest.approx(0.58, abs=0.01)
    assert step.ratio == pytest.approx(step.after / 0.545)
    assert _row(rows, "memory of a rank").after == 811 << 20
    assert _row(rows, "size of a checkpoint").after == 50_880_000


def test_an_unknown_prediction_says_which_input_is_missing(finished: Run) -> None:
    row = _row(collect(finished).predictions, "reading data in a step")

    assert row.before is None
    assert row.ratio is None
    assert row.note == "needs filesystems.disk.read"


def test_the_predicted_speed_is_compared_without_the_padding_that_the_plan_counts(unstarted: Run) -> None:
    for step in (1, 2):
        line = {"attempt": 1, "step": step, "loss": 1.0, "targets": 1024, "tokens_per_s": 1500.0}
        append_jsonl(unstarted.metrics_jsonl("train"), line)

    speed = _row(collect(unstarted).predictions, "speed")

    assert speed.before == pytest.approx(7515.0 / 4)
    assert "75%" in speed.note


def test_half_a_training_is_not_held_against_the_prediction_of_the_whole(unstarted: Run) -> None:
    write_training(unstarted, steps=100, interrupted_at=None)

    summary = collect(unstarted)

    assert summary.training is not None
    assert (summary.training.last_step, summary.training.planned_steps) == (100, 600)
    assert _row(summary.predictions, "whole training").after is None


def test_a_run_that_was_only_rendered_has_a_plan_and_nothing_else(unstarted: Run) -> None:
    summary = collect(unstarted)

    assert summary.plan is not None
    assert summary.training is None
    assert summary.evaluations == summary.samples == summary.compression == summary.warnings == ()
    assert {stage.outcome for stage in summary.stages} == {"waiting"}


@pytest.mark.parametrize("missing", ["plan.json", "env/software.json", "metrics/train.jsonl", "metrics/events.jsonl"])
def test_any_missing_file_is_borne(finished: Run, missing: str) -> None:
    (finished.root / missing).unlink()

    assert collect(finished).warnings == ()


@pytest.mark.parametrize(
    "damaged",
    [
        "plan.json",
        "env/software.json",
        "data/index.json",
        "state/30-train.json",
        "results/trained/perplexity.json",
        "resolved.json",
    ],
)
@pytest.mark.parametrize("content", ['{"torn": ', "[1, 2]", "\x00\x01"])
def test_a_damaged_file_is_named_and_the_rest_is_read(finished: Run, damaged: str, content: str) -> None:
    write_text(finished.root / damaged, content)

    summary = collect(finished)

    assert any(warning.startswith(f"{damaged}: ") for warning in summary.warnings)
    assert summary.value("trained", "bits-per-byte") == 2.134


def test_a_state_with_values_of_the_wrong_kind_is_named(finished: Run) -> None:
    write_json(finished.state_json("30-train"), {"outcome": "lost", "attempt": "two", "hosts": 5})

    summary = collect(finished)

    assert any(warning.startswith("state/30-train.json: ") for warning in summary.warnings)


def test_a_torn_last_line_is_a_writer_at_work(finished: Run) -> None:
    with finished.metrics_jsonl("train").open("a") as file:
        file.write('{"attempt": 2, "st')

    summary = collect(finished)

    assert summary.warnings == ()
    assert summary.training is not None
    assert summary.training.last_step == 600


def test_more_torn_lines_than_killed_attempts_are_counted_aloud(finished: Run) -> None:
    lines = finished.metrics_jsonl("train").read_text().splitlines()
    for i in (10, 11, 12):
        lines[i] = lines[i][:20]
    write_text(finished.metrics_jsonl("train"), "\n".join(lines) + "\n")

    assert collect(finished).warnings == (
        f"metrics/train.jsonl: 3 of {len(lines)} lines cannot be read and are left out",
    )


@pytest.mark.parametrize("line", ["[]", "3", '{"step": "two", "loss": 1}', '{"loss": 1, "attempt": null}', "null"])
def test_a_line_that_is_not_a_step_is_left_out(finished: Run, line: str) -> None:
    path = finished.metrics_jsonl("train")
    write_text(path, line + "\n" + path.read_text())

    summary = collect(finished)

    assert summary.training is not None
    assert len(summary.training.train_loss) == 600


def test_a_loss_that_is_not_a_number_does_not_reach_the_curve(finished: Run) -> None:
    for loss in (float("nan"), float("inf"), None, "low"):
        append_jsonl(finished.metrics_jsonl("train"), {"attempt": 3, "step": 600, "loss": loss})

        training = collect(finished).training

        assert training is not None
        assert [step for step, _ in training.train_loss][-1] == 599


def test_the_compressed_model_stands_beside_the_trained_one(finished: Run) -> None:
    rows = collect(finished).compression

    assert [row.figure for row in rows] == ["size", "perplexity", "bits-per-byte", "decoding-speed"]
    assert _row(rows, "size").ratio == pytest.approx(4_510_000 / 17_120_000)


def test_samples_carry_their_references_where_there_are_any(translated: Run) -> None:
    summary = collect(translated)

    assert summary.language == "zh-CN"
    assert summary.samples[1].reference == "找不到要打开的路径。"


def test_stages_say_when_they_ran_and_what_became_of_them(unstarted: Run) -> None:
    write_states(unstarted, shipped_job("demo.yaml"), upto="shard", last_outcome="failed", message="disk full")

    stages = {stage.name: stage for stage in collect(unstarted).stages}

    assert (stages["tokenizer"].start, stages["tokenizer"].duration_s) == (START, pytest.approx(6.2))
    assert (stages["shard"].outcome, stages["shard"].message) == ("failed", "disk full")
    assert stages["train"].outcome == "waiting"


def test_the_stage_that_writes_the_report_says_nothing_of_itself(unstarted: Run) -> None:
    write_states(unstarted, shipped_job("demo.yaml"), upto="gather", last_outcome="running")

    assert [stage.name for stage in collect(unstarted).stages][-1] == "evaluate-compressed"


def test_the_versions_that_change_results_are_told(finished: Run) -> None:
    environment = collect(finished).environment

    assert environment["commit"] == "0a1b2c3 and uncommitted changes"
    assert environment["packages"] == "numpy==2.4.0, torch==2.13.0"
    assert environment["precision"] == "bf16 (measured)"


def test_a_run_of_anybodys_command_has_its_command_and_its_stage(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", CommandJob(name="mine", command=("python", "train.py", "--lr", "1e-3")))

    summary = collect(run)

    assert summary.command == ("python", "train.py", "--lr", "1e-3")
    assert [stage.name for stage in summary.stages] == ["command"]
    assert summary.warnings == ()


def test_a_result_of_another_kind_is_carried_along(finished: Run) -> None:
    write_result(finished, "distilled", "toxicity", 0.01, "")

    assert collect(finished).value("distilled", "toxicity") == 0.01


def test_reading_needs_no_torch_mpi4py_or_h5py() -> None:
    code = "import sys, json, hpcllm.report.html, hpcllm.report.terminal; print(json.dumps(list(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert {"torch", "mpi4py", "h5py", "numpy"}.isdisjoint(json.loads(printed))
