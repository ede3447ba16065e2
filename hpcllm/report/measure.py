"""From the lines of metrics/ to figures, and the plan's prediction beside each. Pure functions of what was read."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from hpcllm.plan.plan import Figure, Plan
from hpcllm.report.summary import Comparison, Evaluation, Series, Training

WARMUP_STEPS = 5  # of each attempt: caches fill, memory is mapped, kernels are chosen

Line = Mapping[str, Any]


def training(
    train: Sequence[Line], validation: Sequence[Line], events: Sequence[Line], planned_steps: int
) -> Training | None:
    """The figures of a training from its three metrics files; None when it has not made a step."""
    kept = latest_attempt(train)
    if not kept:
        return None
    steady = _without_warmup(kept)
    checkpoints = [line for line in events if line.get("event") == "checkpoint"]
    firsts = _first_steps(train)
    return Training(
        last_step=int(kept[-1]["step"]),
        planned_steps=planned_steps,
        attempts=len({line.get("attempt") for line in [*train, *events]} - {None}) or 1,
        tokens=int(sum(_numbers(kept, "targets"))),
        step_s=_median(steady, "step_s"),
        compute_s=_median(steady, "compute_s"),
        communication_s=_median(steady, "communication_s"),
        data_s=_median(steady, "data_s"),
        tokens_per_s=_median(steady, "tokens_per_s"),
        memory_peak_bytes=_whole(max(_numbers(events, "memory_peak_bytes"), default=None)),
        checkpoint_bytes=_whole(_median(checkpoints, "bytes")),
        checkpoint_write_s=_median(checkpoints, "write_s"),
        total_s=_total_s([*train, *validation, *events]),
        train_loss=_series(kept, "loss"),
        validation_loss=_series(latest_attempt(validation), "loss"),
        speed=_series(kept, "tokens_per_s"),
        resumed_at=tuple(firsts[attempt] for attempt in sorted(firsts)[1:]),
    )


def latest_attempt(lines: Iterable[Line]) -> list[Line]:
    """One line a step, the latest attempt's, by step. Steps that a resumed attempt overtook do not count twice."""
    latest: dict[int, Line] = {}
    for line in lines:
        step = line.get("step")
        if isinstance(step, int) and line.get("attempt", 1) >= latest.get(step, line).get("attempt", 1):
            latest[step] = line
    return [latest[step] for step in sorted(latest)]


def predictions(plan: Plan | None, training: Training | None) -> tuple[Comparison, ...]:
    """Every figure that the plan predicts and the run measures. Either side may be unknown, and says why."""
    rows = (
        ("step time", "s", "step.total_s", "step_s"),
        ("compute in a step", "s", "step.compute_s", "compute_s"),
        ("communication in a step", "s", "step.exposed_communication_s", "communication_s"),
        ("reading data in a step", "s", "step.data_s", "data_s"),
        ("speed", "tokens/s", "tokens_per_s", "tokens_per_s"),
        ("memory of a rank", "bytes", "memory_per_gpu_bytes.total", "memory_peak_bytes"),
        ("size of a checkpoint", "bytes", "checkpoint.bytes", "checkpoint_bytes"),
        ("writing a checkpoint", "s", "checkpoint.write_s", "checkpoint_write_s"),
        ("whole training", "s", "total_s", "total_s" if _is_complete(training) else ""),
    )
    compared = [
        Comparison(figure, unit, _dotted(plan, planned), getattr(training, measured, None), _missing(plan, planned))
        for figure, unit, planned, measured in rows
    ]
    kept = [row for row in compared if plan is not None or row.after is not None]
    return tuple(_without_padding(row, plan, training) if row.figure == "speed" else row for row in kept)


def compression(evaluations: Iterable[Evaluation]) -> tuple[Comparison, ...]:
    """The trained model beside the compressed one, for every task that both have."""
    values = {(e.model, e.task): e for e in evaluations if e.value is not None}
    tasks = ("size", "perplexity", "bits-per-byte", "bleu", "decoding-speed")
    return tuple(
        Comparison(task, compressed.unit, trained.value, compressed.value)
        for task in tasks
        if (trained := values.get(("trained", task))) and (compressed := values.get(("compressed", task)))
    )


def number(value: Any) -> float | None:
    """A finite number, or None for anything else that a file may hold."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _is_complete(training: Training | None) -> bool:
    return training is not None and training.last_step >= training.planned_steps


def _first_steps(lines: Iterable[Line]) -> dict[int, int]:
    """The first step of every attempt."""
    firsts: dict[int, int] = {}
    for line in lines:
        firsts.setdefault(int(line.get("attempt", 1)), int(line["step"]))
    return firsts


def _without_warmup(kept: Sequence[Line]) -> list[Line]:
    attempts: dict[Any, list[Line]] = defaultdict(list)
    for line in kept:
        attempts[line.get("attempt")].append(line)
    return [line for lines in attempts.values() for line in lines[min(WARMUP_STEPS, len(lines) // 2) :]]


def _total_s(lines: Iterable[Line]) -> float | None:
    """From the first line of each attempt to its last, summed."""
    times: dict[Any, list[float]] = defaultdict(list)
    for line in lines:
        if (time := number(line.get("time"))) is not None:
            times[line.get("attempt")].append(time)
    return sum(max(attempt) - min(attempt) for attempt in times.values()) or None


def _series(lines: Iterable[Line], key: str) -> Series:
    values = ((float(line["step"]), number(line.get(key))) for line in lines)
    return tuple((step, value) for step, value in values if value is not None)


def _numbers(lines: Iterable[Line], key: str) -> list[float]:
    return [value for line in lines if (value := number(line.get(key))) is not None]


def _median(lines: Iterable[Line], key: str) -> float | None:
    values = _numbers(lines, key)
    return median(values) if values else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _dotted(plan: Plan | None, path: str) -> float | None:
    found: Any = plan
    for name in path.split("."):
        found = getattr(found, name, None)
    return number(found)


def _without_padding(row: Comparison, plan: Plan | None, training: Training | None) -> Comparison:
    """The predicted speed in tokens that are learned from, as it is measured: the plan counts padded sequences."""
    padded = next((f.value for f in plan.figures if f.name == "tokens_per_step"), None) if plan else None
    if row.before is None or training is None or not padded:
        return row
    share = training.tokens / len(training.train_loss) / padded if training.train_loss else 1.0
    if share > 0.995:
        return row
    return replace(row, before=row.before * share, note=f"without padding, which is {1 - share:.0%} of a step's tokens")


def _missing(plan: Plan | None, path: str) -> str:
    """`needs nodes.local.flops`: the inputs that nobody gave, for a figure that has no value for want of them."""
    if plan is None or _dotted(plan, path) is not None:
        return ""
    names = dict.fromkeys(_unknown_inputs({figure.name: figure for figure in plan.figures}, path))
    return f"needs {', '.join(names)}" if names else ""


def _unknown_inputs(figures: Mapping[str, Figure], name: str) -> Iterator[str]:
    """The names of the unknown inputs of a figure, followed through the figures that it is made of."""
    if name not in figures:
        yield name
    elif figures[name].value is None:
        for inner in (key for key, value in figures[name].inputs.items() if value is None):
            yield from _unknown_inputs(figures, inner)
