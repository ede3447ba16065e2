"""The plan: what is predicted of a job on a cluster, every figure with its formula and its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from hpcllm.errors import HpcllmError
from hpcllm.run_directory import Run, read_json

Inputs = Mapping[str, float | str | None]

# What older plans do not say, as it was then: plain DDP with its own buckets.
_BEFORE: Mapping[str, Any] = {"strategy_reason": "", "whole_gradients": True, "bucket_bytes": 25 * 2**20}


@dataclass(frozen=True)
class Figure:
    """One predicted number and where it comes from."""

    name: str
    """Its place in plan.json: `memory_per_gpu_bytes.activations`."""
    value: float | None
    """None: unknown, because an input is."""
    unit: str
    formula: str
    inputs: Inputs
    """By name: another figure's, or the key of the profile or the job that it stands under."""
    source: str = ""
    """Paper and section, and where the formula is known to deviate."""

    @classmethod
    def of(
        cls, name: str, unit: str, formula: str, inputs: Inputs, value: Callable[..., float], source: str = ""
    ) -> Figure:
        """`value` of the inputs, in their order; unknown when one of them is."""
        unknown = any(given is None for given in inputs.values())
        return cls(name, None if unknown else value(*inputs.values()), unit, formula, dict(inputs), source)

    def renamed(self, keys: Mapping[str, str]) -> Figure:
        """The figure with some of its inputs under other keys: those of the measurements that were preferred."""
        return replace(self, inputs={keys.get(name, name): value for name, value in self.inputs.items()})


@dataclass(frozen=True)
class Spread:
    """How the model is spread over the ranks, and a step over micro-batches."""

    strategy: str
    """ddp, zero1, hsdp or fsdp."""
    micro_batch: int
    whole_gradients: bool = True
    """Whether micro-batches add up whole gradients, reduced with the last (False: sharded ones, reduced with each)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU (or of one rank's share of a CPU node)."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    framework: int
    total: int
    capacity: int


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step; None where an input is unknown."""

    compute_s: float | None
    exposed_communication_s: float | None
    data_s: float | None
    total_s: float | None


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint."""

    bytes: int
    write_s: float | None
    stall_s: float | None
    interval_s: float | None


@dataclass(frozen=True)
class Plan:
    """The verdict (contract: the keys of plan.json)."""

    fits: bool
    world_size: int
    nodes: int
    strategy: str
    strategy_reason: str
    micro_batch: int
    gradient_accumulation: int
    whole_gradients: bool
    """Whether FSDP adds up whole gradients over micro-batches: one reduction a step, where memory allows it."""
    bucket_bytes: int
    """Of gradients that DDP sends at a time."""
    activation_checkpointing: bool
    memory_per_gpu_bytes: Memory
    step: Step
    tokens_per_s: float | None
    tokens_per_s_per_gpu: float | None
    mfu: float | None
    checkpoint: Checkpoint
    goodput: float | None
    chained_jobs: int | None
    gpu_hours: float | None
    limits: tuple[str, ...]
    """What bounds the job, the tightest first, each by how much."""
    partition: str | None
    checkpoint_every_steps: int
    total_s: float | None
    """Of the whole training, without waiting in the queue."""
    figures: tuple[Figure, ...]
    """Every number above with its formula and inputs, for --explain."""

    def to_json(self) -> dict[str, Any]:
        """As in plan.json."""
        return asdict(self)


def read_plan(run: Run) -> Plan:
    """The plan of a run directory. Raises HpcllmError for one that this version cannot read."""
    data = read_json(run.plan_json)
    try:
        nested = {
            "memory_per_gpu_bytes": Memory(**data["memory_per_gpu_bytes"]),
            "step": Step(**data["step"]),
            "checkpoint": Checkpoint(**data["checkpoint"]),
            "limits": tuple(data["limits"]),
            "figures": tuple(Figure(**figure) for figure in data["figures"]),
        }
        return Plan(**{**_BEFORE, **data, **nested})
    except (KeyError, TypeError) as error:
        raise HpcllmError(
            f"{run.plan_json}: damaged, or of another version of hpcllm ({error}); render the job into a new directory"
        ) from None
