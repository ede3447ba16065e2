"""A sweep in place of a run: what the commands do with a job file that has one, and with its folder."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from hpcllm.cli.words import RUNS, out_of, print_json, print_rich, profile_of
from hpcllm.errors import DoesNotFit, UserError

if TYPE_CHECKING:
    from hpcllm.cluster.profile import Profile
    from hpcllm.job.sweep import Point
    from hpcllm.launch.submission.choose import Queue
    from hpcllm.launch.submission.sweep_batches import Batch
    from hpcllm.launch.sweep import Sweep
    from hpcllm.report.summary import RunSummary
    from hpcllm.report.sweep_grid import Grid
    from hpcllm.run_directory import Run


def is_sweep(arguments: argparse.Namespace) -> bool:
    """Whether the job that is named is a sweep: a file with the key, or a sweep's folder."""
    if arguments.job is None or arguments.command:
        return False
    return holds_one(arguments.job) or (arguments.job.is_file() and bool(_grid(arguments.job)))


def holds_one(folder: Path) -> bool:
    """Whether it is a sweep's folder."""
    from hpcllm.launch import sweep

    return sweep.is_sweep(folder)


def rendered_sweep(
    arguments: argparse.Namespace, cluster: tuple[Profile, Path | None] | None = None, choosing: bool = False
) -> Sweep:
    """The sweep of the job file, rendered; or the one whose folder is given. Raises what rendering a run raises.

    `cluster` is a profile and its file, where it is not what --cluster means; `choosing` the queues by Slurm.
    """
    from hpcllm.cli.launching import check_nothing_beside
    from hpcllm.job.sweep import points
    from hpcllm.launch.sweep import Sweep, share

    if arguments.job.is_dir():
        check_nothing_beside(arguments)
        return Sweep.open(arguments.job)
    cluster = cluster or profile_of(arguments)
    found = points(arguments.job)
    name = arguments.job.stem
    sweep = Sweep(out_of(arguments, name).absolute(), name, tuple(point.values for point in found))
    sweep.write()
    runs = sweep.runs
    chosen: dict[str, tuple[Queue, ...]] | None = {} if choosing else None
    for i, point in enumerate(found):
        _render(arguments, point, cluster, runs[i], runs[0] if i else None, chosen)
    share(runs)
    return sweep


def submit(arguments: argparse.Namespace) -> None:
    """Submit what is missing of a sweep, and say the ids; or what would be submitted."""
    from hpcllm.cli.submitting import removed_afterwards, say_queues, say_restarts, say_warning
    from hpcllm.launch.submission.sweep_submit import submit_sweep
    from hpcllm.run_directory import Run

    new_parent, kept = not RUNS.exists(), arguments.job.is_dir() or arguments.out
    sweep = rendered_sweep(arguments, choosing=True)
    say_queues(sweep.runs[0])
    say_restarts(sweep.runs[0])
    if arguments.dry_run:
        with nullcontext() if kept else removed_afterwards(Run(sweep.root), new_parent):
            _say_dry(sweep)
        return
    made, waiting = submit_sweep(sweep, say_warning)
    for batch, job_id in made:
        print(f"{batch.stage.name:24} {job_id:12} {_runs_of(sweep, batch)}")
    at = shlex.quote(str(sweep.root))
    if waiting:
        print(f"{waiting} runs are more than may be in the queue; when some are done: hpcllm submit {at}")
    print(f"follow  hpcllm watch {at}")


def _say_dry(sweep: Sweep) -> None:
    """Checks, commands, and the scripts that these name. Raises UserError with everything that stands in the way."""
    from hpcllm.cli.submitting import say_checks
    from hpcllm.launch.submission.finding import raise_refusals
    from hpcllm.launch.submission.sweep_submit import check_sweep, sweep_commands

    told = sweep_commands(sweep)
    found = say_checks(lambda: check_sweep(sweep))
    for batch, tokens in told.commands:
        print(f"{batch.stage.name:24} {_runs_of(sweep, batch):10} {shlex.join(tokens)}")
    for path, text in told.scripts.items():
        print(f"\n==> {path}\n{text}", end="")
    raise_refusals(found)


def _runs_of(sweep: Sweep, batch: Batch) -> str:
    return f"{len(batch.numbers)} runs" if batch.is_array else f"run {batch.numbers[0]:0{sweep.width}}"


def run_here(arguments: argparse.Namespace) -> None:
    """Every run of a sweep in the foreground, one after the other."""
    from hpcllm.cli.launching import for_here
    from hpcllm.launch.local import run_local

    sweep = rendered_sweep(arguments) if arguments.job.is_dir() else rendered_sweep(*for_here(arguments))
    for run in sweep.runs:
        run_local(run)


