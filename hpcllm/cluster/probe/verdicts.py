"""Measured against stated: a verdict a line. Generous, since a probe is short and a cluster is busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hpcllm.cluster.accelerators import accelerator
from hpcllm.cluster.measured import Measured
from hpcllm.cluster.nodes import Gpus
from hpcllm.cluster.probe.figures import fabric_part, figures
from hpcllm.cluster.probe.found import BROKEN_SHARE, CLOCK_SKEW_S, SLOW_SHARE, TCP_FABRICS, Probed, others
from hpcllm.cluster.probe.preferred import day_of
from hpcllm.cluster.profile import Profile
from hpcllm.units import format_bytes_per_s, format_flops_per_s, format_seconds

Word = Literal["ok", "slow", "broken", "not stated"]
Format = Callable[[float], str]

WORST: tuple[Word, ...] = ("broken", "slow", "ok", "not stated")

# What preflight checks, by the line that it belongs to, and what that line says where nothing was found.
CONTRACT = (
    ("MPI", ("ranks", "nodes", "software", "MPI library", "all-reduce"), "one world, one software, right sums"),
    ("binding", ("binding",), ""),
    ("interfaces", ("interfaces",), "every name is there on every node"),
    ("GPUs", ("GPUs",), "as many as stated on every node"),
    ("NCCL", ("NCCL",), "every GPU reaches every other"),
    ("HDF5 locks", ("HDF5",), "work as they are set"),
)


@dataclass(frozen=True)
class Verdict:
    """One line."""

    key: str
    """Of the profile, where it states what was measured."""
    measured: str
    stated: str
    word: Word
    note: str = ""
    """Which nodes, which name, what it may mean."""
    believed: bool = True
    """Whether the figure is worth keeping: not broken by itself, whatever one of the nodes is, nor spoilt by one."""


def verdicts(profile: Profile, probed: Probed, earlier: Measured | None = None) -> list[Verdict]:
    """Every line: the contract of MPI first, then the figures, held against those of an `earlier` probe too."""
    node, at = profile.nodes[probed.node_type], f"nodes.{probed.node_type}"
    gpus, fabric_at = node.gpus, ".".join(fabric_part(profile, probed))
    rows = [
        *_contract(profile, probed),
        _of_nodes(probed, f"{at}.flops", "flops_per_s", node.flops_per_s, format_flops_per_s),
        _of_nodes(probed, f"{at}.gpus.flops", "gpu_flops_per_s", _gpu_flops(gpus), format_flops_per_s),
        _of_nodes(probed, f"{at}.gpus memory rate", "gpu_memory_rate_bytes_per_s", _gpu_memory(gpus)),
        _of_nodes(probed, f"{at}.memory_rate", "memory_rate_bytes_per_s", node.memory_rate_bytes_per_s),
        _of_nodes(probed, f"{at} all-reduce", "all_reduce_bytes_per_s", None),
        _figure(f"{at}.gpus.link", probed.gpu_all_reduce_inside_bytes_per_s, gpus.link_bytes_per_s if gpus else None),
        *_fabric(profile, probed, fabric_at),
        *_files(profile, probed),
    ]
    lines = _without_names([row for row in rows if row], fabric_at)
    return _against_earlier(lines, profile, probed, earlier) if earlier and probed.slow else lines


def worst(found: Sequence[Verdict]) -> Word:
    """The verdict on all."""
    return min((verdict.word for verdict in found), key=WORST.index, default="ok")


def judge(measured: float, stated: float | None) -> Word:
    """Of a speed: slow below half of what was stated, broken below a tenth."""
    if not stated:
        return "not stated"
    share = measured / stated
    return "broken" if share < BROKEN_SHARE else "slow" if share < SLOW_SHARE else "ok"


# ---- the lines -------------------------------------------------------------------------------------------------------


def _contract(profile: Profile, probed: Probed) -> Iterator[Verdict]:
    first = probed.nodes[0].host
    cores = " | ".join(cpus for host, cpus in probed.binding if host == first)
    known = {
        "MPI": f"{probed.world_size} ranks on {len(probed.nodes)} nodes; {probed.library}",
        "binding": f"{first}: {cores}",
    }
    for name, checks, fine in CONTRACT:
        if name in ("GPUs", "NCCL") and not profile.nodes[probed.node_type].gpus:
            continue
        found = [finding for finding in probed.findings if finding["check"] in checks]
        words: list[Word] = ["broken" if finding["severity"] == "error" else "slow" for finding in found]
        note = "; ".join(f"{finding['what']} ({finding['cause']})" for finding in found)
        said = known.get(name, "" if found else fine)
        yield Verdict(name, said, "", min(words, key=WORST.index, default="ok"), note)
    skew = probed.clock_skew_s
    offsets = {node.host: node.clock_offset_s for node in probed.nodes}
    off = [f"{host} by {format_seconds(abs(t))}" for host, t in offsets.items() if abs(t) > CLOCK_SKEW_S]
    note = f"{', '.join(off)}, against {probed.nodes[0].host}" if off else ""
    yield Verdict("clocks", f"{format_seconds(skew)} apart", "", "broken" if skew > CLOCK_SKEW_S else "ok", note)


def _fabric(profile: Profile, probed: Probed, at: str) -> Iterator[Verdict | None]:
    fabric, _ = profile.fabric_of(probed.partition)
    if len(probed.nodes) < 2:
        return
    rate = probed.rate_bytes_per_s()
    link = _of_nodes(probed, f"{at}.rate", "link_bytes_per_s", fabric.rate_bytes_per_s, value=rate)
    latency = probed.latency_s and 1 / probed.latency_s
    wait = _figure(f"{at}.latency", latency, fabric.latency_s and 1 / fabric.latency_s, lambda x: format_seconds(1 / x))
    for verdict in (link, wait):
        tcp = verdict and verdict.word == "broken" and fabric.kind not in TCP_FABRICS
        why = f"an order of magnitude off: MPI goes over TCP in place of {fabric.kind}"
        yield _noted(verdict, why) if verdict and tcp else verdict
    yield _figure(f"{at} all-reduce", probed.all_reduce_bytes_per_s, None)
    yield _figure(f"{at} all-reduce of GPUs", probed.gpu_all_reduce_bytes_per_s, None)


def _files(profile: Profile, probed: Probed) -> Iterator[Verdict | None]:
    if probed.filesystem is None:
        note = "the run lies on none of the profile's filesystems: give --out a path on one, to have it measured"
        yield Verdict("filesystems", "", "", "not stated", note)
    stated = profile.filesystems.get(probed.filesystem or "")
    at = f"filesystems.{probed.filesystem}" if probed.filesystem else "files"
    rows = (
        ("write", "write", stated.write_bytes_per_s if stated else None),
        ("read", "read", stated.read_bytes_per_s if stated else None),
        ("hdf5_write", "HDF5 write", None),
        ("hdf5_read", "HDF5 read", None),
    )
    for name, what, promised in rows:
        key = f"{at}.{name}" if what == name else f"{at} {what}"
        verdict = _figure(key, probed.files.get(f"{name}_bytes_per_s"), promised)
        few = verdict and verdict.word in ("slow", "broken")
        yield (
            _noted(verdict, f"{len(probed.nodes)} nodes may not fill it: --nodes more") if verdict and few else verdict
        )


def _without_names(found: list[Verdict], fabric_at: str) -> list[Verdict]:
    """Where an interface is named that is not there, nobody knows over which one the messages went."""
    if not any(verdict.key == "interfaces" and verdict.word == "broken" for verdict in found):
        return found
    note = "not written: over which interface this went is open until the names are right"
    return [
        replace(_noted(verdict, note), believed=False) if verdict.key.startswith(fabric_at) else verdict
        for verdict in found
    ]


def _against_earlier(found: list[Verdict], profile: Profile, probed: Probed, earlier: Measured) -> list[Verdict]:
    """While a node is slow, a figure well below that of an earlier probe is the slow node's doing."""
    fell = {figure.key: (figure, figure.fell_from(earlier)) for figure in figures(profile, probed)}
    lines = []
    for verdict in found:
        figure, before = fell.get(verdict.key, (None, None))
        if figure and before:
            day = day_of(earlier, (*figure.part, figure.field))
            note = f"earlier {figure.shown(before)} on {day}, which stays: a node is slow"
            verdict = replace(_noted(verdict, note, "slow"), believed=False)
        lines.append(verdict)
    return lines


