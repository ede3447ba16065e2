"""What a training says of itself: a line a step in metrics/train.jsonl, one in the log now and then, and events.

Figures are of rank 0 where ranks may differ (times), and of the whole world where they cannot (loss, targets).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

from hpcllm.parallel.world import World
from hpcllm.progress import ProgressLines
from hpcllm.run_directory import Run, append_jsonl

Timing = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class StepFigures:
    """One optimizer step. Its seconds are data + compute + communication; saving and validating come between steps."""

    loss: float
    """Mean over the targets of the global batch, label smoothing included."""
    targets: int
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    step_s: float
    data_s: float
    """Waiting for batches."""
    communication_s: float
    """Exposed: from the last gradient to the end of its all-reduce, and of the reduction of the loss."""
    checkpoint_s: float
    """Spent on a checkpoint between the step before and this one."""


class Metrics:
    """Writes for rank 0; on other ranks (`quiet`) it does nothing."""

    def __init__(self, run: Run, attempt: int, num_steps: int, log_every_steps: int, quiet: bool) -> None:
        self._run, self._attempt, self._quiet = run, attempt, quiet
        self._log_every_steps = log_every_steps
        self._num_steps = num_steps
        self._progress = ProgressLines("train", num_steps, quiet)

    def event(self, event: str, **facts: Any) -> None:
        """Something that happened, with its facts."""
        self._append("events", event=event, **facts)

    def step(self, step: int, figures: StepFigures) -> None:
        """One optimizer step is done."""
        compute_s = figures.step_s - figures.data_s - figures.communication_s
        tokens_per_s = figures.targets / figures.step_s
        self._append("train", step=step, **asdict(figures), compute_s=compute_s, tokens_per_s=tokens_per_s)
        if step % self._log_every_steps == 0 or step == self._num_steps:
            text = f"loss {figures.loss:.3f}  lr {figures.learning_rate:.1e}  {tokens_per_s:.0f} tokens/s"
            self._progress(step, text)

    def validation(self, step: int, loss: float) -> None:
        """The loss on the validation part after this step."""
        self.say(f"train: step {step}: validation loss {loss:.3f}")
        self._append("validation", step=step, loss=loss)

    def say(self, text: str) -> None:
        """One line of the log."""
        if not self._quiet:
            print(text, flush=True)

    def _append(self, file: str, **record: Any) -> None:
        if not self._quiet:
            line = {"attempt": self._attempt, **record, "time": time.time()}
            append_jsonl(self._run.metrics_jsonl(file), line)


class StepClock:
    """Where the seconds of a step go.

    Exposed communication begins when the last gradient of the backward pass is ready: what follows, until the averages
    are there, is waiting for other ranks alone. On a GPU that moment is the host's, which runs ahead of the device, and
    the figure is a lower bound. FSDP's collectives are waited for one by one on CPUs, and each is timed; on a GPU they
    are not seen.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._communicates = world.size > 1
        self._last_gradient_s: float | None = None
        self.restart()
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self._note_gradient)  # type: ignore[no-untyped-call]
        for module in model.modules():
            if isinstance(module, FSDPModule) and parameter.device.type == "cpu":
                self._time_collectives(module)

    def _time_collectives(self, module: FSDPModule) -> None:
        """Gather, reduce-scatter, and HSDP's all-reduce, of which torch tells only when it is done."""
        gather: Any = _Timed(DefaultAllGather(), self.communication)
        reduce_scatter: Any = _Timed(DefaultReduceScatter(), self.communication)

        def note_all_reduced(_gradients: torch.Tensor) -> None:
            self.communication_s += time.perf_counter() - reduce_scatter.end_s

        module.set_custom_all_gather(gather)
        module.set_custom_reduce_scatter(reduce_scatter)
        module.set_all_reduce_hook(note_all_reduced)

    def restart(self) -> None:
        """A step begins."""
        self._start_s = time.perf_counter()
        self.data_s = self.communication_s = 0.0

    @contextmanager
    def data(self) -> Iterator[None]:
        """In this block the step waits for its batches."""
        start_s = time.perf_counter()
        yield
        self.data_s += time.perf_counter() - start_s

    @contextmanager
    def communication(self) -> Iterator[None]:
        """In this block the step waits for other ranks."""
        start_s = time.perf_counter()
        yield
        self.communication_s += (time.perf_counter() - start_s) * self._communicates

    def gradients_averaged(self) -> None:
        """The backward pass is over. FSDP's gradients pass no hook of ours."""
        if self._last_gradient_s is not None:
            self.communication_s += (time.perf_counter() - self._last_gradient_s) * self._communicates

    @property
    def step_s(self) -> float:
        """Since the step began."""
        return time.perf_counter() - self._start_s

    def _note_gradient(self, _parameter: torch.Tensor) -> None:
        self._last_gradient_s = time.perf_counter()


class _Timed:
    """A collective of FSDP whose time is taken: it can be called and allocates its buffers, as torch asks of one."""

    def __init__(self, collective: DefaultAllGather | DefaultReduceScatter, timing: Timing) -> None:
        self._collective, self._timing = collective, timing
        self.end_s = 0.0
        self.allocate = collective.allocate

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._timing():
            work = self._collective(*args, **kwargs)
        self.end_s = time.perf_counter()
        return work


def memory_peak_bytes() -> int:
    """The most memory that this process (on a GPU: its tensors there) has held."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
