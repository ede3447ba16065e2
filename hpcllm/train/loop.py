"""The training loop: one function, its moments explicit calls.

**What a step is.** Every rank sums the loss of its targets, divides by the targets of the *whole* global batch, and
multiplies by the number of ranks, because data parallelism averages gradients. So the gradient is that of the mean over
the global batch, at any number of ranks and any cut into micro-batches, however uneven the padding is.

**Nothing depends on history.** The order of the data, the learning rate and the dropout masks are functions of seed and
step. Weights and optimizer state at step N are all it takes to go on from there to the bit.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from hpcllm.data.loader import StepBatches
from hpcllm.errors import HpcllmError, Interrupted
from hpcllm.job.spec import Train
from hpcllm.parallel.strategy import no_sync, share_weights, update
from hpcllm.parallel.world import World
from hpcllm.train.interrupt import StopRequest
from hpcllm.train.metrics import Metrics, StepClock, StepFigures
from hpcllm.train.objective import Loss, batch_on
from hpcllm.train.optimizer import clip, learning_rate, set_learning_rate
from hpcllm.train.precision import autocast


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[StepBatches],
    loss: Loss,
    settings: Train,
    world: World,
    *,
    steps_done: int,
    precision: str,
    whole_gradients: bool,
    checkpoint_every_steps: int,
    metrics: Metrics,
    save: Callable[[int], None],
    validate: Callable[[int], None],
    stop: StopRequest,
) -> None:
    """Train from steps_done to settings.steps; `save(step)` at the end, at every interval, and when asked to stop.

    `model` is as `data_parallel` gave it, and `batches` begin behind steps_done.
    Raises Interrupted (saved, exit 75) when any rank was asked to stop, HpcllmError when the loss is no number.
    """
    clock, saving_s = StepClock(model, world), 0.0
    model.train()
    for step in range(steps_done + 1, settings.steps + 1):
        clock.restart()
        rate = learning_rate(step, settings)
        set_learning_rate(optimizer, rate)
        with clock.data():
            step_batches = next(batches)

        nats = accumulate_gradients(model, step_batches, loss, settings.seed, step, world, precision, whole_gradients)
        clock.gradients_averaged()
        gradient_norm = clip(model, settings.optimizer.clip_norm)
        update(model, optimizer)
        with clock.communication():
            share_weights(model)
        model.zero_grad()

        # The only time in a step that the host waits for the device, and the only word between ranks besides gradients.
        mine = np.array([nats.item(), float(bool(stop))])
        with clock.communication():
            all_nats, num_stopping = world.all_reduce_sum(mine)
        figures = StepFigures(
            loss=float(all_nats) / step_batches.global_targets,
            targets=step_batches.global_targets,
            learning_rate=rate,
            gradient_norm=gradient_norm.item(),
            step_s=clock.step_s,
            data_s=clock.data_s,
            communication_s=clock.communication_s,
            checkpoint_s=saving_s,
        )
        # Before anything is saved: gradients that are no numbers have made the weights none.
        for name, value in (("loss", figures.loss), ("norm of the gradients", figures.gradient_norm)):
            if not math.isfinite(value):
                raise HpcllmError(f"step {step}: the {name} is {value}; try a lower train.optimizer.learning_rate")
        metrics.step(step, figures)

        is_end = step == settings.steps
        if is_end or (step % settings.validate_every_steps == 0 and not num_stopping):
            validate(step)
        saving_s = 0.0
        if is_end or num_stopping or step % checkpoint_every_steps == 0:
            start_s = time.perf_counter()
            save(step)
            saving_s = time.perf_counter() - start_s
        if num_stopping and not is_end:
            raise Interrupted(f"asked to stop by {stop.signal_name or 'way of another rank'}; step {step} is saved")


def accumulate_gradients(
    model: nn.Module,
    step_batches: StepBatches,
    loss: Loss,
    seed: int,
    step: int,
    world: World,
    precision: str,
    whole_gradients: bool = True,
) -> Tensor:
    """Forward and backward of this rank's micro-batches; returns the sum of their loss.

    Gradients add up over the micro-batches; ranks send them in the last one's backward pass alone, unless there is no
    room for whole ones (`strategy.no_sync`).
    """
    device = next(model.parameters()).device
    nats = torch.zeros((), device=device)
    for number, batch in enumerate(step_batches.micro_batches, start=1):
        batch = batch_on(batch, device)
        is_last = number == len(step_batches.micro_batches)
        seed_dropout(seed, step, number, world.rank)
        with nullcontext() if is_last else no_sync(model, whole_gradients):
            with autocast(device.type, precision):
                micro_nats = loss(model(*batch.inputs), batch)
            torch.autograd.backward(micro_nats * (world.size / step_batches.global_targets))
        nats += micro_nats.detach()
    return nats


def seed_dropout(seed: int, step: int, micro_batch: int, rank: int) -> None:
    """Set torch's generator to a function of these four, so that a dropout mask depends on no mask before it.

    A resumed run draws the masks of the uninterrupted one, and no generator's state needs to be saved.
    """
    key = hashlib.blake2b(f"{seed} {step} {micro_batch} {rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(key, "big") >> 1)
