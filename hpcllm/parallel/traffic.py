"""Which IP interface carries MPI's messages: by the kernel's counters, which a fabric of its own passes by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

COUNTERS = Path("/proc/self/net/dev")  # of this process's network namespace
SURE_SHARE = 0.5  # of what was sent, from which on an interface has carried it
_SENT = 8  # column: bytes sent, after eight of what was received (man proc)


def sent_bytes(counters: Path = COUNTERS) -> dict[str, int]:
    """By interface, since the machine started; without the loopback. Empty where the kernel does not say."""
    try:
        lines = counters.read_text().splitlines()[2:]
    except OSError:
        return {}
    rows = {name.strip(): values.split() for name, _, values in (line.partition(":") for line in lines)}
    return {name: int(values[_SENT]) for name, values in rows.items() if name != "lo" and len(values) > _SENT}


def carrier(before: Mapping[str, int], after: Mapping[str, int], num_bytes: int) -> str:
    """The interface that sent most of so many bytes meanwhile; empty where none did."""
    grown = {name: after[name] - before.get(name, after[name]) for name in after}
    name = max(grown, key=lambda name: grown[name], default="")
    return name if name and num_bytes and grown[name] >= SURE_SHARE * num_bytes else ""
