"""The verdict of a plan for a terminal: on one screen, or with every figure's formula, inputs and source."""

from __future__ import annotations

from rich.text import Text

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import Job
from hpcllm.plan.limits import missing
from hpcllm.plan.plan import Figure, Plan
from hpcllm.units import format_bytes, format_bytes_per_s, format_count, format_flops_per_s, format_seconds

BAR_WIDTH = 48
LABEL_WIDTH = 12
# Parts of a bar: field, what a reader calls it, colour.
MEMORY_PARTS = (
    ("parameters", "weights", "blue"),
    ("gradients", "gradients", "cyan"),
    ("optimizer", "optimizer", "magenta"),
    ("activations", "activations", "yellow"),
    ("logits", "logits", "green"),
    ("framework", "framework", "white"),
)
STEP_PARTS = (
    ("compute_s", "computing", "green"),
    ("exposed_communication_s", "communicating", "red"),
    ("data_s", "reading data", "yellow"),
)
SHADES = "█▓▒░▚▞"  # told apart without colour too


def plan_text(plan: Plan, profile: Profile, job: Job, explain: bool) -> Text:
    """The verdict, as rich Text (`.plain` is the text itself); `explain` adds each figure with its origin."""
    blocks = [_verdict(plan, profile, job), _trust(profile), Text(), *_body(plan)]
    if explain:
        blocks += [Text(), *_explained(plan)]
    text = Text("\n").join(blocks)
    text.no_wrap, text.overflow = True, "ignore"
    return text


# ---- the screen ------------------------------------------------------------------------------------------------------


def _verdict(plan: Plan, profile: Profile, job: Job) -> Text:
    where = f"{profile.name}, partition {plan.partition}" if plan.partition else profile.name
    word = Text.assemble(
        (job.name, "bold"), (" fits " if plan.fits else " does not fit ", "bold green" if plan.fits else "bold red")
    )
    return word.append(f"{where}: {_count(plan.nodes, 'node')}, {_count(plan.world_size, 'rank')}")


def _trust(profile: Profile) -> Text:
    meaning = {
        "documented": "from the site's pages; no job of ours ran there",
        "emulated": "its rules ran on a lab, not on the site",
        "on-site": "jobs ran there",
        "example": "stands for many systems, and is none",
        "detected": "read from this machine just now",
    }
    how = profile.verified.how
    return Text(f"verified: {how}, {profile.verified.date} ({meaning.get(how, how)})", style="dim")


def _body(plan: Plan) -> list[Text]:
    lines = [] if plan.fits else [*_limits(plan), Text()]
    lines += [*_memory(plan), Text(), *_step(plan), Text(), *_rows(plan)]
    return [*lines, Text(), *_limits(plan)] if plan.fits else lines


def _memory(plan: Plan) -> list[Text]:
    memory = plan.memory_per_gpu_bytes
    parts = [(name, float(getattr(memory, field)), colour) for field, name, colour in MEMORY_PARTS]
    whose = "a GPU" if plan.gpu_hours is not None or _on_gpus(plan) else "a rank"
    share = (
        f"{format_bytes(memory.total)} of {format_bytes(memory.capacity)} {whose}, {memory.total / memory.capacity:.0%}"
    )
    return [_row("memory", share), *_bar(parts, max(memory.capacity, memory.total), format_bytes)]


def _on_gpus(plan: Plan) -> bool:
    return any(
        figure.name == "memory_per_gpu_bytes.framework" and "CUDA context" in figure.inputs for figure in plan.figures
    )


def _step(plan: Plan) -> list[Text]:
    batch = f"micro-batch {plan.micro_batch} × {plan.gradient_accumulation} × {_count(plan.world_size, 'rank')}"
    if plan.step.total_s is None:
        return [_row("step", f"unknown: {_needs(plan, 'step.total_s')}"), _row("", batch)]
    parts = [(name, getattr(plan.step, field), colour) for field, name, colour in STEP_PARTS]
    return [
        _row("step", f"{format_seconds(plan.step.total_s)}, {batch}"),
        *_bar(parts, plan.step.total_s, format_seconds),
    ]


