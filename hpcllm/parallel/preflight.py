"""Are the ranks what was asked for? Checked in seconds, before the first step; also alone in anybody's script.

    srun hpcllm preflight || exit 1

First the contract: as many ranks as asked on as many nodes, in one MPI world; no two on the same cores or GPU; one
software everywhere; clocks that agree. Then a sweep of at most some 5 s: all-reduce by size, and every node with its
partners. It imports no torch. Exit code 0: fine, 1: not.
In a run (--run) 75: not, but without the nodes that it names it may be. They are remembered; the retry leaves them out.
"""

from __future__ import annotations

import faulthandler
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hpcllm.errors import ExitCode, HpcllmError
from hpcllm.job.spec import Job, frozen_any_job
from hpcllm.launch.bad_nodes import remember
from hpcllm.launch.pipeline import find_stage, stages
from hpcllm.launch.tracking.logs import log_files
from hpcllm.parallel import checks
from hpcllm.parallel.expected import Expected, expected
from hpcllm.parallel.facts import facts_here
from hpcllm.parallel.finding import Finding
from hpcllm.parallel.interfaces import check_names, network_here, start_mpi
from hpcllm.parallel.launched import library_here, started_as
from hpcllm.parallel.links import check_links
from hpcllm.parallel.preflight_report import Report, document, table
from hpcllm.parallel.stage import record_failure
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run, write_json

LIMIT_S = 60.0  # a check that hangs ends all ranks after it
ALL_REDUCE_S = 2.0  # of the sweep


def main(ranks: int | None, nodes: int | None, run: Path | None, as_json: bool) -> int:
    """Check, print on rank 0, and return the exit code, on every rank the same. Raises HpcllmError on rank 0 alone."""
    watchdog = _Watchdog(LIMIT_S)
    start = time.perf_counter()
    world = start_mpi(lambda message: _record(run, World.alone(), message))
    watchdog.started()
    asked = world.broadcast(_asked_or_error(ranks, nodes, run) if world.rank == 0 else None)
    if isinstance(asked, HpcllmError):
        watchdog.stop()
        if world.rank == 0:
            raise asked
        return int(asked.exit_code)
    assert asked is not None
    report = check(world, asked, watchdog)
    if world.rank == 0 and (world.size > 1 or not started_as(os.environ).rank):  # of N singletons one speaks
        _say(report, run, as_json, time.perf_counter() - start)
        if report.failed:
            _record(run, world, "; ".join(finding.what for finding in report.errors))
            _leave_out(run, report.errors)
    code = ExitCode.DONE if not report.failed else ExitCode.FAILED
    code = world.broadcast(ExitCode.INTERRUPTED if run and report.nodes_are_to_blame else code)
    watchdog.stop()
    return int(code)


def _say(report: Report, path: Path | None, as_json: bool, took_s: float) -> None:
    found = document(report)
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else table(report, took_s), flush=True)
    if path is not None:
        write_json(Run.open(path).preflight_json, found)


def _record(path: Path | None, world: World, errors: str) -> None:
    """The training that preflight kept from starting has failed, and says why. A command's script says it itself."""
    run = Run.open(path) if path else None
    job = frozen_any_job(run) if run else None
    if run and isinstance(job, Job):
        record_failure(run, find_stage(job, "train"), world, f"preflight: {errors}")


def _leave_out(path: Path | None, errors: list[Finding]) -> None:
    """Remember the nodes that the errors name, by the names that Slurm has for them."""
    if path is None:
        return
    run = Run.open(path)
    stage = next(stage for stage in stages(frozen_any_job(run)) if stage.name in ("train", "command"))
    attempt = f"{stage.id}.{len(log_files(run, stage.id))}"
    for finding in errors:
        if finding.nodes:
            remember(run, (node.split(".")[0] for node in finding.nodes), finding.what, attempt)


