"""Lint's doubts about nodes, GPUs and networks: figures that no such part reaches, names that no such part has."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpcllm.cluster.accelerators import Accelerator, accelerator
from hpcllm.cluster.fabric import Fabric
from hpcllm.cluster.lint.doubt import Doubt, error, warning
from hpcllm.cluster.nodes import Gpus, NodeType, core_numbers
from hpcllm.cluster.profile import Profile
from hpcllm.source import FieldPath
from hpcllm.units import format_bytes, format_bytes_per_s, format_flops_per_s

GIGABIT = 1e9 / 8
TERA = 1e12
ROUNDING = 1.1  # 80 GB against 80 GiB is 1.07
LEAST_MEMORY_OF_A_CORE = 256 * 2**20
MOST_MEMORY_OF_A_NODE = 64 * 2**40

# Rates that adapters of a kind have, one way, in Gb/s, and the fastest of them by name.
_RATES: dict[str, tuple[tuple[float, ...], str]] = {
    "infiniband": ((10, 20, 40, 56, 100, 200, 400, 800), "800 Gb/s (XDR; NDR has 400, HDR 200)"),
    "roce": ((10, 25, 40, 50, 100, 200, 400, 800), "800 Gb/s"),
    "ethernet": ((), "800 Gb/s"),
    "slingshot": ((100, 200), "200 Gb/s (Slingshot 11)"),
    "efa": ((100, 200, 400), "400 Gb/s (100 on P4d and P5)"),
    "omni-path": ((100, 400), "400 Gb/s (100 before CN5000)"),
    "tcpx": ((200,), "200 Gb/s"),
    "tcpxo": ((200,), "200 Gb/s"),
}
_FASTEST = {"ethernet": 800.0}
_EFA_OF_A100_AND_H100 = 100.0  # P4d and P5

# What names of interfaces and adapters begin with, and the kinds of fabric that have them.
_NAMES = {
    "ib": ("infiniband", "omni-path"),
    "opa": ("omni-path",),
    "hfi1_": ("omni-path",),
    "hsn": ("slingshot",),
    "cxi": ("slingshot",),
    "mlx": ("infiniband", "roce"),
    "rdmap": ("efa",),
    "efa": ("efa",),
}


def doubts(profile: Profile) -> Iterator[Doubt]:
    """Of all node types and all networks."""
    for name, node in profile.nodes.items():
        here: FieldPath = ("nodes", name)
        yield from _node(here, node)
        if node.fabric:
            yield from _fabric((*here, "fabric"), node.fabric, (node,))
        if node.gpus:
            own = node.fabric or profile.fabric
            yield from _gpus((*here, "gpus"), node.gpus, node)
            yield from _nics((*here, "gpus", "nics"), node.gpus, own)
            yield from _network_and_link((*here, "fabric") if node.fabric else ("fabric",), node.gpus, own)
    yield from _fabric(("fabric",), profile.fabric, tuple(node for node in profile.nodes.values() if not node.fabric))


# ---- nodes -----------------------------------------------------------------------------------------------------------


def _node(here: FieldPath, node: NodeType) -> Iterator[Doubt]:
    for key in ("sockets", "numa_domains"):
        parts = getattr(node, key)
        if node.cores % parts:
            yield warning((*here, "cores"), f"found {node.cores}, which {parts} {key} cannot share evenly")
    if node.numa_domains % node.sockets and node.sockets % node.numa_domains:
        yield warning((*here, "numa_domains"), f"found {node.numa_domains} for {node.sockets} sockets")
    memory = node.memory_bytes
    if memory and (memory / node.cores < LEAST_MEMORY_OF_A_CORE or memory > MOST_MEMORY_OF_A_NODE):
        what = f"found {format_bytes(memory)} for {node.cores} cores; is it M, G or T, and of the whole node?"
        yield warning((*here, "memory"), what)
    scratch = node.local_scratch
    if scratch and scratch.kind == "memory" and scratch.size_bytes and memory and scratch.size_bytes > memory:
        yield error((*here, "local_scratch", "size"), f"in memory, and larger than the node's {format_bytes(memory)}")


# ---- GPUs ------------------------------------------------------------------------------------------------------------


def _gpus(here: FieldPath, gpus: Gpus, node: NodeType) -> Iterator[Doubt]:
    facts = accelerator(gpus.model)
    yield from _gpu_memory((*here, "memory"), gpus, facts)
    if facts:
        yield from _speeds(here, gpus, facts)
    yield from _cpus((*here, "cpus"), gpus, node)
    beyond = [number for number in gpus.numa if number >= node.numa_domains]
    if beyond and node.numa_domains > 1:
        yield warning(
            (*here, "numa"), f"found domain {beyond[0]}; numa_domains: {node.numa_domains} are numbered from 0"
        )


def _gpu_memory(here: FieldPath, gpus: Gpus, facts: Accelerator | None) -> Iterator[Doubt]:
    """Against the model's, or where the model is not in the table, against the figure in its name."""
    named = re.search(r"(\d+)\s?GB", gpus.model)
    expected = facts.memory_bytes if facts else int(named[1]) * 10**9 if named else None
    if gpus.memory_bytes and expected and not 1 / ROUNDING < gpus.memory_bytes / expected < ROUNDING:
        found = f"found {gpus.memory_bytes / 1e9:.3g} GB; one {gpus.model} has {expected / 1e9:.0f} GB"
        yield error(here, f"{found}; this is of one GPU" if gpus.memory_bytes > expected else found)


