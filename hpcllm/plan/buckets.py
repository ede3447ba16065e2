"""How much of the gradients DDP sends at a time, chosen from the network.

DDP sends a bucket as soon as backward has filled it. Every bucket pays the latency once more; and nothing hides the
last one, which is full when backward ends. A ring all-reduce of b bytes over n members takes 2(n−1)·α + 2(n−1)/n · b/B
(α-β model: Hockney 1994; Thakur et al. 2005, §4). So of S bytes in S/b buckets it costs

    S/b · 2(n−1)·α  +  2(n−1)/n · b/B        the latencies of all, and the last one's transfer

which is least at b = √(S · n·α·B). There the transfer of a bucket is as many times its latency as there are buckets.
"""

from __future__ import annotations

from math import sqrt

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import Job
from hpcllm.plan.plan import Figure
from hpcllm.plan.ranks import Ranks

DEFAULT_BUCKET_BYTES = 25 * 2**20  # DDP's own
SMALLEST_BYTES = 2**20  # as DDP's first bucket; below it the calls cost more than the network
FEWEST = 4  # buckets, so that at least three of them can hide behind backward


def bucket_bytes(latency_s: float, rate_bytes_per_s: float, ranks: int, model_bytes: float) -> int:
    """Bytes of a bucket, in whole MiB, for `model_bytes` of gradients over a ring of so many ranks (or nodes).

    At least one MiB; and no more than a quarter of the gradients, unless that is less.
    """
    best = sqrt(model_bytes * ranks * latency_s * rate_bytes_per_s)
    return max(SMALLEST_BYTES, round(min(best, model_bytes / FEWEST) / 2**20) * 2**20)


def bucket_figure(profile: Profile, job: Job, ranks: Ranks, gradient_bytes: float, wire_share: float) -> Figure:
    """The size for a job: of the network between its nodes, as measured, else as stated; else DDP's own.

    `gradient_bytes` travel in a step.
    """
    (fabric, key), name = profile.fabric_of(ranks.partition), "bucket_bytes"
    inputs = {f"{key}.latency": fabric.latency_s, f"{key}.rate": fabric.rate_bytes_per_s, f"{key}.rails": fabric.rails}
    if ranks.nodes == 1 or not all(inputs.values()):
        why = "one node" if ranks.nodes == 1 else f"{key}.latency and {key}.rate are not both known"
        return Figure(name, DEFAULT_BUCKET_BYTES, "bytes", "DDP's own", {}, why)
    # Gradients are cut as fp32. Where they travel in fewer bytes, the network carries so many times more of them.
    model_bytes = 4.0 * job.model.parameters(job.data.tokenizer.most_tokens)
    shrunk = model_bytes / gradient_bytes
    return Figure.of(
        name, "bytes", "√(S · n · α · wire_share · rails · B · shrunk), in whole MiB, between 1 MiB and S/4",
        {**inputs, "nodes": ranks.nodes, "wire_share": wire_share, "S": model_bytes, "shrunk": shrunk},
        lambda alpha, rate, rails, n, share, size, shrunk: bucket_bytes(alpha, share * rails * rate * shrunk, n, size),
        "least of all latencies and the last transfer, which nothing hides: Hockney 1994, Thakur et al. 2005 §4",
    )  # fmt: skip
