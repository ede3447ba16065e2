"""One self-contained page over one run or many: no network, no script, every text of the run escaped.

The page reads top down as a person asks: is it done and is it good (the verdict), how it learned, how fast and whether
that was foreseen, what its scores are worth, what it writes, what it became when compressed, and where the time went.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hpcllm import __version__
from hpcllm.plan.plan import Plan
from hpcllm.report import charts, words
from hpcllm.report.charts import Bar, Dot, Line
from hpcllm.report.status_table import used_rows
from hpcllm.report.summary import RunSummary, Series, StageTime, Training
from hpcllm.report.sweep_grid import Grid
from hpcllm.run_directory import write_text
from hpcllm.units import format_count, format_seconds

SCORED = ("bits-per-byte", "bleu", "perplexity")  # the results that have a chart, in this order

MOST_CURVES = 6  # in one chart that can still be read

WIDE, NARROW = 860, 356  # CSS pixels; the style shows one of the two

FILTERS: dict[str, Callable[..., str]] = {
    "quantity": words.quantity,
    "ratio": words.ratio,
    "result": words.result,
    "moment": words.moment,
    "model": words.model_name,
    "task": words.task_title,
    "visible": words.visible,
}

Chart = Callable[[int], Markup]


def write(summaries: Sequence[RunSummary], path: Path, grid: Grid | None = None) -> None:
    """Write the report over these runs to `path`, complete or not at all. `grid`: that of the sweep that they are."""
    write_text(path, page(summaries, grid))


def page(summaries: Sequence[RunSummary], grid: Grid | None = None) -> str:
    """The report as HTML text."""
    template = _environment().get_template("report.html.jinja")
    return template.render(
        summaries=summaries,
        grid=grid,
        labels=words.labels(summaries),
        rows=words.headlines(summaries),
        side_by_side=_side_by_side(summaries),
        version=__version__,
        now=time.time(),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals |= {
        "verdict": words.verdict,
        "scores": words.scores,
        "charts": run_charts,
        "limits": _limits,
        "shares": _shares,
        "facts": _facts,
        "used_rows": used_rows,
    }
    return environment


def run_charts(summary: RunSummary) -> Mapping[str, Any]:
    """The charts of one run by name, each for a wide and a narrow screen; None where there are no numbers yet."""
    training, shares = summary.training, _shares(summary)
    timed = [_bar(stage) for stage in summary.stages if stage.start is not None]
    scored = [task for task in SCORED if len(words.scores(summary, task)) > 1]
    return {
        "loss": _twice(partial(_loss_chart, training)) if training and training.train_loss else None,
        "speed": _twice(partial(_speed_chart, summary, training)) if training and training.speed else None,
        "shares": _twice(partial(charts.share_bar, "where the time of a step goes", shares)) if shares else None,
        "scores": [(task, _twice(partial(_score_chart, summary, task))) for task in scored],
        "checkpoints": [
            (task, _twice(partial(_checkpoints_chart, task, points)))
            for task in SCORED
            if (points := words.over_checkpoints(summary, task))
        ],
        "gantt": _twice(partial(charts.gantt, "the stages over time", timed)) if timed else None,
    }


def _side_by_side(summaries: Sequence[RunSummary]) -> list[Markup]:
    """Validation losses in one chart for each group of runs that learned from the same data."""
    groups: dict[str, list[Line]] = {}
    for summary, label in zip(summaries, words.labels(summaries), strict=True):
        if summary.data and summary.training and summary.training.validation_loss:
            lines = groups.setdefault(summary.data, [])
            lines.append(Line(label, summary.training.validation_loss, f"curve-{len(lines)}", dots=True))
    title, unit = "validation loss of each run", "validation loss, nats per token"
    return [
        _twice(partial(charts.line_chart, title, lines, unit, value_format="{:.3f}".format))
        for lines in groups.values()
        if 1 < len(lines) <= MOST_CURVES
    ]


def _twice(chart: Chart) -> Markup:
    wide, narrow = chart(WIDE), chart(NARROW)
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)


def _loss_chart(training: Training, width: int) -> Markup:
    lines = [
        Line("train", training.train_loss, "train"),
        Line("validation", training.validation_loss, "validation", dots=len(training.validation_loss) < 40),
    ]
    marks = [(float(step), "resumed") for step in training.resumed_at]
    return charts.line_chart("loss over steps", lines, "loss, nats per token", width, "{:.3f}".format, marks=marks)


def _speed_chart(summary: RunSummary, training: Training, width: int) -> Markup:
    lines = [Line("measured", training.speed, "train")]
    predicted = words.find(summary.predictions, "speed")
    if predicted and predicted.before:
        ends = (training.speed[0][0], training.speed[-1][0])
        lines.append(Line("predicted", [(step, predicted.before) for step in ends], "predicted"))
    return charts.line_chart("speed over steps", lines, "tokens/s", width, words.tokens, from_zero=True, height=190)


def _score_chart(summary: RunSummary, task: str, width: int) -> Markup:
    dots = [
        Dot(
            words.model_name(e.model),
            e.value,
            words.score(e.value, task),
            "yardstick" if e.model in words.YARDSTICKS else e.model,
        )
        for e in words.scores(summary, task)
        if e.value is not None
    ]
    return charts.dot_chart(f"{words.task_title(task)} of each model", dots, width, log=task == "perplexity")


def _checkpoints_chart(task: str, points: Series, width: int) -> Markup:
    title, line = f"{words.task_title(task)} of the checkpoints", Line("test part", points, "validation", dots=True)
    return charts.line_chart(title, [line], words.task_title(task), width, partial(_score, task), height=190)


def _score(task: str, value: float) -> str:
    return words.score(value, task)


def _bar(stage: StageTime) -> Bar:
    assert stage.start is not None
    end = stage.end if stage.end is not None else max(stage.start, time.time() - (stage.silent_s or 0))
    label = format_seconds(max(end - stage.start, 0)) + ("" if stage.outcome == "done" else f", {stage.outcome}")
    return Bar(stage.name, stage.start, end, label, stage.outcome)


def _shares(summary: RunSummary) -> list[tuple[str, float]]:
    """Where the time of a median step goes: (name, seconds), when the run measured it."""
    training = summary.training
    if training is None or not training.step_s or training.compute_s is None:
        return []
    known = [
        ("compute", training.compute_s),
        ("communication", training.communication_s or 0.0),
        ("reading data", training.data_s or 0.0),
    ]
    rest = training.step_s - sum(value for _, value in known)
    return [*known, ("everything else", rest)] if rest > 0.005 * training.step_s else known


def _facts(summary: RunSummary) -> list[tuple[str, str]]:
    """What was run, and where, for the lines under a run's name."""
    plan, training = summary.plan, summary.training
    rows = [
        ("cluster", f"{summary.cluster} (profile {summary.verified})" if summary.cluster else ""),
        ("model", summary.architecture),
        ("command", " ".join(summary.command)),
        (
            "layout",
            f"{plan.world_size} ranks on {plan.nodes} node{'s' * (plan.nodes != 1)}, {plan.strategy}, "
            f"micro-batch {plan.micro_batch}" + _accumulated(plan.gradient_accumulation)
            if plan and not summary.command
            else "",
        ),
        ("pairs" if summary.language else "documents", summary.texts),
        ("trained on", f"{format_count(training.tokens)} tokens in {training.last_step:,} steps" if training else ""),
    ]
    return [(name, text) for name, text in rows if text]


def _limits(plan: Plan) -> list[str]:
    """What bounds the job. What the plan could not say stands beside its figure already."""
    return [limit for limit in plan.limits if not limit.startswith("unknown: ")]


def _accumulated(times: int) -> str:
    return f", gradients of {times} accumulated" if times > 1 else ""