def _speeds(here: FieldPath, gpus: Gpus, facts: Accelerator) -> Iterator[Doubt]:
    link, most = gpus.link_bytes_per_s, facts.link_bytes_per_s
    if link and most and link > most * ROUNDING:
        both = "; both ways together? `link` is one way" if link <= 2 * most * ROUNDING else ""
        yield error(
            (*here, "link"), f"found {format_bytes_per_s(link)}; {facts.model} has {format_bytes_per_s(most)}{both}"
        )
    if gpus.flops_per_s and gpus.flops_per_s > facts.peak_flops_per_s:
        peak = format_flops_per_s(facts.peak_flops_per_s)
        yield error(
            (*here, "flops"), f"found {format_flops_per_s(gpus.flops_per_s)}; the peak of {facts.model} is {peak}"
        )


def _cpus(here: FieldPath, gpus: Gpus, node: NodeType) -> Iterator[Doubt]:
    """Numbers may reach beyond the usable cores where a system keeps some for itself, but not far."""
    lists = [set(core_numbers(ranges)) for ranges in gpus.cpus]
    listed, usable = set().union(*lists), node.cores * node.threads_per_core
    if not listed:
        return
    if len(listed) > usable:
        what = f"found {len(listed)} CPUs; {node.cores} cores × {node.threads_per_core} threads are {usable}"
        yield error(here, what)
    for i, numbers in enumerate(lists):
        if max(numbers) >= 1.25 * usable and len(listed) <= usable:
            yield error((*here, i), f"found CPU {max(numbers)}; a node of {usable} CPUs numbers them from 0")
    if len(listed) < node.cores:
        yield warning(
            here, f"{node.cores - len(listed)} of the node's {node.cores} cores stand next to no GPU, and idle"
        )
    if len({len(numbers) for numbers in lists}) > 1:
        yield warning(here, "some GPUs have more CPUs than others; ranks are alike, and take the least")


def _nics(here: FieldPath, gpus: Gpus, fabric: Fabric) -> Iterator[Doubt]:
    known = {*fabric.hcas, *fabric.interfaces, *fabric.gpu_interfaces}
    known |= {name.replace("hsn", "cxi") for name in known}
    for i, nic in enumerate(gpus.nics):
        elsewhere = _foreign(nic, fabric.kind)
        if elsewhere:
            yield error((*here, i), elsewhere)
        elif fabric.hcas and nic not in known:
            yield warning((*here, i), f"found {nic}, which is not among fabric.hcas: {', '.join(fabric.hcas)}")


# ---- networks --------------------------------------------------------------------------------------------------------


