"""Measure the cluster: the contract of MPI, the nodes, the network between them, and the filesystem of the run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpcllm.cluster.probe.found import Probed
from hpcllm.cluster.profile import Profile, frozen_profile
from hpcllm.evaluate.result import commit
from hpcllm.job.spec import ProbeJob, frozen_any_job
from hpcllm.launch.pipeline import Stage
from hpcllm.parallel import checks, preflight, survey
from hpcllm.parallel.bandwidth import AllReduce
from hpcllm.parallel.expected import expected, partition_here
from hpcllm.parallel.files import FileRates, measure_files
from hpcllm.parallel.finding import to_json
from hpcllm.parallel.world import World
from hpcllm.progress import ProgressLines
from hpcllm.run_directory import Run, write_json
from hpcllm.units import as_ranges


def main(run: Run, stage: Stage, world: World) -> None:
    """Write results/probe.json. What is wrong is a finding in it, not a failure, as long as it can be measured."""
    profile, job = frozen_profile(run), frozen_any_job(run)
    assert isinstance(job, ProbeJob)
    asked, partition, much = expected(None, None, run.root), partition_here(profile, job), job.probe
    on_gpus = profile.node_type(partition).gpus is not None
    say = ProgressLines(stage.name, 4, quiet=world.rank > 0, every_s=0)

    say(0, "the ranks, and every node with its partners")
    report = preflight.check(world, asked)
    say(1, "all-reduce from 8 B on, inside the nodes and over them")
    network = survey.measure_network(world, on_gpus, much.message_bytes, much.time_s)
    say(2, "matmul and memory")
    compute = survey.measure_compute(world, on_gpus, much.time_s)
    say(3, "files, plain and HDF5")
    files = measure_files(world, run.data, much.file_bytes, much.time_s)

    if world.rank == 0:
        name = _filesystem(profile, run.root)
        found = [
            *report.findings,
            *checks.check_gpus(survey.gpus_seen(world, compute), asked),
            *checks.check_nccl(network.gpu_error),
            *checks.check_hdf5(files.hdf5_error, name),
        ]
        probed = Probed(
            date=str(datetime.now(UTC).date()),
            commit=commit(run) or "",
            partition=partition,
            node_type=profile.node_type_name(partition),
            filesystem=name,
            world_size=world.size,
            library=report.library.text,
            binding=tuple((rank.host, as_ranges(rank.cpus)) for rank in report.facts),
            nodes=survey.nodes_of(world, report, compute, network),
            links=tuple((world.hosts[x.nodes[0]], world.hosts[x.nodes[1]], x.bytes_per_s) for x in report.links),
            latency_s=network.latency_s,
            all_reduce_bytes_per_s=_bus(network.across, world.nodes),
            gpu_all_reduce_inside_bytes_per_s=_bus(network.gpus_inside, world.local_size),
            gpu_all_reduce_bytes_per_s=_bus(network.gpus, world.size),
            files=_rates(files),
            all_reduce=network.to_json(),
            findings=tuple(to_json(found)),
        )
        write_json(run.probe_json, probed.to_json())
    say(4, "measured")


def _filesystem(profile: Profile, root: Path) -> str | None:
    """The profile's filesystem that a folder lies on: the one with the longest path above it."""
    paths = {name: Path(os.path.expandvars(one.path)).resolve() for name, one in profile.filesystems.items()}
    above = [name for name, path in paths.items() if root.resolve().is_relative_to(path)]
    return max(above, key=lambda name: len(paths[name].parts), default=None)


def _bus(times: Sequence[AllReduce], ranks: int) -> float | None:
    """Of the largest message."""
    return times[-1].bus_bytes_per_s(ranks) if times else None


def _rates(files: FileRates) -> dict[str, Any]:
    return {name: rate for name, rate in asdict(files).items() if name != "hdf5_error"}
