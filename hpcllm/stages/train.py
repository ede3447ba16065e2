"""Train the model: from where the newest whole checkpoint left it, to the job's last step."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch

from hpcllm.data.loader import evaluation_batches, train_batches
from hpcllm.data.shards import Shards
from hpcllm.data.staging import staged
from hpcllm.errors import Interrupted
from hpcllm.job.spec import Job, frozen_job
from hpcllm.launch.pipeline import Stage
from hpcllm.parallel.compression import compress_gradients
from hpcllm.parallel.strategy import bare, data_parallel, torch_process_group
from hpcllm.parallel.world import World
from hpcllm.plan.plan import Plan, read_plan
from hpcllm.run_directory import Run, read_json
from hpcllm.train import checkpoint
from hpcllm.train.interrupt import StopRequest, stop_requests
from hpcllm.train.loop import train
from hpcllm.train.metrics import Metrics, memory_peak_bytes
from hpcllm.train.objective import likelihood, mean_loss
from hpcllm.train.optimizer import adamw
from hpcllm.train.precision import choose


def main(run: Run, stage: Stage, world: World) -> None:
    """Raises Interrupted when asked to stop, after saving; the next start goes on from there."""
    job, plan = frozen_job(run), read_plan(run)
    attempt = read_json(run.state_json(stage.id))["attempt"] if world.rank == 0 else 0
    metrics = Metrics(run, attempt, job.train.steps, job.train.log_every_steps, quiet=world.rank > 0)
    with stop_requests() as stop, torch_process_group(world), staged(run, world) as (folder, said):
        if said:
            metrics.say(f"train: {said}")
        try:
            _train(run, job, plan, world, metrics, stop, folder)
        except Interrupted as interrupted:
            metrics.event("interrupted", message=str(interrupted))
            raise
        metrics.event("end", memory_peak_bytes=max(world.all_gather(memory_peak_bytes())))


def _train(run: Run, job: Job, plan: Plan, world: World, metrics: Metrics, stop: StopRequest, folder: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shards, held_out = Shards.open(run, "train", folder), Shards.open(run, "validation", folder)
    whole = checkpoint.fresh_model(job, shards.vocabulary_size, plan.activation_checkpointing)

    # Go on from the newest checkpoint that is whole. A damaged one is named, and the one before it taken.
    found, damages = world.broadcast(checkpoint.latest(run) if world.rank == 0 else (None, []))
    for damage in damages:
        metrics.event("damaged", message=damage)
        metrics.say(f"train: {damage}; taking the checkpoint before it" if found else f"train: {damage}; none is whole")
    resumed = None if found is None else checkpoint.load_model(run, job, whole, found)
    if resumed:
        metrics.event("resumed", step=found, world_size_before=resumed.world_size)
        metrics.say(f"train: resumed after step {found}")

    tokens, before = plan.micro_batch * job.model.context, resumed.precision if resumed else None
    chosen = choose(job.train.precision, before, job.model, tokens, world, device)
    threads = torch.get_num_threads()
    batch = {"micro_batch": plan.micro_batch, "gradient_accumulation": plan.gradient_accumulation}
    shape = {"world_size": world.size, "strategy": plan.strategy, **batch}
    metrics.event("start", **asdict(chosen), threads=threads, device=device, **shape)
    metrics.say(f"train: {plan.strategy}, {chosen.precision} ({chosen.reason}); {threads} threads a rank")

    # Spread the model, and only then make the optimizer: it updates what this rank holds.
    model = data_parallel(whole, world, plan.strategy, chosen.precision, plan.bucket_bytes)
    compress_gradients(model, job.train.gradient_compression)
    optimizer = adamw(model, job.train.optimizer, world)
    if found is not None:
        checkpoint.load_optimizer(run, model, optimizer, found, world)

    def save(step: int) -> None:
        start_s = time.perf_counter()
        size_bytes = checkpoint.save(run, job, model, optimizer, step, chosen.precision, world)
        metrics.event("checkpoint", step=step, bytes=size_bytes, write_s=time.perf_counter() - start_s)
        world.barrier()

    def validate(step: int) -> None:
        if held_out.num_documents:
            batches = evaluation_batches(held_out, job, world.rank, world.size, plan.micro_batch)
            metrics.validation(step, mean_loss(bare(model), batches, world, chosen.precision))

    train(
        model,
        optimizer,
        train_batches(shards, job, world.rank, world.size, found or 0, plan.micro_batch),
        likelihood(job.train.label_smoothing),
        job.train,
        world,
        steps_done=found or 0,
        precision=chosen.precision,
        whole_gradients=plan.whole_gradients,
        checkpoint_every_steps=job.train.checkpoint.every_steps or plan.checkpoint_every_steps,
        metrics=metrics,
        save=save,
        validate=validate,
        stop=stop,
    )
