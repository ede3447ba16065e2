"""What was seen on a compute node (look.py) into GPUs, a network, filesystems and an MPI."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from hpcllm.cluster.accelerators import accelerator

Seen = dict[str, Any]
NETWORK_FILESYSTEMS = {
    "lustre": "lustre", "gpfs": "gpfs", "beegfs": "beegfs", "wekafs": "wekafs", "nfs": "nfs", "nfs4": "nfs",
    "fuse.gcsfuse": "object", "fuse.s3fs": "object",
}  # fmt: skip
NEXT_TO = ("PIX", "PXB")  # nvidia-smi topo: at most some PCIe bridges between a GPU and an adapter
SCRATCH = ("SCRATCH", "WORK", "FLASH", "FAST", "STORE", "PROJECT")  # in variables, the likeliest first


@dataclass(frozen=True)
class FoundGpus:
    """The GPUs of a node."""

    model: str
    count: int
    memory_mib: int
    cpus: tuple[str, ...] = ()
    numa: tuple[int, ...] = ()
    nics: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundFabric:
    """The fastest network of a node, as far as its adapters tell."""

    kind: str
    rate_gigabits_per_s: float | None
    interfaces: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    """HCAs, where the kind has them."""


@dataclass(frozen=True)
class FoundFilesystem:
    """A network filesystem that is mounted."""

    kind: str
    path: str
    """With the site's own variable, where one leads there."""
    variable: str | None


@dataclass(frozen=True)
class FoundNode:
    """A node."""

    host: str
    cpu: str
    architecture: str
    numa_domains: int | None
    numa_cpus: dict[int, str] = field(default_factory=dict)
    gpus: FoundGpus | None = None
    fabric: FoundFabric | None = None
    filesystems: tuple[FoundFilesystem, ...] = ()
    mpirun: str = ""
    """The first line of `mpirun --version`."""
    mpi_types: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    shared: bool = False
    """Whether it sees what the login node has just written."""
    local_scratch: str | None = None


def node_of(seen: Seen) -> FoundNode:
    """What look.py's words mean."""
    lscpu = dict(re.findall(r"^([^:\n]+):\s*(.*)$", seen["lscpu"], re.MULTILINE))
    numa = {int(n): cpus for n, cpus in re.findall(r"^NUMA node(\d+) CPU\(s\):\s*(\S+)$", seen["lscpu"], re.MULTILINE)}
    domains = lscpu.get("NUMA node(s)", "")
    tmpdir = seen["places"].get("TMPDIR")
    return FoundNode(
        seen["host"],
        lscpu.get("Model name", ""),
        seen["architecture"],
        sum(bool(cpus) for cpus in numa.values()) or (int(domains) if domains.isdecimal() else None),
        numa,
        _nvidia(seen) or _amd(seen, numa),
        _fabric(seen),
        tuple(_filesystems(seen)),
        next((line.strip() for line in seen["mpirun"].splitlines() if line.strip()), ""),
        tuple(re.findall(r"^\s+(\w+)$", seen["mpi_list"], re.MULTILINE)),
        tuple(line for line in seen["modules"].splitlines() if re.fullmatch(r"[\w.+-]+/[\w./+-]+", line)),
        seen["shared"],
        tmpdir if tmpdir and _mount_of(tmpdir, seen)[1] not in NETWORK_FILESYSTEMS else None,
    )


# ---- GPUs ------------------------------------------------------------------------------------------------------------


def _nvidia(seen: Seen) -> FoundGpus | None:
    """Ranks are alike, so a node with two kinds is described as the first with the least memory."""
    rows = re.findall(r"^(.+?),\s*(\d+)\s*$", seen["nvidia_smi"], re.MULTILINE)
    if not rows:
        return None
    cpus, numa, nics = _nvidia_places(seen["nvidia_topology"], len(rows))
    return FoundGpus(_model(rows[0][0]), len(rows), min(int(mib) for _, mib in rows), cpus, numa, nics)


def _nvidia_places(topology: str, count: int) -> tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]:
    """CPUs, NUMA domain and adapter of each GPU, from the table of `nvidia-smi topo -m`; empty where it tells none."""
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", line).split("\t") for line in topology.splitlines()]
    header = next(([cell.strip() for cell in row] for row in rows if any("CPU Affinity" in cell for cell in row)), [])
    legend = dict(re.findall(r"^\s*(NIC\d+):\s*(\S+)", topology, re.MULTILINE))
    gpus = [[cell.strip() for cell in row] for row in rows if re.fullmatch(r"GPU\d+", row[0].strip())]
    if not header or len(gpus) != count:
        return (), (), ()
    cells = [dict(zip(header, row, strict=False)) for row in gpus]
    cpus = tuple(row.get("CPU Affinity", "") for row in cells)
    numa = tuple(row.get("NUMA Affinity", "") for row in cells)
    near = [
        next((legend.get(name, name) for name, how in row.items() if how in NEXT_TO and not name.startswith("GPU")), "")
        for row in cells
    ]
    return (
        cpus if all(re.fullmatch(r"[\d,-]+", text) for text in cpus) else (),
        tuple(map(int, numa)) if all(text.isdecimal() for text in numa) else (),
        tuple(near) if all(near) else (),
    )


