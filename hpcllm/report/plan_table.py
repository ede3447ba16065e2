"""The verdict of a plan for a terminal: on one screen, or with every figure's formula, inputs and source."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import Job
from hpcllm.plan.limits import missing
from hpcllm.plan.plan import Figure, Plan
from hpcllm.units import counted, format_bytes, format_bytes_per_s, format_count, format_flops_per_s, format_seconds

Row = tuple[str, Text]

BAR_WIDTH = 66
TRUST = {
    "documented": "from the site's pages; no job of ours ran there",
    "emulated": "its rules ran on a lab, not on the site",
    "on-site": "jobs ran there",
    "example": "it stands for many systems, and is none",
    "detected": "read from this machine just now",
}
# Parts of a bar: field, what a reader calls it, how it is drawn, with colour and without.
MEMORY_PARTS = (
    ("parameters", "weights", "█", "blue"),
    ("gradients", "gradients", "▓", "cyan"),
    ("optimizer", "optimizer", "▒", "magenta"),
    ("activations", "activations", "░", "yellow"),
    ("logits", "logits", "▚", "green"),
    ("framework", "framework", "▞", "white"),
)
STEP_PARTS = (
    ("compute_s", "computing", "█", "green"),
    ("exposed_communication_s", "waiting", "▓", "red"),
    ("data_s", "reading", "▒", "yellow"),
)
# How a value is written: by its unit, and for an input of a formula by the ending of its name, the first that matches.
UNIT_FORMATS = {"bytes": format_bytes, "s": format_seconds, "FLOP/s": format_flops_per_s}
INPUT_FORMATS: tuple[tuple[tuple[str, ...], Callable[[float], str]], ...] = (
    ((".rate", ".read", ".write", ".link", ".memory_rate"), format_bytes_per_s),
    (("bytes", ".memory"), format_bytes),
    (("flops_per_s", ".flops", ".model"), format_flops_per_s),
    (("tokens_per_s",), format_count),
    (("_s", ".time", ".max_time", "mtbf", ".latency"), format_seconds),
)


def plan_text(plan: Plan, profile: Profile, job: Job, explain: bool) -> RenderableType:
    """The verdict, for a rich console; `explain` adds each figure with its formula, inputs and source."""
    heading = [_verdict(plan, profile, job), _trust(profile), Text()]
    explained = [Text(), *_explained(plan)] if explain else []
    return Group(*heading, _grid(_rows(plan)), *explained)


def _verdict(plan: Plan, profile: Profile, job: Job) -> Text:
    word = (" fits ", "bold green") if plan.fits else (" does not fit ", "bold red")
    where = f"{profile.name}, partition {plan.partition}" if plan.partition else profile.name
    size = f": {counted(plan.nodes, 'node')}, {counted(plan.world_size, 'rank')}"
    return Text.assemble((job.name, "bold"), word, where, size)


def _trust(profile: Profile) -> Text:
    verified = profile.verified
    return Text(f"verified: {verified.how}, {verified.date} ({TRUST[verified.how]})", style="dim")


def _grid(rows: Iterator[Row]) -> Table:
    """Labels beside values; a long value goes on under itself."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for label, value in rows:
        grid.add_row(label, value)
    return grid


# ---- rows ------------------------------------------------------------------------------------------------------------


def _rows(plan: Plan) -> Iterator[Row]:
    limits = Text("\n".join(plan.limits))
    if not plan.fits:
        yield "in the way", limits
        yield "", Text()
    yield "strategy", Text(f"{plan.strategy}: {plan.strategy_reason}")
    yield "memory", _memory(plan)
    yield "", Text()
    yield "step", _step(plan)
    yield "", Text()
    yield "speed", Text(_speed(plan))
    yield "checkpoint", Text(_checkpoint(plan))
    yield "time", Text(_time(plan))
    if cost := _cost(plan):
        yield "cost", Text(cost)
    if plan.fits:
        yield "", Text()
        yield "limits", limits


def _memory(plan: Plan) -> Text:
    memory = plan.memory_per_gpu_bytes
    share = f"{memory.total / memory.capacity:.0%} of {format_bytes(memory.capacity)} a {_whose(plan)}"
    parts = [(name, float(getattr(memory, field)), shade, colour) for field, name, shade, colour in MEMORY_PARTS]
    bar = _bar(parts, max(memory.capacity, memory.total), format_bytes)
    return Text(f"{format_bytes(memory.total)}, {share}\n").append(bar)


def _step(plan: Plan) -> Text:
    batch = f"micro-batch {plan.micro_batch} × {plan.gradient_accumulation} × {counted(plan.world_size, 'rank')}"
    if plan.step.total_s is None:
        return Text(f"{_unknown(plan, 'step.total_s')}\n{batch}")
    parts = [(name, getattr(plan.step, field), shade, colour) for field, name, shade, colour in STEP_PARTS]
    parts = [part for part in parts if part[1] is not None]
    bar = _bar(parts, plan.step.total_s, format_seconds)
    return Text(f"{format_seconds(plan.step.total_s)}, {batch}\n").append(bar)


