"""This machine as a profile, read from /proc and the environment: quick enough for every command, without torch."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from hpcllm import source
from hpcllm.cluster.profile import Profile

MIB = 2**20
NVIDIA_SMI_TIMEOUT_S = 10.0
MPIRUN_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 60.0

Flavour = Literal["mpich", "openmpi", "cray-mpich", "intel-mpi", "mvapich"]
# What `mpirun --version` begins with, or holds, and whose launcher that is.
_FLAVOURS: tuple[tuple[str, Flavour], ...] = (
    ("Open MPI", "openmpi"),
    ("PRRTE", "openmpi"),
    ("Intel", "intel-mpi"),
    ("MVAPICH", "mvapich"),
    ("HYDRA", "mpich"),
)


def local_profile() -> Profile:
    """This machine: its cores, memory and GPUs as this process may use them, and the mpirun it finds."""
    mpirun = find_mpirun()
    described = {
        "name": "local",
        "description": f"this machine ({socket.gethostname()})",
        "verified": {"how": "detected", "date": datetime.now(UTC).date()},
        "scheduler": {"kind": "local"},
        "nodes": {"local": _node()},
        "fabric": {"kind": "none"},
        "filesystems": {"local": {"kind": "local", "path": str(Path.cwd())}},
        "software": {"mpi": {"flavour": mpi_flavour(mpirun), "launcher": [mpirun]}, "python": "this"},
    }
    return source.check(described, Profile, "this machine", {})


def find_mpirun() -> str:
    """The mpirun beside this Python, else the one on PATH, else the bare word: whoever starts it says it is missing."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else shutil.which("mpirun") or "mpirun"


@functools.cache
def mpi_flavour(mpirun: str) -> Flavour:
    """Whose mpirun that is: by the files beside it, else by asking it; mpich, as in our extra, where nobody knows."""
    path = Path(mpirun)
    if path.with_name("mpiexec.hydra").exists() and not path.with_name("impi_info").exists():
        return "mpich"
    if path.resolve().name in ("orterun", "prterun", "mpirun.openmpi"):
        return "openmpi"
    said = _output_of([mpirun, "--version"], MPIRUN_TIMEOUT_S)
    return next((flavour for word, flavour in _FLAVOURS if word in said), "mpich")


def _node() -> dict[str, Any]:
    cpus = usable_cpus()
    topology = topology_of(_read("/proc/cpuinfo"), cpus.numbers)
    return {
        "count": 1,
        "sockets": topology.sockets,
        "numa_domains": _numa_domains(),
        "cores": min(topology.cores, cpus.quota or topology.cores),
        "threads_per_core": len(cpus.numbers) // topology.cores,
        "memory": f"{usable_memory_bytes()}B",
        "gpus": detected_gpus(),
    }


# ---- cores -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cpus:
    """What this process may run on."""

    numbers: frozenset[int]
    """Hardware threads of its affinity."""
    quota: int | None
    """Whole CPUs' worth of time that its cgroup allows, where it sets a limit."""


@dataclass(frozen=True)
class Topology:
    """How hardware threads make cores and sockets."""

    cores: int
    sockets: int


def usable_cpus() -> Cpus:
    """The affinity of this process and the limit of its cgroup."""
    return Cpus(frozenset(os.sched_getaffinity(0)), _cpu_quota())


def topology_of(cpuinfo: str, numbers: frozenset[int]) -> Topology:
    """Cores and sockets of those threads.

    Each thread is a core where /proc/cpuinfo does not tell (ARM), and in a virtual machine: its CPUs are what one was
    given, and whether two of them share a core is the host's affair.
    """
    if re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE):
        return Topology(max(1, len(numbers)), 1)
    fields = [dict(re.findall(r"^([^:\n]+?)\s*:\s*(.*)$", block, re.MULTILINE)) for block in cpuinfo.split("\n\n")]
    known = [f for f in fields if f.get("processor", "").isdigit() and int(f["processor"]) in numbers]
    places = {(f["physical id"], f["core id"]) for f in known if "core id" in f and "physical id" in f}
    if not places:
        return Topology(max(1, len(numbers)), 1)
    return Topology(len(places), len({socket_id for socket_id, _ in places}))


def _numa_domains() -> int:
    return max(1, len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))))


