"""The verdict against hand-computed cases: GPT-2 124M on 4 nodes with 4 A100 each.

pytest tests/plan
"""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from described import JOBS, cluster, gpt2, translation

from hpcllm.errors import HpcllmError, UserError
from hpcllm.job.spec import load_job
from hpcllm.plan.plan import Figure, Plan, read_plan
from hpcllm.plan.search import search
from hpcllm.run_directory import Run, write_json

N = 124_439_808
GIB = 2**30


def figure(plan: Plan, name: str) -> Figure:
    return next(figure for figure in plan.figures if figure.name == name)


# ---- a case by hand --------------------------------------------------------------------------------------------------


def test_gpt2_on_16_a100_fits_with_the_whole_batch_in_one_go():
    plan = search(cluster(), gpt2())

    assert plan.fits
    assert (plan.world_size, plan.nodes, plan.strategy, plan.partition) == (16, 4, "ddp", "gpu")
    assert plan.micro_batch * plan.gradient_accumulation * plan.world_size == 512
    assert plan.micro_batch == 32


def test_weights_gradients_and_adam_take_18_bytes_a_parameter():
    memory = search(cluster(), gpt2()).memory_per_gpu_bytes

    assert (memory.parameters, memory.gradients, memory.optimizer) == (6 * N, 4 * N, 8 * N)
    assert memory.capacity == 80 * GIB


def test_activations_and_logits_are_those_of_the_hand_count():
    memory = search(cluster(), gpt2({"model.dropout": 0.1, "train.micro_batch": 8})).memory_per_gpu_bytes

    tokens = 8 * 1024
    assert memory.activations == 12 * tokens * 40 * 768  # 34 h of the paper, 4 h for fp32 norms, 2 h for a second cast
    assert memory.logits == 4 * tokens * 50257 + 8 * 2**24


def test_memory_is_the_visible_sum_of_its_parts():
    memory = dataclasses.asdict(search(cluster(), gpt2()).memory_per_gpu_bytes)
    total, _ = memory.pop("total"), memory.pop("capacity")

    assert total == sum(memory.values())


def test_a_step_takes_its_operations_over_half_of_the_matmul_speed():
    plan = search(cluster(), gpt2())

    operations = 512 * 1024 * (6 * (12 * 12 * 768**2 + 50257 * 768) + 12 * 12 * 768 * 1024)
    assert plan.step.compute_s == pytest.approx(operations / (16 * 0.5 * 271e12))
    assert plan.tokens_per_s == pytest.approx(512 * 1024 / plan.step.total_s)
    assert plan.tokens_per_s_per_gpu == pytest.approx(plan.tokens_per_s / 16)


def test_mfu_is_palms():
    plan = search(cluster(), gpt2())

    per_token = 6 * N + 12 * 12 * 12 * 64 * 1024  # 6N + 12LHQT; N here with what multiplies nothing, 0.7 % more
    assert plan.mfu == pytest.approx(plan.tokens_per_s * per_token / (16 * 312e12), rel=0.01)


def test_the_ring_goes_inside_the_nodes_and_then_across_them():
    plan = search(cluster(), gpt2())

    size = 4 * N
    assert figure(plan, "communication.inside_node_s").value == pytest.approx(2 * 3 / 4 * size / (0.8 * 300e9))
    across = 2 * 3 * 2e-6 + 2 * 3 / 4 * size / (0.8 * 4 * 25e9)
    assert figure(plan, "communication.across_nodes_s").value == pytest.approx(across)
    assert plan.step.exposed_communication_s == 0


def test_only_the_last_micro_batch_hides_communication():
    slow = cluster({"fabric.rate": "10Gb/s", "fabric.rails": 1})
    once, often = search(slow, gpt2()), search(slow, gpt2({"train.micro_batch": 1}))

    communication = figure(once, "communication_s").value
    assert once.step.exposed_communication_s == pytest.approx(communication - 2 / 3 * once.step.compute_s)
    assert often.step.exposed_communication_s == pytest.approx(communication - 2 / 3 * often.step.compute_s / 32)