def _amd(seen: Seen, numa_cpus: dict[int, str]) -> FoundGpus | None:
    """rocm-smi --json: a map of cards; each GCD of an MI250X is one."""
    try:
        cards = json.loads(seen["rocm_smi"][seen["rocm_smi"].find("{") :] or "{}")
    except ValueError:
        return None
    found = [value for name, value in sorted(cards.items(), key=_number_in) if re.fullmatch(r"card\d+", name)]
    memory = [int(card.get("VRAM Total Memory (B)", 0)) // 2**20 for card in found]
    if not found or not all(memory):
        return None
    name = found[0].get("Card Series") or found[0].get("Card series") or found[0].get("Card model", "")
    numa = [str(card.get("(Topology) Numa Node", "")) for card in found]
    domains = tuple(map(int, numa)) if all(text.isdecimal() for text in numa) else ()
    alone = len(set(domains)) == len(found)  # GPUs that share a domain would share its cores
    cpus = tuple(numa_cpus.get(domain, "") for domain in domains) if alone else ()
    return FoundGpus(_model(name), len(found), min(memory), cpus if all(cpus) else (), domains)


def _number_in(item: tuple[str, Any]) -> int:
    return int(re.sub(r"\D", "", item[0]) or 0)


def _model(name: str) -> str:
    """Our name of the accelerator, where the table knows it by this one."""
    known = accelerator(name.strip())
    return known.model if known else re.sub(r"^(NVIDIA|AMD Instinct|AMD)\s+", "", name.strip())


# ---- the network -----------------------------------------------------------------------------------------------------


def _fabric(seen: Seen) -> FoundFabric | None:
    """The first of these that is there: InfiniBand, EFA, Omni-Path, RoCE, Slingshot, Ethernet."""
    adapters = {
        name: ports for name, ports in seen["adapters"].items() if "ACTIVE" in ports["state"] or not ports["state"]
    }
    named = [line.split() for line in seen["addresses"].splitlines()]
    up = tuple(dict.fromkeys(words[1] for words in named if len(words) > 3 and not words[1].startswith(VIRTUAL)))
    kinds = {name: _adapter_kind(name, ports) for name, ports in adapters.items()}
    for kind in ("infiniband", "efa", "omni-path", "roce"):
        names = tuple(name for name, found in kinds.items() if found == kind)
        if names:
            rate = _rate_of(adapters[names[0]]["rate"])
            return FoundFabric(kind, rate, _interfaces_of(kind, up), names if kind in ("infiniband", "roce") else ())
    slingshot = tuple(name for name in up if name.startswith("hsn"))
    if slingshot:
        return FoundFabric("slingshot", _speed(seen, slingshot[0]), slingshot)
    return FoundFabric("ethernet", _speed(seen, up[0]), up[:1]) if up else None


VIRTUAL = ("lo", "docker", "virbr", "veth", "br-", "cni", "flannel")
IPOIB = ("ib", "hib")


def _adapter_kind(name: str, ports: dict[str, str]) -> str:
    if name.startswith(("rdmap", "efa")):
        return "efa"
    if name.startswith("hfi"):
        return "omni-path"
    return "infiniband" if ports["link_layer"] == "InfiniBand" else "roce"


def _interfaces_of(kind: str, up: tuple[str, ...]) -> tuple[str, ...]:
    """Where NCCL meets: IP over InfiniBand where there is one, else the first interface with an address."""
    over = tuple(name for name in up if name.startswith(IPOIB)) if kind in ("infiniband", "omni-path") else ()
    return over[:1] or up[:1]


def _rate_of(text: str) -> float | None:
    """`200 Gb/sec (4X HDR)` -> 200.0."""
    matched = re.match(r"([\d.]+) Gb/sec", text)
    return float(matched[1]) if matched else None


def _speed(seen: Seen, name: str) -> float | None:
    """Of an interface; a virtual one's speed is a number that somebody made up."""
    interface = seen["interfaces"].get(name, {})
    speed = interface.get("speed", "")
    return int(speed) / 1000 if interface.get("driver") and speed.isdecimal() and int(speed) > 0 else None


# ---- files -----------------------------------------------------------------------------------------------------------


def _filesystems(seen: Seen) -> list[FoundFilesystem]:
    """Network filesystems, each once: those that a variable of the site leads to, the likeliest scratch first."""
    found = []
    for variable, folder in sorted(seen["places"].items(), key=_likelihood):
        mount, kind = _mount_of(folder, seen)
        if kind in NETWORK_FILESYSTEMS:
            found.append((mount, FoundFilesystem(NETWORK_FILESYSTEMS[kind], f"${variable}", variable)))
    for mount, kind in _mounts(seen):
        if kind in NETWORK_FILESYSTEMS:
            found.append((mount, FoundFilesystem(NETWORK_FILESYSTEMS[kind], mount, None)))
    return list(dict(reversed(found)).values())[::-1]


def _likelihood(item: tuple[str, str]) -> int:
    """Rank of a variable among those that lead to scratch; home comes last."""
    return next((rank for rank, word in enumerate(SCRATCH) if word in item[0]), len(SCRATCH))


def _mounts(seen: Seen) -> list[tuple[str, str]]:
    return [(words[1], words[2]) for words in (line.split() for line in seen["mounts"].splitlines()) if len(words) > 2]


def _mount_of(folder: str, seen: Seen) -> tuple[str, str]:
    """The mount that a folder lies on, and its kind."""
    above = [(mount, kind) for mount, kind in _mounts(seen) if f"{folder}/".startswith(f"{mount.rstrip('/')}/")]
    return max(above, key=lambda mount: len(mount[0]), default=("/", ""))
