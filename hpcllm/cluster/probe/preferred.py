"""A profile whose stated figures give way to the measured ones, each with the key and the day of its measurement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from hpcllm.cluster.measured import Measured
from hpcllm.cluster.profile import Profile
from hpcllm.units import yaml_key

Path = tuple[str, ...]  # of fields and names, from the top of a record


def preferring_measured(profile: Profile) -> tuple[Profile, Mapping[str, str]]:
    """The profile with what `profile probe` measured in place of what was stated.

    Also, by the key of each figure that gave way, what stands there now: `measured.fabric.rate (2026-11-24)`.
    """
    keys: dict[str, str] = {}
    found = profile.measured
    for stated, measured in pairs(profile) if found else ():
        value = value_at(found, measured)
        if found and value is not None and value_at(profile, stated[:-1]) is not None:
            profile = _replaced(profile, stated, value)
            keys[key_of(stated)] = f"measured.{key_of(measured)} ({day_of(found, measured)})"
    return profile, keys


def pairs(profile: Profile) -> Iterator[tuple[Path, Path]]:
    """Where a profile states what a probe measures, and where that stands in `measured:`."""
    for name in profile.nodes:
        for field in ("flops_per_s", "memory_rate_bytes_per_s"):
            yield ("nodes", name, field), ("nodes", name, field)
        yield ("nodes", name, "gpus", "flops_per_s"), ("nodes", name, "gpu_flops_per_s")
    for at in (("fabric",), *(("nodes", name, "fabric") for name in profile.nodes)):
        for field in ("rate_bytes_per_s", "latency_s"):
            yield (*at, field), (*at, field)
    for name in profile.filesystems:
        for field in ("write_bytes_per_s", "read_bytes_per_s"):
            yield ("filesystems", name, field), ("filesystems", name, field)


def value_at(record: Any, path: Path) -> Any:
    """The value at a path; None where it, or something on the way, is left out."""
    for step in path:
        record = record.get(step) if isinstance(record, dict) else getattr(record, step, None)
    return record


def key_of(path: Path) -> str:
    """As the file has it: `fabric.rate`."""
    name = path[-1].removesuffix("_per_s") if path[-1].endswith("flops_per_s") else yaml_key(path[-1])
    return ".".join((*path[:-1], name))


def _replaced(record: Any, path: Path, value: Any) -> Any:
    step, rest = path[0], path[1:]
    inner = _replaced(value_at(record, (step,)), rest, value) if rest else value
    return {**record, step: inner} if isinstance(record, dict) else record.model_copy(update={step: inner})


def day_of(found: Measured, path: Path) -> date:
    """Of a figure at a path: that of the part that it stands in, where a later probe was of others."""
    days = [value_at(found, (*path[:end], "date")) for end in range(len(path) - 1, -1, -1)]
    return next(day for day in days if isinstance(day, date))