def _figure(
    key: str, measured: float | None, stated: float | None, shown: Format = format_bytes_per_s
) -> Verdict | None:
    if measured is None:
        return None
    word = judge(measured, stated)
    return Verdict(key, shown(measured), shown(stated) if stated else "", word, believed=word != "broken")


def _of_nodes(
    probed: Probed,
    key: str,
    figure: str,
    stated: float | None,
    shown: Format = format_bytes_per_s,
    value: float | None = None,
) -> Verdict | None:
    """Of the slowest node, but for those far below the others, which are named."""
    verdict = _figure(key, probed.lowest(figure) if value is None else value, stated, shown)
    reached = {node.host: getattr(node, figure) for node in probed.nodes if getattr(node, figure) is not None}
    for host in probed.slow_hosts(figure):
        mine, theirs = reached[host], others(reached, host)
        note = f"{host} is {judge(mine, theirs)}: {shown(mine)}; the other nodes reach {shown(theirs)}"
        verdict = verdict and _noted(verdict, note, judge(mine, theirs))
    return verdict


def _noted(verdict: Verdict, note: str, word: Word = "ok") -> Verdict:
    """The verdict with one more note, and as bad as that."""
    notes = "; ".join(filter(None, [verdict.note, note]))
    return replace(verdict, word=min(verdict.word, word, key=WORST.index), note=notes)


def _gpu_flops(gpus: Gpus | None) -> float | None:
    row = accelerator(gpus.model) if gpus else None
    known = (row.matmul_flops_per_s or row.peak_flops_per_s) if row else None
    return (gpus.flops_per_s if gpus else None) or known


def _gpu_memory(gpus: Gpus | None) -> float | None:
    row = accelerator(gpus.model) if gpus else None
    return row.memory_bytes_per_s if row else None
