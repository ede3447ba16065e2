"""What a probe might have found, for tests."""

from __future__ import annotations

from typing import Any

from hpcllm.cluster.probe.found import Probed, ProbedNode
from hpcllm.cluster.profile import Profile

HOSTS = ("n1", "n2", "n3", "n4")


def profile(**sections: Any) -> Profile:
    """Four CPU nodes on InfiniBand, everything stated; sections are merged over that, one level deep."""
    described: dict[str, Any] = {
        "name": "small",
        "verified": {"how": "example", "date": "2026-11-24"},
        "scheduler": {"kind": "slurm", "partitions": {"cpu": {"node_type": "cpu"}}},
        "nodes": {"cpu": {"cores": 8, "count": 4, "flops": "1 TFLOP/s", "memory_rate": "100GB/s"}},
        "fabric": {"kind": "infiniband", "rate": "200Gb/s", "latency": "2us"},
        "filesystems": {"scratch": {"kind": "lustre", "path": "/scratch", "write": "10GB/s", "read": "10GB/s"}},
        "software": {"mpi": {"flavour": "mpich", "launcher": ["srun"]}},
    }
    merged = {**described, **{name: {**described.get(name, {}), **value} for name, value in sections.items()}}
    return Profile.model_validate(merged)


def probed(
    slow: dict[str, float] | None = None, rate: float = 20e9, hosts: tuple[str, ...] = HOSTS, **found: Any
) -> Probed:
    """All as stated, but for the links of some hosts, and for what is given."""
    slow = slow or {}
    links = tuple((a, b, min(slow.get(a, rate), slow.get(b, rate))) for a in hosts for b in hosts if a < b)
    nodes = tuple(
        ProbedNode(
            host,
            flops_per_s=0.9e12,
            memory_rate_bytes_per_s=90e9,
            all_reduce_bytes_per_s=5e9,
            link_bytes_per_s=slow.get(host, rate) if len(hosts) > 1 else None,
        )
        for host in hosts
    )
    usual: dict[str, Any] = {
        "date": "2026-11-25",
        "commit": "c0ffee",
        "partition": "cpu",
        "node_type": "cpu",
        "filesystem": "scratch",
        "world_size": 2 * len(hosts),
        "library": "MPICH Version: 5.0.2",
        "nodes": nodes,
        "links": links,
        "latency_s": 3e-6 if len(hosts) > 1 else None,
        "all_reduce_bytes_per_s": 10e9 if len(hosts) > 1 else None,
        "files": {"write_bytes_per_s": 6e9, "read_bytes_per_s": 7e9, "hdf5_write_bytes_per_s": 5e9},
    }
    return Probed(**{**usual, **found})
