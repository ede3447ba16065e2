"""The links between nodes as a table, nodes by nodes, the slow ones marked: for logs and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hpcllm.cluster.probe.found import SLOW_SHARE

SHOWN_NODES = 16
_UNITS = ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"))


@dataclass(frozen=True)
class Cell:
    """One pair of nodes."""

    text: str
    """In the matrix' unit; `·` of a node with itself, empty where nobody measured."""
    slow: bool = False
    """Below half of the median of all links."""


@dataclass(frozen=True)
class LinkMatrix:
    """Rates between nodes, each way."""

    unit: str
    hosts: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    """A row for each host, a cell for each partner."""
    hidden: int = 0
    """Nodes that are left out; those shown are the slowest."""

    def lines(self) -> list[str]:
        """For a log; a slow link has a star."""
        width = max(7, *(len(host) + 1 for host in self.hosts))
        head = f"{self.unit:<{width}}" + "".join(f"{host:>{width}} " for host in self.hosts)
        rows = [
            f"{host:<{width}}" + "".join(f"{cell.text:>{width}}{'*' if cell.slow else ' '}" for cell in row)
            for host, row in zip(self.hosts, self.rows, strict=True)
        ]
        return [line.rstrip() for line in (head, *rows, *self.notes())]

    def notes(self) -> list[str]:
        """What the table does not say by itself."""
        starred = any(cell.slow for row in self.rows for cell in row)
        return [
            *(["* below half of the median of all links"] if starred else []),
            *([f"the slowest {len(self.hosts)} nodes; {self.hidden} more are not shown"] if self.hidden else []),
        ]


def link_matrix(links: Mapping[tuple[str, str], float]) -> LinkMatrix | None:
    """From bytes a second of each pair of hosts; None where there is no pair."""
    if not links:
        return None
    usual = median(links.values())
    scale, unit = next((row for row in _UNITS if usual >= row[0]), _UNITS[-1])
    both_ways = {**links, **{(b, a): rate for (a, b), rate in links.items()}}

    def cell(one: str, other: str) -> Cell:
        rate = both_ways.get((one, other))
        if rate is None:
            return Cell("·" if one == other else "")
        return Cell(f"{rate / scale:.3g}" if rate < 1000 * scale else f"{rate / scale:.0f}", rate < SLOW_SHARE * usual)

    shown, hidden = _shown(both_ways)
    return LinkMatrix(unit, shown, tuple(tuple(cell(one, other) for other in shown) for one in shown), hidden)


def _shown(links: Mapping[tuple[str, str], float]) -> tuple[tuple[str, ...], int]:
    """All hosts in their order, or of too many the slowest."""
    hosts = list(dict.fromkeys(host for pair in links for host in pair))
    best = {host: max(rate for (one, _), rate in links.items() if one == host) for host in hosts}
    slowest: Sequence[str] = sorted(hosts, key=lambda host: best[host])[:SHOWN_NODES]
    return tuple(host for host in hosts if host in slowest), max(0, len(hosts) - SHOWN_NODES)
