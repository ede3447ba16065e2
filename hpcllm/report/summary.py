"""What a report knows of a run: frozen records, made by `collect`, shown by `html` and `terminal`.

A part that is not there yet is None or empty, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hpcllm.launch.tracking.efficiency import Accounted
from hpcllm.plan.plan import Plan
from hpcllm.report.link_matrix import LinkMatrix

Series = tuple[tuple[float, float], ...]
"""(step, value) pairs, by step."""

Outcome = Literal["unknown", "waiting", "running", "done", "failed", "interrupted"]


@dataclass(frozen=True)
class Training:
    """What metrics/ says, from the latest attempt of every step. Medians leave out the first steps of each attempt."""

    last_step: int
    planned_steps: int
    attempts: int
    tokens: int
    """Target tokens learned from."""
    step_s: float | None
    compute_s: float | None
    communication_s: float | None
    data_s: float | None
    tokens_per_s: float | None
    memory_peak_bytes: int | None
    checkpoint_bytes: int | None
    checkpoint_write_s: float | None
    total_s: float | None
    """Wall-clock of all attempts together, work that was lost included; waiting between them is not."""
    train_loss: Series
    validation_loss: Series
    speed: Series
    """Tokens per second."""
    resumed_at: tuple[int, ...]
    """First step of every attempt but the first."""


@dataclass(frozen=True)
class Comparison:
    """One figure twice: predicted and measured, or of the trained and the compressed model."""

    figure: str
    unit: str
    before: float | None
    after: float | None
    note: str = ""
    """Why a side is unknown, or how the two were made comparable."""

    @property
    def ratio(self) -> float | None:
        """After through before; None where either is unknown."""
        if self.before is None or self.after is None or self.before == 0:
            return None
        ratio = self.after / self.before
        return ratio if math.isfinite(ratio) else None


@dataclass(frozen=True)
class Evaluation:
    """One file of results/."""

    model: str
    task: str
    metric: str
    value: float | None
    unit: str
    computed_on: str
    signature: str
    command: str
    commit: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Sample:
    """Text that a model wrote."""

    model: str
    prompt: str
    text: str
    reference: str | None


@dataclass(frozen=True)
class StageTime:
    """What became of one stage: its latest attempt."""

    id: str
    name: str
    after: tuple[str, ...]
    outcome: Outcome
    """unknown: its record is damaged."""
    attempt: int = 0
    start: float | None = None
    """Seconds since 1970."""
    end: float | None = None
    world_size: int | None = None
    hosts: tuple[str, ...] = ()
    job_id: str | None = None
    message: str = ""
    silent_s: float | None = None
    """Of a running stage: since its last sign of life."""

    @property
    def duration_s(self) -> float | None:
        """From start to end; None until it has ended."""
        return None if self.start is None or self.end is None else self.end - self.start


@dataclass(frozen=True)
class Event:
    """One line of metrics/events.jsonl."""

    time: float | None
    attempt: int | None
    event: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """What the latest preflight found between the nodes."""

    held: str
    """What was found against what was expected, in words."""
    matrix: LinkMatrix
    findings: tuple[str, ...]


@dataclass(frozen=True)
class RunSummary:
    """Everything that a report says of one run."""

    path: str
    name: str
    description: str
    cluster: str
    verified: str
    """How far the profile can be trusted, and since when."""
    command: tuple[str, ...]
    """Of a run of somebody's own program; empty for the pipeline."""
    architecture: str
    """One line: kind, layers, width, parameters. Empty for a command."""
    texts: str
    """One line: documents or pairs, and tokens, to train, to validate and to test."""
    data: str
    """What it learned from, as JSON: losses of runs are comparable where this is the same. Empty for a command."""
    language: str
    """Language tag of what the model writes (zh-CN); empty when the job does not say."""
    label_smoothing: float
    """Share that the training loss spreads over the vocabulary; it lifts that loss above the validation loss."""
    plan: Plan | None
    training: Training | None
    predictions: tuple[Comparison, ...]
    evaluations: tuple[Evaluation, ...]
    compression: tuple[Comparison, ...]
    samples: tuple[Sample, ...]
    stages: tuple[StageTime, ...]
    events: tuple[Event, ...]
    environment: Mapping[str, str]
    warnings: tuple[str, ...]
    """Files that are damaged, by name."""
    network: Network | None = None
    """None where it has one node, or no preflight."""
    accounted: Accounted = field(default_factory=Accounted)
    """What the jobs used."""

    def value(self, model: str, task: str) -> float | None:
        """One result, or None when it is not there (yet)."""
        return next((e.value for e in self.evaluations if (e.model, e.task) == (model, task)), None)