def _speed(plan: Plan) -> str:
    if plan.tokens_per_s is None or plan.tokens_per_s_per_gpu is None:
        return _unknown(plan, "tokens_per_s")
    mfu = "" if plan.mfu is None else f", {plan.mfu:.0%} MFU"
    each = f"{format_count(plan.tokens_per_s_per_gpu)} a {_whose(plan)}"
    return f"{format_count(plan.tokens_per_s)} tokens/s, {each}{mfu}"


def _checkpoint(plan: Plan) -> str:
    size, write_s = format_bytes(plan.checkpoint.bytes), plan.checkpoint.write_s
    written = "write time unknown" if write_s is None else f"written in {format_seconds(write_s)}"
    step_s, steps = plan.step.total_s, plan.checkpoint_every_steps
    interval = "" if step_s is None else f" ({format_seconds(steps * step_s)})"
    return f"{size}, {written}, every {steps} steps{interval}"


def _time(plan: Plan) -> str:
    if plan.total_s is None:
        return _unknown(plan, "total_s")
    jobs = "" if plan.chained_jobs is None or not plan.partition else f" in {counted(plan.chained_jobs, 'job')}"
    goodput = "" if plan.goodput is None else f", {plan.goodput:.1%} of it spent on steps"
    return f"{format_seconds(plan.total_s)} of training{jobs}{goodput}{_left_out(plan)}"


def _left_out(plan: Plan) -> str:
    """What the time does not count, since nobody knows it."""
    known = {figure.name: figure.value for figure in plan.figures}
    names = {"step.data_s": "reading", "saving_s": "checkpoints"}
    unknown = [what for name, what in names.items() if known[name] is None]
    return f", without {' and '.join(unknown)}" if unknown else ""


def _cost(plan: Plan) -> str:
    hours = "" if plan.gpu_hours is None else f"{_plain(plan.gpu_hours)} GPU hours"
    prices = {figure.name: _value(figure) for figure in plan.figures if figure.value is not None}
    job = prices.get("cost_of_a_job")
    most = job and f"at most {job} for one job"
    return ", ".join(part for part in (hours, prices.get("cost"), most) if part)


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _bar(parts: list[tuple[str, float, str, str]], whole: float, shown: Callable[[float], str]) -> Text:
    """A bar of its parts, and under it what each is, three to a line."""
    bar, total, filled = Text(), 0.0, 0
    for _, value, shade, colour in parts:
        total += value
        cells = round(BAR_WIDTH * total / whole) - filled
        filled += cells
        bar.append(shade * cells, style=colour)
    bar.append("·" * (BAR_WIDTH - filled), style="dim")
    for i, (name, value, shade, colour) in enumerate(parts):
        bar.append("\n" if i % 3 == 0 else " ").append(shade, style=colour).append(f" {name:<11} {shown(value):<8}")
    return bar


def _whose(plan: Plan) -> str:
    capacity = next(figure for figure in plan.figures if figure.name == "memory_per_gpu_bytes.capacity")
    return "GPU" if "GPU" in capacity.formula else "rank"


def _unknown(plan: Plan, name: str) -> str:
    figures = {figure.name: figure for figure in plan.figures}
    needs = missing(figures[name], figures)
    return f"unknown: needs {', '.join(needs)}" if needs else f"unknown: {figures[name].source}"


# ---- explained -------------------------------------------------------------------------------------------------------


def _explained(plan: Plan) -> Iterator[RenderableType]:
    """Each figure: its value, then formula, inputs and source."""
    for figure in plan.figures:
        value = (_value(figure), "red" if figure.value is None else "green")
        yield Text.assemble((figure.name, "bold"), " = ", value)
        yield Padding(Text("\n").join(_origin(figure)), (0, 0, 0, 4))


def _origin(figure: Figure) -> Iterator[Text]:
    yield Text(figure.formula)
    inputs = [f"{name} = {_input(name, value)}" for name, value in figure.inputs.items()]
    if inputs and [figure.formula] != list(figure.inputs):
        yield Text(", ".join(inputs), style="dim")
    if figure.source:
        yield Text(f"source: {figure.source}", style="dim")


def _value(figure: Figure) -> str:
    if figure.value is None:
        return "unknown"
    if figure.unit in UNIT_FORMATS:
        return UNIT_FORMATS[figure.unit](figure.value)
    return f"{_plain(figure.value)} {figure.unit}".rstrip()


def _input(name: str, value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "unknown"
    return next((shown for endings, shown in INPUT_FORMATS if name.endswith(endings)), _plain)(value)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"