def check(world: World, asked: Expected, watchdog: _Watchdog | None = None) -> Report:
    """Everything that there is to check in this world. Called by all ranks; rank 0's report is whole."""
    say: Callable[[str], None] = watchdog.now if watchdog else lambda check: None
    report = check_contract(world, asked, say)
    if world.size > 1:
        _sweep(world, report, say)
    return report


def check_contract(world: World, asked: Expected, say: Callable[[str], None] = lambda check: None) -> Report:
    """The ranks as they are against what was asked: milliseconds. Called by all ranks."""
    from hpcllm.parallel.clocks import clock_offsets

    start = time.perf_counter()
    report = Report(world, asked, library_here())
    say("counting the ranks")
    started = started_as(os.environ)
    report.findings += checks.check_counts(world.size, world.nodes, started, asked, report.library)
    report.findings += checks.check_library(report.library, asked)
    say("comparing the ranks")
    here = facts_here(world, report.library), network_here() if world.local_rank == 0 else None
    everybody = world.all_gather(here)
    report.facts = [facts for facts, _ in everybody]
    report.findings += check_names([network for _, network in everybody if network], asked.names)
    report.findings += checks.check_binding(report.facts, asked) + checks.check_one_gpu_each(report.facts, asked)
    report.findings += checks.check_versions(report.facts)
    if world.leaders is not None and world.nodes > 1:
        say("clocks of the nodes")
        report.clock_offsets_s = clock_offsets(world.leaders)
        report.findings += checks.check_clocks(world.hosts, report.clock_offsets_s)
    report.contract_s = time.perf_counter() - start
    return report


def _sweep(world: World, report: Report, say: Callable[[str], None]) -> None:
    """How fast they talk."""
    from hpcllm.parallel import bandwidth

    assert world.comm is not None
    assert world.inside is not None
    start = time.perf_counter()
    say("all-reduce over all ranks")
    report.all_reduce, wrong = bandwidth.measure_all_reduce(world.comm, within_s=ALL_REDUCE_S)
    report.findings += checks.check_all_reduce(wrong, [rank.host for rank in report.facts])
    say("messages inside the nodes")
    inside = bandwidth.measure_inside(world.inside)
    if world.leaders is not None:
        report.inside_bytes_per_s = world.leaders.allgather(inside)
        say("messages between pairs of nodes")
        report.links, report.carriers = bandwidth.measure_links(world.leaders)
        report.findings += check_links(report.links, world.hosts, report.asked, report.carriers)
    bandwidth.wait_quietly(world.comm)
    report.sweep_s = time.perf_counter() - start


# ---- what was asked, and what is here --------------------------------------------------------------------------------


def _asked_or_error(ranks: int | None, nodes: int | None, run: Path | None) -> Expected | HpcllmError:
    try:
        return expected(ranks, nodes, run)
    except HpcllmError as error:
        return error


class _Watchdog:
    """Ends all ranks when a check hangs, and says which."""

    def __init__(self, limit_s: float) -> None:
        self._check, self._limit_s = "starting MPI", limit_s
        self._timer = threading.Timer(limit_s, self._abort, [limit_s])
        self._timer.daemon = True
        self._timer.start()

    def started(self) -> None:
        """MPI has started. From now on a call of it may hold the interpreter, which the timer needs."""
        faulthandler.dump_traceback_later(self._limit_s + 10, exit=True)

    def now(self, check: str) -> None:
        """What hangs, if it hangs from now on."""
        self._check = check

    def stop(self) -> None:
        """All is done."""
        self._timer.cancel()
        faulthandler.cancel_dump_traceback_later()

    def _abort(self, limit_s: float) -> None:
        where = f"rank {os.environ.get('PMI_RANK') or os.environ.get('SLURM_PROCID') or '?'} on {platform.node()}"
        print(f"preflight: {where}: {self._check}: no end after {limit_s:g} s", file=sys.stderr, flush=True)
        last = threading.Timer(5, os._exit, [int(ExitCode.FAILED)])
        last.daemon = True
        last.start()
        from mpi4py import MPI

        MPI.COMM_WORLD.Abort(int(ExitCode.FAILED))
