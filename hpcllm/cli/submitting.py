"""`hpcllm submit`: a queue, a run directory, the checks, the jobs; or what all of these would be."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hpcllm.errors import UserError
from hpcllm.units import counted

if TYPE_CHECKING:
    from hpcllm.cluster.profile import Profile
    from hpcllm.cluster.user import User
    from hpcllm.job.spec import AnyJob
    from hpcllm.launch.submission.choose import Queue
    from hpcllm.launch.submission.finding import Finding
    from hpcllm.run_directory import Run

JobT = TypeVar("JobT", bound="AnyJob")


def with_queue(
    profile: Profile, job: JobT, user: User, out: Path, chosen: dict[str, tuple[Queue, ...]] | None = None
) -> tuple[JobT, tuple[Queue, ...]]:
    """The job with the best queue as its own, and what it was chosen from; a run that is there already keeps its own.

    Without anything to choose, or where nothing can run it, the job stays as it is: rendering says what is in the way.
    `chosen`: what other runs of a sweep were given, by what they ask for. The same is not asked of Slurm again, and
    runs in one queue stay one array.
    """
    from hpcllm.launch.submission.choose import choose, kept, on_queue, same
    from hpcllm.run_directory import Run

    run, asked = Run(out.absolute()), f"{job.resources!r} {job.slurm!r}"
    if run.resolved_json.exists():
        queues = kept(run)
    else:
        before = chosen.get(asked) if chosen else None
        queues = (same(profile, job, user, before) if before else None) or choose(profile, job, user)
    if not queues or queues[0].refusal or (len(queues) == 1 and not queues[0].is_cut):
        return job, ()
    if chosen is not None:
        chosen.setdefault(asked, queues)
    return on_queue(job, queues[0]), queues


def say_programs(profile: Profile, job: AnyJob, cwd: Path) -> None:
    """Warn of programs that may not start. Raises UserError for those that cannot."""
    from hpcllm.launch.submission.finding import raise_refusals
    from hpcllm.launch.submission.programs import program_findings

    found = program_findings(profile, job, cwd)
    raise_refusals(found)
    for finding in found:
        say_warning(finding)


def submit_run(run: Run) -> None:
    """Check, submit, and say the ids. Raises UserError with everything that stands in the way."""
    from hpcllm.launch.submission.submit import submit

    say_queues(run)
    _say_where(run)
    submitted = submit(run, say=say_warning)
    for stage, job_id in submitted.items():
        print(f"{stage:24} {job_id}")
    if submitted:
        say_restarts(run)
    print(f"follow  hpcllm watch {shlex.quote(str(run.root))}")


def say_dry(run: Run) -> None:
    """All that would be: queue, checks, commands. Raises UserError with everything that stands in the way."""
    from hpcllm.launch.submission.finding import raise_refusals
    from hpcllm.launch.submission.submit import check, commands

    say_queues(run)
    _say_where(run)
    say_restarts(run)
    tokens = commands(run)
    found = say_checks(lambda: check(run))
    for stage, lines in tokens.items():
        for line in lines:
            print(f"{stage:24} {shlex.join(line)}")
    raise_refusals(found)


def say_checks(check: Callable[[], list[Finding]]) -> list[Finding]:
    """What a check found, but for refusals, which come last; without Slurm, that nothing was checked."""
    try:
        found = check()
    except UserError as error:  # no Slurm here, or it does not answer
        print(f"hpcllm: warning: nothing was checked: {error}", file=sys.stderr)
        return []
    for finding in found:
        if finding.kind == "good":
            print(f"{finding.what:10} {finding.says}")
        say_warning(finding)
    return found


@contextmanager
def removed_afterwards(run: Run, new_parent: bool) -> Iterator[None]:
    """A run directory that is there while the block runs."""
    try:
        yield
    finally:
        shutil.rmtree(run.root)
        with suppress(OSError):  # another run has come into it meanwhile
            if new_parent:
                run.root.parent.rmdir()


def say_queues(run: Run) -> None:
    """What the queue was chosen from."""
    from hpcllm.launch.submission.choose import kept
    from hpcllm.report.queue_lines import queue_lines

    _print(queue_lines(kept(run)))


def _say_where(run: Run) -> None:
    """Where a frozen program starts: what it writes to a relative path is found there."""
    if run.command.is_dir():
        where = shlex.quote(str(run.command))
        print(f"code     frozen in {where}, where new files land (--no-freeze: starts here, and sees later edits)")


def say_restarts(run: Run) -> None:
    """What interrupts a program of the user's starts it again, which is not what one without checkpoints wants."""
    from hpcllm.cluster.profile import frozen_profile
    from hpcllm.job.spec import CommandJob, frozen_any_job

    job = frozen_any_job(run)
    most = job.slurm.max_requeues if frozen_profile(run).scheduler.requeue else 0
    if most and (job.stages or isinstance(job, CommandJob)):
        times = f"when interrupted, up to {counted(most, 'time')}"
        print(f"restart  {times}; without checkpoints of its own it begins anew (--no-requeue: it starts once)")


def say_warning(finding: Finding) -> None:
    """What may go well is said, and no more."""
    if finding.kind == "warning":
        print(f"hpcllm: warning: {finding.says}", file=sys.stderr)


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print(line)
