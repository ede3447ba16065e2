"""From a job to a run: plan, render, submit, run."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hpcllm.cli.sweeping import is_sweep, rendered_sweep, run_here, submit
from hpcllm.cli.words import (
    RUNS,
    cluster_option,
    command,
    json_option,
    not_negative,
    out_of,
    positive,
    print_json,
    print_rich,
    profile_of,
    time_of,
)
from hpcllm.errors import ExitCode, UserError

if TYPE_CHECKING:
    from hpcllm.cluster.profile import Profile
    from hpcllm.cluster.software import SoftwareEnvironment
    from hpcllm.job.spec import AnyJob, Job
    from hpcllm.launch.allocation import Allocation
    from hpcllm.launch.bad_nodes import BadNode
    from hpcllm.plan.plan import Plan
    from hpcllm.run_directory import Run

COMMAND_LINE = "the command line"
JOB_SUFFIXES = (".yaml", ".yml")

JobT = TypeVar("JobT", bound="AnyJob")


def add(commands: Any) -> None:
    """The commands of this file."""
    plan = command(commands, "plan", _plan, "does a job fit, how fast, what limits it", "plan jobs/demo.yaml --explain")
    plan.add_argument("job", type=Path, metavar="JOB", help="a job file, or a run directory, without its bad nodes")
    cluster_option(plan)
    _resources(plan)
    plan.add_argument("--explain", action="store_true", help="every figure with its formula, inputs and source")
    json_option(plan)

    render = command(
        commands, "render", _render, "write the run directory, submit nothing", "render jobs/demo.yaml --out RUN"
    )
    _job_or_command(render)

    submit = command(commands, "submit", _submit, "render and submit to Slurm", "submit --nodes 4 -- python train.py")
    _job_or_command(submit)
    submit.add_argument("--dry-run", action="store_true", help="print what would be submitted")

    run = command(commands, "run", _run, "run here, in the foreground", "run jobs/demo.yaml --ranks 2")
    run.usage = f"{run.prog} [JOB] [options] [-- COMMAND ...]"
    run.add_argument("job", type=Path, nargs="?", metavar="JOB", help="a job file, or a run directory to go on with")
    cluster_option(run)
    run.add_argument("--ranks", type=positive, help="MPI ranks (default: the profile's)")
    run.add_argument("--oversubscribe", action="store_true", help="allow more ranks than cores")
    run.add_argument("--out", type=Path, metavar="RUN", help="run directory (default: runs/NAME-TIME)")


def _resources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=positive)
    parser.add_argument("--ranks-per-node", type=positive, help="default: one per GPU, or as the profile says")
    parser.add_argument("--gpus", type=not_negative, help="GPUs per node (default: all of them)")
    parser.add_argument("--time", help="wall-clock limit, such as 4h or 12:30:00")
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument("--qos")


def _job_or_command(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"{parser.prog} [JOB] [options] [-- COMMAND ...]"
    parser.add_argument("job", type=Path, nargs="?", metavar="JOB", help="a job file (submit: or a run directory)")
    cluster_option(parser)
    _resources(parser)
    inside = parser.add_mutually_exclusive_group()
    inside.add_argument("--env", metavar="PATH", help="a venv, a conda environment, or an archive of one")
    inside.add_argument("--container", metavar="IMAGE", help="an image, for the profile's first container runtime")
    parser.add_argument("--name", help="of the job, for a COMMAND (default: its program)")
    parser.add_argument("--no-freeze", action="store_true", help="a COMMAND runs the code as it is when the job starts")
    parser.add_argument("--no-requeue", action="store_true", help="start it once: it has no checkpoints to go on from")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run directory (default: runs/NAME-TIME)")


def check_dashes(words: Sequence[str], left: Sequence[str], arguments: argparse.Namespace) -> None:
    """Raises UserError, with the line as it is meant, for a program in the place of a job file: -- was left out.

    `left` is what stands behind and is no option of ours.
    """
    job = getattr(arguments, "job", None)
    if not isinstance(job, Path) or arguments.call is _plan or arguments.command:
        return
    if job.is_dir() or job.suffix in JOB_SUFFIXES:
        return
    at = next((i for i, word in enumerate(words) if i and Path(word) == job), 0)
    if at and (job.exists() or shutil.which(job) or (left and not left[0].startswith("-"))):
        meant = shlex.join(["hpcllm", *words[:at], "--", *words[at:]])
        raise UserError(f"{job}: is no job file; a program of yours stands behind --: {meant}")


# ---- the calls -------------------------------------------------------------------------------------------------------


def _plan(arguments: argparse.Namespace) -> int:
    from hpcllm.cluster.user import load_user
    from hpcllm.job.spec import load_job
    from hpcllm.launch.bad_nodes import without
    from hpcllm.plan.search import search
    from hpcllm.report.plan_table import plan_text

    if arguments.job.is_dir():
        profile, job, bad = _of_run(arguments)
    else:
        profile, job, bad = profile_of(arguments)[0], load_job(arguments.job), []
    job = with_resources(job, arguments)
    plan = search(profile, job, user=load_user())
    if bad:
        profile = without(profile, plan.partition, bad)
        plan = search(profile, job, user=load_user())
    if arguments.json:
        left_out = {"bad_nodes": [asdict(node) for node in bad]} if bad else {}
        print_json({**plan.to_json(), **left_out})
    else:
        for node in bad:
            print(f"without {node.node}: {node.why}")
        print_rich(plan_text(plan, profile, job, arguments.explain))
    return int(ExitCode.DONE if plan.fits else ExitCode.DOES_NOT_FIT)


def _of_run(arguments: argparse.Namespace) -> tuple[Profile, Job, list[BadNode]]:
    """The profile and the job of a run directory, and the nodes that its next start leaves out."""
    from hpcllm.cluster.profile import frozen_profile
    from hpcllm.job.spec import Job, frozen_any_job
    from hpcllm.launch.bad_nodes import bad_nodes
    from hpcllm.run_directory import Run

    run = Run.open(arguments.job)
    job = frozen_any_job(run)
    if not isinstance(job, Job):
        raise UserError(f"{run.root}: a program of your own has no plan; hpcllm status {shlex.quote(str(run.root))}")
    return profile_of(arguments)[0] if arguments.cluster else frozen_profile(run), job, bad_nodes(run)


def _render(arguments: argparse.Namespace) -> None:
    if is_sweep(arguments):
        print(f"rendered {rendered_sweep(arguments).root}")
        return
    profile, path = profile_of(arguments)
    run = _rendered(arguments, (profile, path))
    local = profile.scheduler.kind == "local"
    start = "start   " if local else "submit  "
    script = shlex.quote(str(run.run_local_sh if local else run.submit_sh))
    print(f"rendered {run.root}\nread    {run.scripts}/\n{start}bash {script}")


def _submit(arguments: argparse.Namespace) -> None:
    from hpcllm.cli.submitting import removed_afterwards, say_dry, submit_run

    if is_sweep(arguments):
        submit(arguments)
        return
    run, new_parent = again(arguments), not RUNS.exists()
    made = run is None
    run = run or _rendered(arguments, profile_of(arguments), choosing=True)
    if not arguments.dry_run:
        submit_run(run)
    elif arguments.out or not made:
        say_dry(run)
    else:
        with removed_afterwards(run, new_parent):
            say_dry(run)


def _run(arguments: argparse.Namespace) -> None:
    from hpcllm.launch.allocation import allocation, check_large_enough
    from hpcllm.launch.local import run_local

    if is_sweep(arguments):
        run_here(arguments)
        return
    run, found = again(arguments), allocation()
    if run is not None and found:
        check_large_enough(found, run)
    run_local(run or (_rendered_in(found, arguments) if found else None) or _rendered_here(arguments))


def _rendered_here(arguments: argparse.Namespace) -> Run:
    arguments, found = for_here(arguments)
    return _rendered(arguments, found, arguments.oversubscribe)


def for_here(arguments: argparse.Namespace) -> tuple[argparse.Namespace, tuple[Profile, None]]:
    """What `run` was told as `render` reads it, and this machine, measured first where there is a plan to be made."""
    from hpcllm.cluster.detection.here import local_profile, measured

    if arguments.cluster:
        raise UserError("--cluster: run is for this machine, or inside an allocation (salloc) for its nodes")
    ranks = {"nodes": 1, "ranks_per_node": arguments.ranks, "no_freeze": bool(arguments.command)}
    profile = local_profile() if arguments.command else measured(local_profile(), Path.cwd())
    return argparse.Namespace(**{**_NO_RESOURCES, **vars(arguments), **ranks}), (profile, None)


def _rendered_in(found: Allocation, arguments: argparse.Namespace) -> Run | None:
    """For the nodes of an allocation, as the profile starts ranks; None, with a warning, where there is none."""
    from hpcllm.launch.allocation import narrowed, resources

    profile, path = profile_of(arguments)
    if profile.scheduler.kind == "local":
        what = f"no profile is for this cluster, so this runs on one node of allocation {found.job_id}"
        print(f"hpcllm: warning: {what}; --cluster NAME gives one", file=sys.stderr)
        return None
    words = resources(found, profile, arguments.ranks, arguments.oversubscribe)
    words |= {"gpus": None, "name": None, "no_freeze": bool(arguments.command)}
    inside = argparse.Namespace(**{**vars(arguments), **words})
    return _rendered(inside, (narrowed(profile, found), path), arguments.oversubscribe)


_NO_RESOURCES: dict[str, None] = dict.fromkeys(
    ("nodes", "ranks_per_node", "gpus", "time", "partition", "account", "qos", "name")
)


def again(arguments: argparse.Namespace) -> Run | None:
    """The run directory given in place of a job file, to go on with as it was rendered. None: it is a job file."""
    from hpcllm.run_directory import Run

    if arguments.job is None or not arguments.job.is_dir():
        return None
    check_nothing_beside(arguments)
    run = Run.open(arguments.job)
    if Path(run.resolved()["root"]) != run.root:
        raise UserError(
            f"{run.root}: was rendered at {run.resolved()['root']}, and its scripts work there; "
            f"move it back, or render the job into a new directory"
        )
    return run


def check_nothing_beside(arguments: argparse.Namespace) -> None:
    """Raises UserError for options beside a folder, which goes on as it was rendered."""
    kept = ("job", "call", "command", "dry_run")
    given = [f"--{name.replace('_', '-')}" for name, value in vars(arguments).items() if value and name not in kept]
    if given or arguments.command:
        raise UserError(f"{arguments.job}: goes on as it was rendered; leave out {', '.join(given) or 'the command'}")


def _rendered(
    arguments: argparse.Namespace,
    found: tuple[Profile, Path | None],
    oversubscribe: bool = False,
    choosing: bool = False,
) -> Run:
    """The run directory of the job file, or of the command, that the arguments name; `choosing` its queue by Slurm."""
    from hpcllm.cli.submitting import say_programs, with_queue
    from hpcllm.cluster.user import load_user
    from hpcllm.errors import DoesNotFit
    from hpcllm.job.spec import Job, absolute
    from hpcllm.launch.render import render
    from hpcllm.launch.submission.choose import keep
    from hpcllm.plan.search import search

    profile, profile_path = found
    job, cwd = _job(arguments), Path.cwd()
    if arguments.job:
        cwd = arguments.job.absolute().parent
        job = absolute(job, cwd)
    say_programs(profile, job, cwd)
    out = out_of(arguments, job.name)
    job, queues = with_queue(profile, job, load_user(), out) if choosing else (job, ())
    plan: Plan | None = None
    if isinstance(job, Job):
        plan = search(profile, job, oversubscribe, load_user())
        if not plan.fits:
            raise DoesNotFit(f"{arguments.job}: does not fit {profile.name}: " + "; ".join(plan.limits))
    run = render(profile, profile_path, job, arguments.job, plan, out, oversubscribe=oversubscribe, cwd=cwd)
    if queues:
        keep(run, queues)
    _warn_of_code(run, job)
    return run


def _warn_of_code(run: Run, job: AnyJob) -> None:
    """Who expects a copy of the code is told when there is none."""
    from hpcllm.job.spec import CommandJob
    from hpcllm.run_directory import read_json

    if (job.stages or isinstance(job, CommandJob)) and job.freeze:
        in_place = read_json(run.software_json)["command"]["in_place"]
        if in_place:
            what = "the program runs where it lies, as it is when the job starts"
            print(f"hpcllm: warning: {what}: {in_place}", file=sys.stderr)


def _job(arguments: argparse.Namespace) -> AnyJob:
    from hpcllm.job.spec import CommandJob, load_any_job
    from hpcllm.source import check

    if (arguments.job is None) == (not arguments.command):
        raise UserError("expected a job file, or a program behind --, such as: -- python train.py")
    if arguments.job is not None:
        job = with_resources(load_any_job(arguments.job), arguments)
        return job.model_copy(update={"freeze": False}) if arguments.no_freeze else job
    command = tuple(arguments.command)
    script = next((word for word in command if os.path.isfile(word)), command[0])  # train.py, rather than python
    of_script = re.sub(r"[^\w.+-]+", "-", Path(script).stem).lstrip(".-")[:100]
    given = {"name": arguments.name or of_script or "command", "command": command, "freeze": not arguments.no_freeze}
    return with_resources(check(given, CommandJob, COMMAND_LINE, {}), arguments)


def with_resources(job: JobT, arguments: argparse.Namespace) -> JobT:
    """The job with what the command line says of nodes, time and queue."""
    from hpcllm.job.spec import SlurmSpec
    from hpcllm.source import check

    resources = {
        "nodes": arguments.nodes,
        "ranks_per_node": arguments.ranks_per_node,
        "gpus_per_node": arguments.gpus,
        "time_s": time_of(arguments),
    }
    slurm = {"partition": arguments.partition, "account": arguments.account, "qos": arguments.qos}
    once = {"max_requeues": 0} if getattr(arguments, "no_requeue", False) else {}
    software = {"environment": _environment(arguments)}
    return job.model_copy(
        update={
            "resources": job.resources.model_copy(update=_given(resources)),
            "slurm": check({**job.slurm.model_dump(), **_given(slurm), **once}, SlurmSpec, COMMAND_LINE, {}),
            "software": job.software.model_copy(update=_given(software)),
        }
    )


def _environment(arguments: argparse.Namespace) -> SoftwareEnvironment | None:
    """What --env or --container names."""
    from hpcllm.launch.software import container_named, environment_at

    if getattr(arguments, "env", None):
        return environment_at(Path(arguments.env))
    if getattr(arguments, "container", None):
        return container_named(arguments.container, profile_of(arguments)[0])
    return None


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
