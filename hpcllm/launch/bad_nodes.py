"""Nodes that a run leaves out, because one of its attempts found them slow, broken or gone: `state/bad-nodes.json`.

A job's own retry leaves them out, so do the jobs of a chain behind it and the next submit. After a week they are
forgotten: nodes are repaired.

The scripts ask here:

    python -m hpcllm.launch.bad_nodes exclude RUN [OTHERS]                 prints them as --exclude takes them: n2,n5
    python -m hpcllm.launch.bad_nodes lost RUN LOG RANKS_PER_NODE HOST…    remembers those lost, by the log; 1: none
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcllm.run_directory import Run, read_json, write_json

if TYPE_CHECKING:  # a script's own Python has none of our packages
    from hpcllm.cluster.profile import Profile

FORGOTTEN_AFTER_S = 7 * 86400.0


@dataclass(frozen=True)
class BadNode:
    """One node, and why nobody should wait for it again."""

    node: str
    why: str
    """In one line: `link 25 MB/s with its best partner; the other nodes reach 240 MB/s`."""
    time: float
    """When it was found, in seconds since 1970."""
    attempt: str
    """Which attempt found it, by the name of its log: `30-train.2`."""


def bad_nodes(run: Run, now: float | None = None) -> list[BadNode]:
    """Those that are not forgotten yet, by name."""
    now = time.time() if now is None else now
    rows = read_json(run.bad_nodes_json) if run.bad_nodes_json.exists() else []
    found = [BadNode(**row) for row in rows]
    return sorted((bad for bad in found if now - bad.time < FORGOTTEN_AFTER_S), key=lambda bad: bad.node)


def remember(run: Run, nodes: Iterable[str], why: str, attempt: str) -> None:
    """Add nodes; one that is known is remembered for its newest reason."""
    new = {node: BadNode(node, " ".join(why.split()), time.time(), attempt) for node in nodes}
    kept = [bad for bad in bad_nodes(run) if bad.node not in new]
    write_json(run.bad_nodes_json, [asdict(bad) for bad in [*kept, *new.values()]])


def excluded(run: Run, *others: str) -> str:
    """For --exclude: the bad nodes, and what else is left out: `n[7-9]`, or Slurm's words for nothing."""
    named = [*(bad.node for bad in bad_nodes(run)), *(other.strip() for other in others)]
    return ",".join(dict.fromkeys(name for name in named if name not in ("", "(null)", "N/A")))


def without(profile: Profile, partition: str | None, bad: Sequence[BadNode]) -> Profile:
    """The profile as if the partition had so many nodes fewer; where it does not say how many there are, as it is."""
    name = profile.node_type_name(partition)
    node = profile.nodes[name]
    if node.count is None or not bad:
        return profile
    left = node.model_copy(update={"count": max(0, node.count - len(bad))})
    return profile.model_copy(update={"nodes": {**profile.nodes, name: left}})


# How srun says that a node is gone. Whether Slurm knows it too, and starts the job again by itself, is a race: its
# controller waits for SlurmdTimeout (300 s by default), while the other ranks see a connection closed at once.
NODE_FAILURE = r"^srun: error: Node failure on "
_LOST = (
    NODE_FAILURE + r"(?P<host>[\w.-]+)",
    r"^srun: error: Task launch for \S+ failed on node (?P<host>[\w.-]+): ",
    r"^srun: StepId=\S+ tasks? (?P<rank>[\d,-]+): running$",
)
_IN_VAIN = "srun: error: Timed out waiting for job step to complete"  # they did not even end when they were killed


def lost_nodes(log: str, hosts: Sequence[str], ranks_per_node: int) -> list[str]:
    """Nodes that went down during an attempt, by what srun wrote into its log. `hosts`: in the order of the ranks."""
    rows = [match.groupdict() for pattern in _LOST for match in re.finditer(pattern, log, re.MULTILINE)]
    ranks = [int(rank) for row in rows if row.get("rank") for rank in re.findall(r"\d+", row["rank"])]
    hung = {hosts[rank // ranks_per_node] for rank in ranks if rank // ranks_per_node < len(hosts)}
    named = {row["host"] for row in rows if row.get("host")} & set(hosts)
    return sorted(named | hung) if _IN_VAIN in log else sorted(named)


def main(arguments: Sequence[str]) -> int:
    """What the scripts call."""
    verb, run, *words = arguments[0], Run(Path(arguments[1])), *arguments[2:]
    if verb == "exclude":
        print(excluded(run, *words))
        return 0
    log, ranks_per_node, *hosts = words
    lost = lost_nodes(Path(log).read_text(errors="replace"), hosts, int(ranks_per_node))
    if lost:
        remember(run, lost, "did not answer any more", Path(log).name.removesuffix(".log"))
        print(f"lost {', '.join(lost)}")
    return 0 if lost else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
