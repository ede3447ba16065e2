"""A run in plain words: quantities as people write them, and the verdict that a report opens with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Literal

from hpcllm.report.summary import Comparison, Evaluation, RunSummary, Series, StageTime
from hpcllm.units import format_bytes, format_bytes_per_s, format_count, format_seconds

NOT_YET = "–"

SILENT_AFTER_S = 60.0  # a stage that lives touches its record every 10 s


@dataclass(frozen=True)
class Task:
    """How to speak of one kind of result."""

    title: str
    better: Literal["lower", "higher"]
    digits: int | None = None
    """Behind the point, where the field has a custom."""


TASKS: Mapping[str, Task] = {
    "bits-per-byte": Task("bits per byte", "lower", digits=3),
    "bleu": Task("BLEU", "higher", digits=1),
    "perplexity": Task("perplexity", "lower"),
    "size": Task("size", "lower"),
    "decoding-speed": Task("decoding speed", "higher"),
}

MODELS: Mapping[str, str] = {
    "trained": "trained model",
    "compressed": "compressed model",
    "untrained": "untrained model",
    "copied": "source copied",
    "xz": "xz -9",
}
"""In the order in which they are shown."""

YARDSTICKS = ("xz", "copied", "untrained")

_THE = {"xz": "xz -9", "copied": "the source copied", "untrained": "the untrained model"}

_PICTURES = {**{code: 0x2400 + code for code in range(32) if code not in (9, 10)}, 0x7F: 0x2421}

_FORMATS = {"s": format_seconds, "bytes": format_bytes, "B": format_bytes, "bytes/s": format_bytes_per_s}


def quantity(value: float | None, unit: str) -> str:
    """`quantity(5210, "tokens/s")` -> `5,210 tokens/s`; None is a dash."""
    if value is None:
        return NOT_YET
    if value == 0 and unit == "s":
        return "0 s"
    if unit in _FORMATS:
        return _FORMATS[unit](value)
    if unit.startswith("tokens"):
        return f"{tokens(value)} {unit}"
    return f"{score(value)} {unit}".rstrip()


def tokens(count: float) -> str:
    """5210.4 -> `5,210`, 1234567 -> `1.23 M`."""
    return f"{count:,.0f}" if 100 <= count < 1e5 else format_count(count)


def score(value: float | None, task: str = "") -> str:
    """A result without its unit, to as many digits as mean something: 2.1234 -> `2.123`, BLEU 14.32 -> `14.3`."""
    if value is None:
        return NOT_YET
    digits = TASKS[task].digits if task in TASKS else None
    if digits is None:
        digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def result(value: float | None, task: str, unit: str) -> str:
    """A result as its task is customarily written: a score says its unit by its name, a size or a speed does not."""
    is_score = task in TASKS and task not in ("size", "decoding-speed")
    return score(value, task) if is_score else quantity(value, unit)


def ratio(value: float | None) -> str:
    """`× 0.27`; a dash when there is none."""
    return NOT_YET if value is None else f"×\u00a0{value:.2f}" if value < 99.5 else f"×\u00a0{value:.0f}"


def moment(time: float | None) -> str:
    """Seconds since 1970 as `2026-01-31 14:05:09 UTC`."""
    return NOT_YET if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def visible(text: str) -> str:
    """Text with its control characters as pictures (␛), so that none acts on a page or a terminal."""
    return text.translate(_PICTURES)


def model_name(model: str) -> str:
    """`xz` -> `xz -9`, `step-400` -> `checkpoint of step 400`; a model that we do not know by its own name."""
    return MODELS.get(model) or (f"checkpoint of {model.replace('-', ' ')}" if is_checkpoint(model) else model)


def is_checkpoint(model: str) -> bool:
    """Whether a model is a checkpoint on the way to the trained one: `step-400`."""
    return model.startswith("step-")


def task_title(task: str) -> str:
    """`bits-per-byte` -> `bits per byte`."""
    return TASKS[task].title if task in TASKS else task


def main_task(summary: RunSummary) -> str | None:
    """The result that says most of the run: BLEU for translation, bits per byte for text."""
    return next((t for t in ("bleu", "bits-per-byte", "perplexity") if summary.value("trained", t) is not None), None)


def scores(summary: RunSummary, task: str) -> list[Evaluation]:
    """All models' results of one task, in the order of `MODELS`; those of checkpoints on the way are a curve."""
    order = list(MODELS)
    found = [e for e in summary.evaluations if e.task == task and e.value is not None and not is_checkpoint(e.model)]
    return sorted(found, key=lambda e: (order.index(e.model) if e.model in order else len(order), e.model))


def over_checkpoints(summary: RunSummary, task: str) -> Series:
    """One result over the steps of the checkpoints that have it; empty where that is one."""
    found = [e for e in summary.evaluations if e.task == task and (e.model == "trained" or is_checkpoint(e.model))]
    steps = [(e.details.get("step"), e.value) for e in found]
    points = sorted((float(step), value) for step, value in steps if isinstance(step, int) and value is not None)
    return tuple(points) if len(points) > 1 else ()


def standing(summary: RunSummary) -> str:
    """How far the run came, in a word or two: `done`, `failed in train`, `train is running`, `not started`."""
    for outcome, words in (
        ("failed", "failed in {}"),
        ("interrupted", "interrupted in {}"),
        ("running", "{} is running"),
    ):
        found = _first(summary.stages, outcome)
        if found:
            silent = " but is silent" if (found.silent_s or 0) > SILENT_AFTER_S else ""
            return words.format(found.name) + silent
    waiting = _first(summary.stages, "waiting")
    if waiting is None:
        return "done" if summary.stages else "unknown"
    started = any(stage.outcome == "done" for stage in summary.stages)
    return f"{waiting.name} is next" if started else "not started"