def test_checkpoints_come_at_youngs_interval():
    plan = search(cluster(), gpt2())

    assert plan.checkpoint.bytes == 12 * N
    assert plan.checkpoint.write_s == pytest.approx(12 * N / 10e9)
    young = math.sqrt(2 * 365 * 86400 / 4 * 12 * N / 10e9)
    assert plan.checkpoint.interval_s == pytest.approx(young)
    assert plan.checkpoint_every_steps == round(young / plan.step.total_s)
    assert f"{young:.0f}"[:3] in figure(plan, "checkpoint.interval_s").source  # Daly's is near it


def test_the_jobs_own_interval_wins():
    assert search(cluster(), gpt2({"train.checkpoint.every_steps": 7})).checkpoint_every_steps == 7


def test_without_a_failure_rate_a_checkpoint_comes_every_tenth_or_half_hour():
    plan = search(cluster({"reliability": None}), gpt2())

    assert plan.checkpoint.interval_s is None
    assert plan.goodput is None
    assert plan.checkpoint_every_steps == 1908  # a tenth of 19,073 steps, which comes before half an hour
    assert "unknown: goodput: needs reliability.node_mtbf" in plan.limits


def test_time_and_cost_of_the_whole_training():
    plan = search(cluster(), gpt2())

    assert plan.total_s == pytest.approx(19073 * plan.step.total_s, rel=0.01)
    assert plan.total_s > 19073 * plan.step.total_s
    assert plan.goodput == pytest.approx(19073 * plan.step.total_s / plan.total_s)
    assert plan.gpu_hours == pytest.approx(16 * plan.total_s / 3600)
    assert figure(plan, "cost").value == pytest.approx(1.5 * plan.gpu_hours)
    assert figure(plan, "cost").unit == "EUR"


def test_a_training_longer_than_a_job_is_chained():
    plan = search(cluster(), gpt2({"train.steps": 400_000, "resources.time_s": 36000.0}))

    assert plan.chained_jobs == math.ceil(plan.total_s / 36000)
    assert any(limit.startswith("time: ") and f"{plan.chained_jobs} jobs" in limit for limit in plan.limits)


def test_failures_faster_than_progress_never_end_and_are_no_infinity():
    plan = search(cluster({"reliability": {"node_mtbf": "5m"}}), gpt2())

    assert (plan.goodput, plan.total_s, plan.chained_jobs) == (0, None, None)


def test_a_small_model_on_a_gpu_waits_for_kernel_launches():
    plan = search(cluster(), load_job(JOBS / "demo.yaml"))

    assert plan.step.compute_s == figure(plan, "launch_s").value > figure(plan, "multiply_s").value


def test_the_tightest_limit_stands_first():
    computing = search(cluster(), gpt2())
    sending = search(cluster({"fabric.rate": "4Gb/s", "fabric.rails": 1}), gpt2())

    assert computing.limits[0].startswith("compute: 100% of a step")
    assert sending.limits[0].startswith("communication: ")


# ---- translation, CPUs -----------------------------------------------------------------------------------------------


def test_a_token_of_translation_is_a_target_token():
    job = translation({"train.global_batch": 32, "model.context": 128})

    plan = search(cluster(), job)

    assert figure(plan, "tokens_per_step").value == 32 * 128
    assert figure(plan, "step.data_s").inputs["sides"] == 2


def test_ranks_on_cpus_share_their_node():
    plan = search(cluster(), gpt2({"slurm.partition": "cpu", "resources.nodes": 2}))

    assert (plan.world_size, plan.gpu_hours) == (16, None)
    assert plan.memory_per_gpu_bytes.capacity == 256 * GIB // 8
    assert figure(plan, "matmul_flops_per_s").value == 4e12 / 8
    assert plan.memory_per_gpu_bytes.parameters == 4 * N  # fp32, without autocast's copy


def test_a_cpu_node_whose_speed_nobody_measured_has_no_step_time():
    plan = search(cluster({"nodes.cpu.flops": None}), gpt2({"slurm.partition": "cpu"}))

    assert plan.fits
    assert (plan.step.compute_s, plan.step.total_s, plan.tokens_per_s, plan.mfu, plan.total_s) == (None,) * 5
    assert "unknown: computing: needs nodes.cpu.flops" in plan.limits


# ---- what is unknown is said -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["RTX-4090", "A100", "H100", "A100-80GB-custom", ""])
def test_an_accelerator_that_is_not_in_the_table_is_unknown(model: str):
    plan = search(cluster({"nodes.a100.gpus.model": model}), gpt2())

    assert plan.fits  # its memory is in the profile
    assert (plan.step.total_s, plan.mfu) == (None, None)
    assert any("nodes.a100.gpus.model" in limit and "accelerators.py" in limit for limit in plan.limits)


