"""What the links between nodes reach, and whether that is what they should. Pure: measured rates in, findings out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hpcllm.cluster.probe.found import SLOW_SHARE, TCP_FABRICS
from hpcllm.parallel.expected import Expected
from hpcllm.parallel.finding import Finding, error, warning
from hpcllm.units import format_bytes_per_s

RATE_FLOOR = 0.3  # of one rail's rate in the profile; TCP in place of InfiniBand reaches less
TCP_SHARE = 0.1  # of a rail, below which it is hardly anything else
COUNTED_AS_IP = ("roce",)  # fabrics whose adapters may count what bypasses the kernel in the interface's own counters


@dataclass(frozen=True)
class Link:
    """What one pair of nodes reached, both ways at once, each way."""

    nodes: tuple[int, int]
    bytes_per_s: float
    latency_s: float | None = None
    """Of a small message, one way."""


def best_rates(links: Sequence[Link]) -> dict[int, float]:
    """What each node reached with its best partner: a node is slow when all its links are, a partner's only one."""
    rates: dict[int, float] = defaultdict(float)
    for link in links:
        for node in link.nodes:
            rates[node] = max(rates[node], link.bytes_per_s)
    return dict(rates)


def check_links(
    links: Sequence[Link], hosts: Sequence[str], asked: Expected, carriers: Sequence[str] = ()
) -> list[Finding]:
    """No node far below the others, and the fabric as fast as the profile says.

    From three nodes on a slow one is told from its partners. Of two nodes only the profile tells that the link is slow.
    A node that reaches all that the profile promises is not slow, however fast its partners were at that moment.
    `carriers` is the IP interface of each node that carried the messages, as its counters say; empty: none did.
    """
    rates = best_rates(links)
    if not rates:
        return []
    floor = RATE_FLOOR * (asked.rate_bytes_per_s or 0.0)
    usual = median(rates.values())
    if usual < floor:
        return [_slow_fabric(list(rates), usual, hosts, asked, carriers)]
    enough = asked.rate_bytes_per_s or math.inf
    found = []
    for node, rate in sorted(rates.items()):
        others = _others(rates, node)
        if rate < min(enough, max(floor, SLOW_SHARE * others)):
            found.append(_slow_node(hosts[node], rate, others))
    return [*found, *_other_carrier(hosts, asked, carriers)]


def _others(rates: Mapping[int, float], node: int) -> float:
    return median(rate for other, rate in rates.items() if other != node)


def _slow_node(host: str, rate: float, others: float) -> Finding:
    return error(
        "links",
        f"{host} is slow: {format_bytes_per_s(rate)} with its best partner; the other nodes reach "
        f"{format_bytes_per_s(others)}",
        "its adapter, cable or switch port, or another program on the node",
        f"leave it out (sbatch --exclude={host}) and tell the admins",
        (host,),
    )


def _slow_fabric(
    nodes: Sequence[int], rate: float, hosts: Sequence[str], asked: Expected, carriers: Sequence[str]
) -> Finding:
    assert asked.rate_bytes_per_s is not None
    between = f"between {hosts[nodes[0]]} and {hosts[nodes[1]]}" if len(nodes) == 2 else "between the nodes"
    one_slow = "one of the two has a slow link, or " if len(nodes) == 2 else ""
    return error(
        "links",
        f"{format_bytes_per_s(rate)} {between}; a rail does {format_bytes_per_s(asked.rate_bytes_per_s)} "
        f"({asked.rate_key})",
        f"{one_slow}{_other_network(rate, asked, carriers)}",
        "see which network MPI uses (UCX_LOG_LEVEL=info, FI_LOG_LEVEL=info) and what the profile says under fabric, "
        "or try other nodes",
    )


def _other_network(rate: float, asked: Expected, carriers: Sequence[str]) -> str:
    """TCP reaches a tenth of a fast fabric or less; a fabric that is TCP has none to fall back from."""
    names = sorted(set(filter(None, carriers)))
    by = f" by {', '.join(names)}, whose counters show the messages" if names else ""
    if asked.fabric in TCP_FABRICS:
        return f"MPI goes over another, slower interface{by}"
    sure = " (an order of magnitude below)" if rate < TCP_SHARE * (asked.rate_bytes_per_s or 0) else ""
    return f"MPI goes over TCP in place of {asked.fabric}{by or sure}"


def _other_carrier(hosts: Sequence[str], asked: Expected, carriers: Sequence[str]) -> list[Finding]:
    """Fast enough, and yet not over the network that the profile names."""
    falls_back = asked.fabric not in (*TCP_FABRICS, *COUNTED_AS_IP)
    stated = [name for key, name in asked.names if key.endswith(".interfaces")]
    wrong = {
        host: name for host, name in zip(hosts, carriers, strict=False) if name and (falls_back or name not in stated)
    }
    if not wrong or not stated:
        return []
    host, name = next(iter(wrong.items()))
    over = f"TCP in place of {asked.fabric}" if falls_back else f"another interface than {', '.join(stated)}"
    cause = "the library was built without this fabric, or FI_PROVIDER, UCX_TLS or a setting of Open MPI says so"
    action = "see which networks it knows (fi_info, ucx_info -d), and what the profile says under fabric"
    more = f" (and of {len(wrong) - 1} more nodes)" if len(wrong) > 1 else ""
    return [
        warning(
            "links", f"MPI goes over {over}: the counters of {name} on {host}{more} show the messages", cause, action
        )
    ]