def _rows(plan: Plan) -> list[Text]:
    checkpoint = plan.checkpoint
    written = "write time unknown" if checkpoint.write_s is None else f"written in {format_seconds(checkpoint.write_s)}"
    every = f"every {plan.checkpoint_every_steps} steps"
    if plan.step.total_s is not None:
        every += f" ({format_seconds(plan.checkpoint_every_steps * plan.step.total_s)})"
    rows = [
        _row("speed", _speed(plan)),
        _row("checkpoint", f"{format_bytes(checkpoint.bytes)}, {written}, {every}"),
        _row("time", _time(plan)),
    ]
    cost = next((figure for figure in plan.figures if figure.name == "cost"), None)
    if plan.gpu_hours is not None or (cost and cost.value is not None):
        hours = [] if plan.gpu_hours is None else [f"{_plain(plan.gpu_hours)} GPU hours"]
        rows.append(_row("cost", ", ".join(hours + ([_value(cost)] if cost and cost.value is not None else []))))
    return rows


def _speed(plan: Plan) -> str:
    if plan.tokens_per_s is None or plan.tokens_per_s_per_gpu is None:
        return f"unknown: {_needs(plan, 'tokens_per_s')}"
    mfu = "" if plan.mfu is None else f", {plan.mfu:.0%} MFU"
    whose = "GPU" if _on_gpus(plan) else "rank"
    return f"{format_count(plan.tokens_per_s)} tokens/s, {format_count(plan.tokens_per_s_per_gpu)} a {whose}{mfu}"


def _time(plan: Plan) -> str:
    if plan.total_s is None:
        return f"unknown: {_needs(plan, 'total_s')}"
    jobs = "" if plan.chained_jobs is None or not plan.partition else f" in {_count(plan.chained_jobs, 'job')}"
    goodput = "" if plan.goodput is None else f", {plan.goodput:.1%} of it training"
    return f"{format_seconds(plan.total_s)} of training{jobs}{goodput}"


def _limits(plan: Plan) -> list[Text]:
    heading = "limits" if plan.fits else "in the way"
    return [_row(heading if i == 0 else "", limit) for i, limit in enumerate(plan.limits)]


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _row(label: str, value: str) -> Text:
    return Text.assemble((f"{label:<{LABEL_WIDTH}}", "bold"), value)


def _bar(parts: list[tuple[str, float, str]], whole: float, shown: object) -> list[Text]:
    """A bar of its parts, and under it the parts by name, only those that can be seen or said."""
    bar, legend, filled = Text(" " * LABEL_WIDTH), Text(" " * LABEL_WIDTH), 0
    total = 0.0
    for shade, (name, value, colour) in zip(SHADES, parts, strict=False):
        total += value
        cells = round(BAR_WIDTH * total / whole) - filled
        filled += cells
        bar.append(shade * cells, style=colour)
        if value / whole >= 0.005:
            legend.append(shade, style=colour).append(f" {name} {shown(value)}  ")  # type: ignore[operator]
    return [bar.append("·" * (BAR_WIDTH - filled), style="dim"), legend]


def _needs(plan: Plan, name: str) -> str:
    figures = {figure.name: figure for figure in plan.figures}
    return "needs " + ", ".join(missing(figures[name], figures)) if name in figures else "not computed"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# ---- explained -------------------------------------------------------------------------------------------------------


def _explained(plan: Plan) -> list[Text]:
    """Each figure: its value, then formula, inputs and source."""
    return [line for figure in plan.figures for line in _figure(figure)]


def _figure(figure: Figure) -> list[Text]:
    inputs = ", ".join(f"{name} = {_input(name, value)}" for name, value in figure.inputs.items())
    lines = [
        Text.assemble((figure.name, "bold"), " = ", (_value(figure), "green" if figure.value is not None else "red"))
    ]
    lines.append(Text(f"    {figure.formula}"))
    lines += [Text(f"    {inputs}", style="dim")] if inputs else []
    lines += [Text(f"    source: {figure.source}", style="dim")] if figure.source else []
    return lines


def _value(figure: Figure) -> str:
    if figure.value is None:
        return "unknown"
    by_unit = {"bytes": format_bytes, "s": format_seconds, "FLOP/s": format_flops_per_s}
    shown = by_unit[figure.unit](figure.value) if figure.unit in by_unit else _plain(figure.value)
    return shown if figure.unit in by_unit else f"{shown} {figure.unit}".rstrip()


def _input(name: str, value: float | str | None) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, str):
        return value
    if name.endswith((".rate", ".read", ".write", ".link", "memory_rate")):
        return format_bytes_per_s(value)
    if name.endswith(("bytes", ".memory")) or name.split(".")[0] in ("checkpoint.bytes",):
        return format_bytes(value)
    if name.endswith(("flops", "flops_per_s", "gpus.model")):
        return format_flops_per_s(value)
    return format_seconds(value) if name.endswith(("_s", ".time", ".max_time", "mtbf")) else _plain(value)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"
