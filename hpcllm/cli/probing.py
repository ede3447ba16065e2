"""Measure a cluster: profile probe."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcllm.cli.words import command, json_option, out_of, positive, print_json, print_rich, time_of
from hpcllm.errors import ExitCode, UserError

if TYPE_CHECKING:
    from hpcllm.cluster.profile import Profile
    from hpcllm.run_directory import Run

POLL_S = 5.0


def add(profile: Any) -> None:
    """`probe`, among the commands of `profile`."""
    probe = command(
        profile, "probe", _probe, "measure a cluster by a small job", "profile probe mycluster.yaml --nodes 4"
    )
    probe.add_argument("cluster", nargs="?", metavar="CLUSTER", help="default: this Slurm's, else this machine")
    probe.add_argument("--nodes", type=positive, help="default: 2, or what there is; from 3 on a slow one is named")
    probe.add_argument("--partition")
    probe.add_argument("--account")
    probe.add_argument("--qos")
    probe.add_argument("--time", help="wall-clock limit (default: 10m)")
    probe.add_argument("--out", type=Path, metavar="RUN", help="run directory, new, or of a probe to go on with")
    probe.add_argument("--dry-run", action="store_true", help="print what would be submitted")
    json_option(probe)


def _probe(arguments: argparse.Namespace) -> ExitCode:
    from hpcllm.cluster.find import find_profile
    from hpcllm.cluster.probe.verdicts import verdicts, worst
    from hpcllm.cluster.probe.written import measured_before, write_measured
    from hpcllm.launch.probe import result_of
    from hpcllm.report.probe_table import probe_table

    profile, path = find_profile(arguments.cluster)
    run = _old(arguments, profile) or _new(arguments, profile, path)
    if arguments.dry_run:
        _dry_run(run, profile)
        return ExitCode.DONE
    _follow(run, profile, arguments)
    probed = result_of(run)
    found = verdicts(profile, probed, measured_before(profile, path) if path else None)
    doubted = {verdict.key for verdict in found if not verdict.believed}
    file = write_measured(profile, path, probed, doubted) if path else None
    if arguments.json:
        rows = [asdict(verdict) for verdict in found]
        print_json({"run": str(run.root), "verdicts": rows, "written": file and str(file), "found": probed.to_json()})
    else:
        print_rich(probe_table(profile.name, probed, found))
        print(f"wrote    {file}: measured" if file else "this machine has no profile file to write to")
        print(f"details  {run.probe_json}")
    return ExitCode.FAILED if worst(found) == "broken" else ExitCode.DONE


def _old(arguments: argparse.Namespace, profile: Profile) -> Run | None:
    """The run of an earlier probe that --out names. Raises UserError for another run, and for options beside it."""
    from hpcllm.job.spec import ProbeJob, frozen_any_job
    from hpcllm.run_directory import Run

    if arguments.out is None or not (arguments.out / "resolved.json").exists():
        return None
    run = Run.open(arguments.out)
    given = [f"--{name}" for name in ("nodes", "partition", "account", "qos", "time") if getattr(arguments, name)]
    if given:
        raise UserError(f"{run.root}: goes on as it was rendered; leave out {', '.join(given)}, or give a new --out")
    if not isinstance(frozen_any_job(run), ProbeJob) or run.resolved()["profile"]["name"] != profile.name:
        raise UserError(f"--out: {run.root} holds no probe of {profile.name}; give the path of a new directory")
    return run


def _new(arguments: argparse.Namespace, profile: Profile, path: Path | None) -> Run:
    from hpcllm.cluster.user import load_user
    from hpcllm.job.spec import SlurmSpec
    from hpcllm.launch.probe import probe_job
    from hpcllm.launch.render import render

    slurm = SlurmSpec(partition=arguments.partition, account=arguments.account, qos=arguments.qos)
    user = load_user()
    job = probe_job(profile, slurm, user, arguments.nodes, time_of(arguments))
    return render(profile, path, job, None, None, out_of(arguments, f"probe-{profile.name}"), user=user)


def _dry_run(run: Run, profile: Profile) -> None:
    from hpcllm.launch.submission.submit import submit

    if profile.scheduler.kind == "local":
        print(f"bash {shlex.quote(str(run.run_local_sh))}")
        return
    for stage, said in submit(run, dry_run=True).items():
        print(f"{stage:24} {said}")


def _follow(run: Run, profile: Profile, arguments: argparse.Namespace) -> None:
    """Until the job is over. Ctrl-C leaves it, and says how to go on. Raises KeyboardInterrupt then."""
    from hpcllm.launch.local import run_local
    from hpcllm.launch.submission.submit import submit
    from hpcllm.launch.tracking.states import ALIVE
    from hpcllm.launch.tracking.track import status
    from hpcllm.report.status_table import watch

    (found,) = status(run)
    if found.state == "done":
        return
    if profile.scheduler.kind == "local":
        run_local(run, quiet=arguments.json)
        return
    if not found.job_id:
        submit(run)
    try:
        while arguments.json and status(run)[0].state in ALIVE:
            time.sleep(POLL_S)
        if not arguments.json:
            watch(run)
    except KeyboardInterrupt:
        at, cluster = shlex.quote(str(run.root)), shlex.quote(arguments.cluster or profile.name)
        print(
            f"\nthe job goes on\nread it   hpcllm profile probe {cluster} --out {at}\nstop it   hpcllm cancel {at}",
            file=sys.stderr,
        )
        raise
