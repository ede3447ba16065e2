"""Are the ranks what was asked for? Checked in seconds, before the first step; also alone in anybody's script.

    srun hpcllm preflight || exit 1

As many ranks as asked on as many nodes, in one MPI world; no two on the same cores; one software everywhere; clocks
that agree; an all-reduce that is right; no node whose link is slow. It imports no torch. Exit code 0: fine, 1: not.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcllm import __version__
from hpcllm.errors import ExitCode, HpcllmError
from hpcllm.job.spec import Job, frozen_any_job
from hpcllm.launch.bad_nodes import remember
from hpcllm.launch.pipeline import find_stage, stages
from hpcllm.launch.tracking.logs import log_files
from hpcllm.parallel import checks
from hpcllm.parallel.checks import Finding, Link, RankFacts
from hpcllm.parallel.expected import Expected, expected, started_as
from hpcllm.parallel.interfaces import check_names, network_here, start_mpi
from hpcllm.parallel.stage import record_failure
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run
from hpcllm.units import as_ranges, counted, format_bytes, format_bytes_per_s, format_seconds

if TYPE_CHECKING:
    from hpcllm.parallel.bandwidth import AllReduce

LIMIT_S = 60.0  # a check that hangs ends all ranks after it
SHOWN_NODES = 16


@dataclass
class Report:
    """What was found, on rank 0."""

    world: World
    asked: Expected
    library: str
    findings: list[Finding] = field(default_factory=list)
    facts: list[RankFacts] = field(default_factory=list)
    all_reduce: list[AllReduce] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    clock_offsets_s: list[float] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether the job must not start."""
        return bool(self.errors)

    @property
    def errors(self) -> list[Finding]:
        """Those findings for which it must not."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def nodes_are_to_blame(self) -> bool:
        """Whether the job may start without the nodes that the errors name."""
        return self.failed and all(finding.nodes for finding in self.errors)


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
        print(_json(report) if as_json else _table(report, time.perf_counter() - start), flush=True)
        if report.failed:
            _record(run, world, "; ".join(finding.what for finding in report.errors))
            _leave_out(run, report.errors)
    code = ExitCode.DONE if not report.failed else ExitCode.FAILED
    code = world.broadcast(ExitCode.INTERRUPTED if run and report.nodes_are_to_blame else code)
    watchdog.stop()
    return int(code)


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
    from mpi4py import MPI

    say: Callable[[str], None] = watchdog.now if watchdog else lambda check: None
    report = Report(world, asked, _library(MPI.Get_library_version()))
    say("counting the ranks")
    started = started_as(os.environ)
    report.findings += checks.check_counts(world.size, world.nodes, started, asked, report.library)
    report.findings += checks.check_library(report.library, asked)
    say("comparing the ranks")
    report.facts = world.all_gather(_facts(world, report.library))
    networks = world.all_gather(network_here() if world.local_rank == 0 else None)
    report.findings += check_names([network for network in networks if network], asked.names)
    report.findings += checks.check_binding(report.facts, asked) + checks.check_versions(report.facts)
    if world.comm is not None and world.size > 1:
        _measure(world, world.comm, report, say)
    return report


def _measure(world: World, comm: Any, report: Report, say: Callable[[str], None]) -> None:
    from hpcllm.parallel import bandwidth

    say("all-reduce over all ranks")
    report.all_reduce, wrong = bandwidth.measure_all_reduce(comm)
    report.findings += checks.check_all_reduce(wrong, [rank.host for rank in report.facts])
    leaders = world.leaders
    if leaders is not None:
        say("clocks of the nodes")
        report.clock_offsets_s = bandwidth.clock_offsets(leaders)
        report.findings += checks.check_clocks(world.hosts, report.clock_offsets_s)
        say("messages between pairs of nodes")
        report.links = bandwidth.measure_links(leaders)
        report.findings += checks.check_links(report.links, world.hosts, report.asked)
    bandwidth.wait_quietly(comm)


# ---- what was asked, and what is here --------------------------------------------------------------------------------


def _asked_or_error(ranks: int | None, nodes: int | None, run: Path | None) -> Expected | HpcllmError:
    try:
        return expected(ranks, nodes, run)
    except HpcllmError as error:
        return error


def _facts(world: World, library: str) -> RankFacts:
    import mpi4py

    cpus = frozenset(os.sched_getaffinity(0))
    allotted = os.environ.get("SLURM_CPUS_ON_NODE", "")
    ours = {"Python": platform.python_version(), "hpcllm": __version__}
    versions = {**ours, "mpi4py": mpi4py.__version__, "MPI": library}
    return RankFacts(
        world.rank,
        world.node,
        world.hosts[world.node],
        cpus,
        frozenset(_core_of(cpu) for cpu in cpus),
        int(allotted) if allotted.isdigit() else None,
        tuple(versions.items()),
    )


def _core_of(cpu: int) -> int:
    """The first hardware thread of its core."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return int(siblings.read_text().replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return cpu


def _library(version: str) -> str:
    """MPI_Get_library_version on one line, without how it was built."""
    return " ".join(version.split("\n")[0].split("\x00")[0].replace(",", " ").split())


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


# ---- words -----------------------------------------------------------------------------------------------------------


def _table(report: Report, took_s: float) -> str:
    world = report.world
    asked = f" ({report.asked.source} says {report.asked.ranks})" if report.asked.ranks else ""
    lines = [f"preflight: {counted(world.size, 'rank')} on {counted(world.nodes, 'node')}{asked}; {report.library}"]
    lines += _node_lines(report)
    lines += [f"  all-reduce of {format_bytes(x.bytes):>7}: {format_seconds(x.seconds)}" for x in report.all_reduce]
    lines += [str(finding) for finding in report.findings]
    verdict = "not fit to start" if report.failed else "fit to start"
    return "\n".join([*lines, f"preflight: {verdict}, checked in {format_seconds(took_s)}"])


def _node_lines(report: Report) -> list[str]:
    rates = checks.best_rates(report.links)
    lines = []
    for node, host in enumerate(report.world.hosts[:SHOWN_NODES]):
        ranks = [rank for rank in report.facts if rank.node == node]
        cores = " | ".join(dict.fromkeys(as_ranges(rank.cpus) for rank in ranks))
        link = f"  link {format_bytes_per_s(rates[node])}" if node in rates else ""
        numbers = as_ranges(rank.rank for rank in ranks)
        lines.append(f"  {host:<16} ranks {numbers:<8} cores {cores}{link}")
    hidden = len(report.world.hosts) - SHOWN_NODES
    return [*lines, f"  … and {hidden} more nodes"] if hidden > 0 else lines


def _json(report: Report) -> str:
    hosts = report.world.hosts
    document = {
        "fit": not report.failed,
        "ranks": report.world.size,
        "nodes": report.world.nodes,
        "hosts": list(hosts),
        "asked": {"ranks": report.asked.ranks, "nodes": report.asked.nodes, "source": report.asked.source},
        "mpi_library": report.library,
        "binding": [{"rank": r.rank, "host": r.host, "cpus": sorted(r.cpus)} for r in report.facts],
        "all_reduce": [dict(vars(one)) for one in report.all_reduce],
        "links": [{"hosts": [hosts[n] for n in link.nodes], "bytes_per_s": link.bytes_per_s} for link in report.links],
        "clock_offsets_s": report.clock_offsets_s,
        "findings": checks.to_json(report.findings),
    }
    return json.dumps(document, indent=2, ensure_ascii=False)