def _cpu_quota() -> int | None:
    """cgroup v2 says `QUOTA PERIOD` or `max PERIOD`; v1 has a file for each, and -1 for no limit."""
    words = _read("/sys/fs/cgroup/cpu.max").split() or [
        *_read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").split(),
        *_read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").split(),
    ]
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    return max(1, int(words[0]) // int(words[1]))


# ---- memory ----------------------------------------------------------------------------------------------------------


def usable_memory_bytes() -> int:
    """The machine's memory, or less where the cgroup sets a limit."""
    matched = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    total = int(matched[1]) * 1024 if matched else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = (_read("/sys/fs/cgroup/memory.max") or _read("/sys/fs/cgroup/memory/memory.limit_in_bytes")).strip()
    return min(total, int(limit)) if limit.isdigit() else total


# ---- GPUs ------------------------------------------------------------------------------------------------------------


@functools.cache
def detected_gpus() -> dict[str, Any] | None:
    """NVIDIA GPUs, asked of nvidia-smi only where the driver is loaded."""
    if not Path("/proc/driver/nvidia/version").exists() or not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    return parse_nvidia_smi(_output_of(query, NVIDIA_SMI_TIMEOUT_S))


def parse_nvidia_smi(csv: str) -> dict[str, Any] | None:
    """`NVIDIA A100-SXM4-80GB, 81920` a line -> the node's `gpus:`; None where there are none.

    A machine with two kinds is described as the first with the least memory, since ranks are alike.
    """
    rows = re.findall(r"^(.+),\s*(\d+)\s*$", csv, re.MULTILINE)
    if not rows:
        return None
    model = rows[0][0].strip().removeprefix("NVIDIA ")
    return {"model": model, "count": len(rows), "memory": f"{min(int(mib) for _, mib in rows)}MiB"}


# ---- as a file -------------------------------------------------------------------------------------------------------


def detected_yaml() -> str:
    """The profile of this machine as a commented file to start from: facts first, then what was assumed."""
    profile = local_profile()
    node = profile.nodes["local"]
    mpi = profile.software.mpi
    gpus = node.gpus and [
        "    gpus:",
        f"      model: {json.dumps(node.gpus.model)}",
        f"      count: {node.gpus.count}",
        f"      memory: {(node.gpus.memory_bytes or 0) // MIB}MiB",
    ]
    lines = [
        f"# {socket.gethostname()}, as `hpcllm profile detect` found it. Check it, then keep it as NAME.yaml.",
        f"name: {profile.name}",
        f"verified: {{how: detected, date: {profile.verified.date}}}",
        "",
        "# Detected: what this process may use (its affinity and its cgroup), not what the machine could have.",
        "nodes:",
        "  local:",
        "    count: 1",
        f"    sockets: {node.sockets}",
        f"    numa_domains: {node.numa_domains}",
        f"    cores: {node.cores}",
        f"    threads_per_core: {node.threads_per_core}",
        f"    memory: {(node.memory_bytes or 0) // MIB}MiB",
        *(gpus or ["    # gpus: none found (nvidia-smi); the ranks compute on the cores"]),
        "    # flops: unknown until measured (a large matmul on all cores); a run measures it",
        "software:",
        f"  mpi: {{flavour: {mpi.flavour}, launcher: [{json.dumps(mpi.launcher[0])}]}}",
        "  python: this                         # the interpreter that writes the scripts",
        "",
        "# Assumed: nothing on this machine says so; change it where it is wrong.",
        "scheduler: {kind: local}               # one machine, no queue",
        "fabric: {kind: none}                   # one node",
        "filesystems:",
        f"  local: {{kind: local, path: {json.dumps(profile.scratch().path)}}}",
    ]
    return "\n".join(lines) + "\n"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output_of(command: list[str], timeout_s: float) -> str:
    """What a command says, or nothing where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
        return done.stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


# ---- measured --------------------------------------------------------------------------------------------------------


def measured(profile: Profile, folder: Path) -> Profile:
    """The profile of this machine with the speeds that two seconds of measuring find; as it was where that fails.

    The measuring needs torch, so it is a process of its own.
    """
    node = profile.nodes["local"]
    try:
        found = json.loads(_output_of([sys.executable, "-m", "hpcllm.parallel.probe", str(folder)], PROBE_TIMEOUT_S))
    except ValueError:
        return profile
    speeds = {name: found[name] for name in ("flops_per_s", "memory_rate_bytes_per_s")}
    rates = {name: found[name] for name in ("write_bytes_per_s", "read_bytes_per_s")}
    return profile.model_copy(
        update={
            "nodes": {"local": node.model_copy(update={} if node.gpus else speeds)},
            "filesystems": {"local": profile.filesystems["local"].model_copy(update=rates)},
        }
    )