def status(arguments: argparse.Namespace) -> None:
    """A line a run."""
    from dataclasses import asdict

    from hpcllm.launch.sweep import Sweep
    from hpcllm.launch.tracking.sweep_status import look_at
    from hpcllm.report.sweep_table import sweep_text

    sweep = Sweep.open(arguments.run)
    if arguments.efficiency:
        _efficiency(sweep, arguments.json)
        return
    now = look_at(sweep)
    if arguments.json:
        print_json({"points": [dict(point) for point in sweep.points], **asdict(now)})
    else:
        print_rich(sweep_text(sweep, now), soft_wrap=True)


def _efficiency(sweep: Sweep, as_json: bool) -> None:
    from dataclasses import asdict

    from hpcllm.launch.tracking.efficiency import efficiency_of_runs
    from hpcllm.report.status_table import efficiency_table

    used = efficiency_of_runs(sweep.root, sweep.runs)
    if as_json:
        print_json([asdict(use) for use in used])
    else:
        print_rich(efficiency_table(used, "run"))


def watch(arguments: argparse.Namespace) -> None:
    """The lines of status until nothing goes on."""
    from hpcllm.launch.sweep import Sweep
    from hpcllm.report.sweep_table import watch_sweep

    watch_sweep(Sweep.open(arguments.run))


def logs(arguments: argparse.Namespace) -> None:
    """Of one run, by its number, or of the one that failed first."""
    from hpcllm.cli.looking import follow
    from hpcllm.launch.sweep import Sweep
    from hpcllm.launch.tracking.sweep_logs import logs_of, run_numbered

    sweep, word = Sweep.open(arguments.run), arguments.stage
    if not arguments.follow:
        print(logs_of(sweep, word, arguments.errors), end="")
    elif word:
        follow(run_numbered(sweep, word), None)
    else:
        raise UserError(
            f"--follow: of which run? such as: hpcllm logs -f {shlex.quote(str(sweep.root))} 0; "
            "hpcllm watch follows all of them"
        )


def cancel(arguments: argparse.Namespace) -> None:
    """All of it, or one stage of all runs."""
    from hpcllm.launch.sweep import Sweep
    from hpcllm.launch.tracking.sweep_status import cancel_all

    print(cancel_all(Sweep.open(arguments.run), arguments.stage))


def runs_in(path: Path) -> list[Path]:
    """The run directories that a path stands for."""
    from hpcllm.launch.sweep import Sweep

    return [run.root for run in Sweep.open(path).runs] if holds_one(path) else [path]


def grid_of(path: Path, summaries: Sequence[RunSummary]) -> Grid | None:
    """The results of a sweep over its grid; None of a run."""
    from hpcllm.launch.sweep import Sweep
    from hpcllm.report.sweep_grid import grid

    return grid(Sweep.open(path), summaries) if holds_one(path) else None


def _grid(path: Path) -> object:
    """What stands under `sweep`, as far as the file can be read."""
    from hpcllm import source, yaml_text
    from hpcllm.errors import SourceError

    try:
        data = yaml_text.read(source.read_text(path), str(path)).data
    except SourceError:
        return None
    return data.get("sweep") if isinstance(data, dict) else None


def _render(
    arguments: argparse.Namespace,
    point: Point,
    found: tuple[Profile, Path | None],
    run: Run,
    beside: Run | None,
    chosen: dict[str, tuple[Queue, ...]] | None,
) -> None:
    """One of its runs. `chosen`: the queues so far, where one is to be chosen."""
    from hpcllm.cli.launching import with_resources
    from hpcllm.cli.submitting import say_programs, with_queue
    from hpcllm.cluster.user import load_user
    from hpcllm.job.spec import Job, absolute
    from hpcllm.launch.render import render
    from hpcllm.launch.submission.choose import keep
    from hpcllm.plan.search import search

    profile, profile_path = found
    cwd, user = arguments.job.absolute().parent, load_user()
    job, plan = absolute(with_resources(point.job, arguments), cwd), None
    if beside is None:
        say_programs(profile, job, cwd)
    job, queues = (job, ()) if chosen is None else with_queue(profile, job, user, run.root, chosen)
    if isinstance(job, Job):
        plan = search(profile, job, user=user)
        if not plan.fits:
            limits = "; ".join(plan.limits)
            raise DoesNotFit(f"{arguments.job}: {point.label} does not fit {profile.name}: {limits}")
    print(f"{run.root.name} {point.label}", file=sys.stderr)
    render(profile, profile_path, job, None, plan, run.root, cwd=cwd, beside=beside)
    if queues:
        keep(run, queues)