def verdict(summary: RunSummary) -> list[str]:
    """What a reader should know first, in whole sentences."""
    sentences = (_progress(summary), _quality(summary), _speed(summary), _compression(summary))
    return [sentence for sentence in sentences if sentence]


def labels(summaries: Sequence[RunSummary]) -> list[str]:
    """What to call each run: its job's name, and its directory where two jobs have the same."""
    names = [summary.name for summary in summaries]
    places = [PurePath(summary.path).name for summary in summaries]
    return [name if names.count(name) == 1 else f"{name} in {place}" for name, place in zip(names, places, strict=True)]


def headlines(summaries: Sequence[RunSummary]) -> list[list[tuple[str, str]]]:
    """The table over runs: for each run the same (name, figure) pairs, without figures that none of them has."""
    runs = [_headline(summary) for summary in summaries]
    kept = [i for i, column in enumerate(zip(*runs, strict=True)) if any(text != NOT_YET for _, text in column)]
    return [[figures[i] for i in kept] for figures in runs]


def elapsed_s(stages: Sequence[StageTime]) -> float | None:
    """From the first start to the last end."""
    starts = [stage.start for stage in stages if stage.start is not None]
    ends = [stage.end for stage in stages if stage.end is not None]
    return max(ends) - min(starts) if starts and ends else None


def _headline(summary: RunSummary) -> list[tuple[str, str]]:
    training, plan = summary.training, summary.plan
    size, used = find(summary.compression, "size"), summary.accounted.total
    return [
        ("state", standing(summary)),
        ("cluster", summary.cluster or NOT_YET),
        ("ranks", str(plan.world_size) if plan else NOT_YET),
        ("steps", f"{training.last_step}/{training.planned_steps}" if training else NOT_YET),
        ("training time", quantity(training.total_s if training else None, "s")),
        ("tokens/s", tokens(training.tokens_per_s) if training and training.tokens_per_s else NOT_YET),
        ("validation loss", score(_last(training.validation_loss) if training else None)),
        *[(task_title(t), score(summary.value("trained", t), t)) for t in ("perplexity", "bits-per-byte", "bleu")],
        ("compressed size", ratio(size.ratio if size else None)),
        ("CPU-hours", NOT_YET if used is None else f"{used.cpu_hours:.2f}"),
        ("GPU-hours", f"{used.gpu_hours:.2f}" if used and used.gpu_hours else NOT_YET),
    ]


def _progress(summary: RunSummary) -> str:
    state, training = standing(summary), summary.training
    if state == "done":
        took = elapsed_s(summary.stages)
        return "Done" + (f": all stages took {quantity(took, 's')}." if took is not None else ".")
    at = (
        f" at step {training.last_step} of {training.planned_steps}"
        if training and training.planned_steps and state.endswith(("train", "train is running"))
        else ""
    )
    stopped = _first(summary.stages, "failed") or _first(summary.stages, "interrupted")
    why = f": {stopped.message.rstrip('.')}" if stopped and stopped.message else ""
    return f"{state[0].upper()}{state[1:]}{at}{why}."


def _quality(summary: RunSummary) -> str:
    task = main_task(summary)
    found = {e.model: e for e in scores(summary, task)} if task else {}
    if task is None or (own := found["trained"]).value is None:
        return ""
    beaten: list[str] = []
    unbeaten: list[str] = []
    for yardstick in (found[name] for name in YARDSTICKS if name in found):
        said = f"{_THE[yardstick.model]} ({score(yardstick.value, task)})"
        (beaten if _is_better(task, own, yardstick) else unbeaten).append(said)
    parts = [f"better than {' and '.join(beaten)}"] if beaten else []
    parts += [f"not better than {' and '.join(unbeaten)}"] if unbeaten else []
    where = f" ({own.computed_on})" if own.computed_on else ""
    return f"It reaches {_scored(task, own.value)}{where}" + "".join(f", {part}" for part in parts) + "."


def _is_better(task: str, own: Evaluation, other: Evaluation) -> bool:
    assert own.value is not None
    assert other.value is not None
    return own.value > other.value if TASKS[task].better == "higher" else own.value < other.value


def _scored(task: str, value: float | None) -> str:
    said, title = score(value, task), task_title(task)
    return f"{said} {title}" if task == "bits-per-byte" else f"{title} {said}"


def _speed(summary: RunSummary) -> str:
    training, predicted = summary.training, find(summary.predictions, "speed")
    if training is None or training.tokens_per_s is None:
        return ""
    beside = f", {predicted.ratio:.2f} times what was predicted" if predicted and predicted.ratio else ""
    return f"Training went at {quantity(training.tokens_per_s, 'tokens/s')}{beside}."


def _compression(summary: RunSummary) -> str:
    size, speed = find(summary.compression, "size"), find(summary.compression, "decoding-speed")
    if size is None or not size.ratio:
        return ""
    task = main_task(summary)
    quality = find(summary.compression, task) if task else None
    cost = (
        f" ({task_title(task)} {score(quality.before, task)} → {score(quality.after, task)})"
        if task and quality
        else ""
    )
    pace = f" and decodes at {speed.ratio:.2f} times the speed" if speed and speed.ratio else ""
    return f"The compressed model is {1 / size.ratio:.1f} times smaller{cost}{pace}."


def _first(stages: Iterable[StageTime], outcome: str) -> StageTime | None:
    return next((stage for stage in stages if stage.outcome == outcome), None)


def find(rows: Iterable[Comparison], figure: str | None) -> Comparison | None:
    """The row of that figure, if there is one."""
    return next((row for row in rows if row.figure == figure), None)


def _last(series: Sequence[tuple[float, float]]) -> float | None:
    return series[-1][1] if series else None