def test_a_v100_has_no_bf16_and_says_so():
    plan = search(cluster({"nodes.a100.gpus.model": "V100-32GB"}), gpt2())

    assert plan.step.compute_s is None
    assert plan.memory_per_gpu_bytes.parameters == 4 * N


@pytest.mark.parametrize(
    ("key", "value_of"),
    [
        ("fabric.rate", lambda plan: plan.step.exposed_communication_s),
        ("filesystems.scratch.read", lambda plan: plan.step.data_s),
        ("filesystems.scratch.write", lambda plan: plan.checkpoint.write_s),
        ("reliability", lambda plan: plan.goodput),
    ],
)
def test_what_nobody_knows_is_none_and_names_its_key(key: str, value_of: Any):
    plan = search(cluster({key: None}), gpt2())

    assert value_of(plan) is None
    assert any(limit.startswith("unknown: ") and f"needs {key}" in limit for limit in plan.limits)


def test_what_is_not_known_of_the_files_is_left_out_of_the_time_and_said():
    plan = search(cluster({"filesystems.scratch.read": None, "filesystems.scratch.write": None}), gpt2())

    assert plan.step.total_s == plan.step.compute_s + plan.step.exposed_communication_s
    assert figure(plan, "step.total_s").source == "without reading, whose rate is not known"
    assert plan.total_s > 19073 * plan.step.total_s
    assert "without checkpoints" in figure(plan, "total_s").source
    assert "unknown: reading: needs filesystems.scratch.read" in plan.limits


def test_an_unknown_partition_is_the_users_mistake():
    with pytest.raises(UserError, match=r"slurm.partition: found 'gpuu'; somewhere has gpu, short, small, cpu"):
        search(cluster(), gpt2({"slurm.partition": "gpuu"}))


# ---- plan.json -------------------------------------------------------------------------------------------------------


def test_a_plan_survives_plan_json(tmp_path: Path):
    plan = search(cluster(), gpt2())
    write_json(Run(tmp_path).plan_json, plan.to_json())

    assert read_plan(Run(tmp_path)) == plan


def test_a_plan_of_before_strategies_were_chosen_is_ddp_and_one_without_its_memory_is_a_clear_error(tmp_path: Path):
    run, plan = Run(tmp_path), search(cluster(), gpt2()).to_json()
    older = {name: plan[name] for name in plan if name not in ("strategy_reason", "whole_gradients", "bucket_bytes")}
    write_json(run.plan_json, older)

    assert (read_plan(run).whole_gradients, read_plan(run).bucket_bytes) == (True, 25 * 2**20)

    del older["memory_per_gpu_bytes"]
    write_json(run.plan_json, older)
    with pytest.raises(HpcllmError, match=r"plan\.json: damaged, or of another version of hpcllm"):
        read_plan(run)


@pytest.mark.parametrize("changes", [{}, {"slurm.partition": "cpu"}, {"train.global_batch": 3}])
def test_every_number_of_plan_json_has_its_figure(changes: dict[str, Any]):
    plan = search(cluster({"fabric.rate": None}), gpt2(changes))
    data = plan.to_json()
    figures = {figure["name"]: figure for figure in data.pop("figures")}

    numbers = dict(leaves(data))
    assert len(numbers) > 20
    for name, value in numbers.items():
        assert figures[name]["value"] == value, name
        assert figures[name]["formula"]


def leaves(data: dict[str, Any], prefix: str = "") -> Any:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, bool | str | tuple) and key != "partition":
            yield prefix + key, value


def test_counts_are_integers_in_plan_json():
    plan = search(cluster(), gpt2())

    counts = (plan.micro_batch, plan.gradient_accumulation, plan.checkpoint_every_steps, plan.chained_jobs)
    assert all(isinstance(count, int) for count in (*counts, plan.checkpoint.bytes, plan.memory_per_gpu_bytes.total))


def test_planning_needs_no_torch():
    script = (
        "import sys, hpcllm.plan.search, hpcllm.report.plan_table; print({'torch', 'mpi4py', 'h5py'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "set()"
