"""Each figure of a probe: its verdict's key, and its place in `measured:`, where an earlier one may stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hpcllm.cluster.measured import Measured
from hpcllm.cluster.probe.found import Probed
from hpcllm.cluster.probe.preferred import Path, key_of, value_at
from hpcllm.cluster.profile import Profile
from hpcllm.units import format_bytes_per_s, format_flops_per_s, format_seconds

KEPT_SHARE = 0.8  # of an earlier figure; two probes of a healthy cluster are closer


@dataclass(frozen=True)
class Figure:
    """One number."""

    key: str
    """Of its verdict."""
    part: Path
    """Of `measured:`: ("nodes", "a100")."""
    field: str
    value: float

    @property
    def name(self) -> str:
        """Its key in the file."""
        return key_of((self.field,))

    def shown(self, value: float) -> str:
        """A value of this figure, with its unit."""
        if self.field.endswith("flops_per_s"):
            return format_flops_per_s(value)
        return format_bytes_per_s(value) if self.field.endswith("_per_s") else format_seconds(value)

    def fell_from(self, measured: Measured) -> float | None:
        """What an earlier probe measured, where that was well better; else None."""
        earlier = value_at(measured, (*self.part, self.field))
        better, worse = (earlier, self.value) if self.field.endswith("_per_s") else (self.value, earlier)
        return earlier if earlier and worse < KEPT_SHARE * better else None


def figures(profile: Profile, probed: Probed) -> list[Figure]:
    """All that were measured, in the order of the file."""
    rows = (*_of_node(probed), *_of_fabric(profile, probed), *_of_files(probed))
    return [Figure(key, part, field, value) for key, part, field, value in rows if value]


def fabric_part(profile: Profile, probed: Probed) -> Path:
    """Where the network of the probed nodes stands: `fabric`, or in their kind of nodes."""
    _, key = profile.fabric_of(probed.partition)
    return ("fabric",) if key == "fabric" else ("nodes", probed.node_type, "fabric")


Row = tuple[str, Path, str, float | None]


def _of_node(probed: Probed) -> Iterator[Row]:
    part, at = ("nodes", probed.node_type), f"nodes.{probed.node_type}"
    for key, field in (
        (f"{at}.flops", "flops_per_s"),
        (f"{at}.gpus.flops", "gpu_flops_per_s"),
        (f"{at}.gpus memory rate", "gpu_memory_rate_bytes_per_s"),
        (f"{at}.memory_rate", "memory_rate_bytes_per_s"),
        (f"{at} all-reduce", "all_reduce_bytes_per_s"),
    ):
        yield key, part, field, probed.lowest(field)
    yield f"{at}.gpus.link", part, "gpu_all_reduce_bytes_per_s", probed.gpu_all_reduce_inside_bytes_per_s


def _of_fabric(profile: Profile, probed: Probed) -> Iterator[Row]:
    """Nothing of one node. An all-reduce is as fast as its slowest node, and so says nothing of the others."""
    if len(probed.nodes) < 2:
        return
    part = fabric_part(profile, probed)
    at = ".".join(part)
    slow = probed.slow_hosts("link_bytes_per_s")
    yield f"{at}.rate", part, "rate_bytes_per_s", probed.rate_bytes_per_s()
    yield f"{at} all-reduce", part, "all_reduce_bytes_per_s", None if slow else probed.all_reduce_bytes_per_s
    yield f"{at} all-reduce of GPUs", part, "gpu_all_reduce_bytes_per_s", probed.gpu_all_reduce_bytes_per_s
    yield f"{at}.latency", part, "latency_s", probed.latency_s


def _of_files(probed: Probed) -> Iterator[Row]:
    """Nothing where the run lay on no filesystem of the profile's."""
    for field, rate in probed.files.items() if probed.filesystem else ():
        name = key_of((field,))
        what = f" HDF5 {name.removeprefix('hdf5_')}" if name.startswith("hdf5_") else f".{name}"
        yield f"filesystems.{probed.filesystem}{what}", ("filesystems", str(probed.filesystem)), field, rate