def _fabric(here: FieldPath, fabric: Fabric, nodes: tuple[NodeType, ...]) -> Iterator[Doubt]:
    yield from _rate((*here, "rate"), fabric, nodes)
    for key in ("interfaces", "hcas", "gpu_interfaces"):
        for i, name in enumerate(getattr(fabric, key)):
            elsewhere = _foreign(name, fabric.kind)
            if elsewhere:
                yield error((*here, key, i), elsewhere)
    adapters = "gpu_interfaces" if fabric.kind in ("tcpx", "tcpxo") else "hcas"
    named = getattr(fabric, adapters)
    if named and len(named) != fabric.rails:
        yield warning((*here, adapters), f"found {len(named)} for {fabric.rails} rails")
    if fabric.kind == "slingshot" and len(fabric.interfaces) > fabric.rails:
        yield warning((*here, "interfaces"), f"found {len(fabric.interfaces)} for {fabric.rails} rails")
    if fabric.gpu_interfaces and fabric.kind not in ("tcpx", "tcpxo"):
        yield warning((*here, "gpu_interfaces"), f"read for tcpx and tcpxo alone, and this is {fabric.kind}")
    for key in ("gid_index", "traffic_class"):
        if getattr(fabric, key) is not None and fabric.kind != "roce":
            yield warning((*here, key), f"read for RoCE alone, and this is {fabric.kind}")


def _rate(here: FieldPath, fabric: Fabric, nodes: tuple[NodeType, ...]) -> Iterator[Doubt]:
    if not fabric.rate_bytes_per_s or fabric.kind not in _RATES:
        return
    rate, (rates, fastest) = fabric.rate_bytes_per_s / GIGABIT, _RATES[fabric.kind]
    models = {node.gpus.model[:4] for node in nodes if node.gpus}
    known = tuple(r for r in rates if fabric.kind != "efa" or models - {"A100", "H100"} or r <= _EFA_OF_A100_AND_H100)
    most = max(known, default=_FASTEST.get(fabric.kind, 0.0))
    found = f"found {rate:g} Gb/s a rail, one way"
    if rate > most * 1.01:
        yield error(here, f"{found}; the fastest {fabric.kind} adapter has {fastest}{_slip(rate, known)}")
    elif known and not any(abs(rate - r) <= 0.1 * r for r in known):
        rows = ", ".join(f"{r:g}" for r in known)
        yield warning(here, f"{found}; {fabric.kind} adapters have {rows} Gb/s{_slip(rate, known)}")


def _slip(rate: float, rates: tuple[float, ...]) -> str:
    """Bits for bytes, or bytes for bits, where that makes a rate that exists."""
    for meant, written in ((rate / 8, f"{rate / 8:g}Gb/s"), (rate * 8, f"{rate:g}GB/s")):
        if any(abs(meant - r) <= 0.01 * r for r in (*rates, 800) if r >= 100):
            return f"; did you mean {written}? b is bits, B is bytes"
    return ""


def _foreign(name: str, kind: str) -> str:
    """Why an interface or adapter cannot be one of this fabric; nothing for one that can."""
    kinds = next((kinds for prefix, kinds in _NAMES.items() if re.match(rf"{prefix}[a-z]*\d", name)), (kind,))
    return "" if kind in kinds else f"found {name}, which is one of {' or '.join(kinds)}; this fabric is {kind}"


def _network_and_link(here: FieldPath, gpus: Gpus, fabric: Fabric) -> Iterator[Doubt]:
    """All rails of a node together are no faster than one GPU's way to its neighbours, where that is NVLink."""
    facts, rate = accelerator(gpus.model), fabric.rate_bytes_per_s
    if facts and facts.link_bytes_per_s and rate and facts.link_bytes_per_s >= 100e9:
        together = rate * fabric.rails
        if together > ROUNDING * facts.link_bytes_per_s:
            link = format_bytes_per_s(facts.link_bytes_per_s)
            what = f"{fabric.rails} of {format_bytes_per_s(rate)} each outrun NVLink, {link}"
            yield warning((*here, "rails"), f"{what}; is `rate` of one rail, and in bits?")
