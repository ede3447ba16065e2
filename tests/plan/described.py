"""A cluster and a job to plan for, each field of which a test may change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from hpcllm import source
from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import Job, load_job
from hpcllm.plan.fit import changed

JOBS = Path(__file__).parents[2] / "jobs"

CLUSTER = """
name: somewhere
verified: {how: example, date: 2026-11-24}
scheduler:
  kind: slurm
  partitions:
    gpu: {node_type: a100, max_time: 24h, max_nodes: 16, default: true}
    short: {node_type: a100, max_time: 1h, max_nodes: 64}
    small: {node_type: a100-40, max_time: 24h}
    cpu: {node_type: cpu, max_time: 24h}
nodes:
  a100: {count: 100, cores: 64, memory: 512GiB, gpus: {model: A100-80GB, count: 4, memory: 80GiB}}
  a100-40: {count: 100, cores: 64, memory: 512GiB, gpus: {model: A100-40GB, count: 4, memory: 40GiB}}
  cpu: {count: 100, numa_domains: 8, cores: 128, memory: 256GiB, flops: 4 TFLOP/s, memory_rate: 300GB/s}
fabric: {kind: infiniband, rails: 4, rate: 200Gb/s, latency: 2us}
filesystems:
  scratch: {kind: lustre, path: /scratch, write: 10GB/s, read: 20GB/s}
software: {mpi: {flavour: openmpi, launcher: [srun]}}
reliability: {node_mtbf: 365d}
price: {gpu_hour: 1.5, unit: EUR}
"""


def cluster(changes: dict[str, Any] | None = None) -> Profile:
    """CLUSTER with some keys set (`fabric.rate`), or left out where the value is None."""
    data = copy.deepcopy(yaml.safe_load(CLUSTER))
    data["verified"]["date"] = "2026-11-24"
    for path, value in (changes or {}).items():
        *inner, key = path.split(".")
        section = data
        for name in inner:
            section = section[name]
        section.pop(key, None) if value is None else section.update({key: value})
    return source.check(data, Profile, "cluster.yaml", {})


def gpt2(changes: dict[str, Any] | None = None) -> Job:
    """GPT-2 124M on 4 nodes, with its own vocabulary of 50,257, and some fields changed."""
    return changed(load_job(JOBS / "gpt2-124m.yaml"), {"data.tokenizer.vocabulary": 50257, **(changes or {})})


def translation(changes: dict[str, Any] | None = None) -> Job:
    """jobs/translate.yaml with some fields changed."""
    return changed(load_job(JOBS / "translate.yaml"), changes or {})
