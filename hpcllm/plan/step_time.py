"""Time of one optimizer step: computing, the part of communication that it does not hide, and reading the data.

Letters: n ranks or nodes in a ring, S bytes of gradients, B bytes a second, α seconds of latency.
"""

from __future__ import annotations

from hpcllm.cluster.fabric import Fabric
from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import Job
from hpcllm.plan import memory
from hpcllm.plan import ranks as counts
from hpcllm.plan.plan import Figure, Spread
from hpcllm.plan.ranks import Ranks, in_bf16

EFFICIENCY = 0.5  # of a large matmul's speed that a whole step reaches: an assumption until a run has measured it
MATMUL_SHARE_OF_PEAK = 0.75  # assumption where no large matmul was measured; measured ones lie between 0.51 and 0.87
WIRE_SHARE = 0.8  # of a link's rate that a ring all-reduce reaches
KERNEL_S = 10e-6  # assumption: what eager torch takes to launch an operation
KERNELS_OF_A_LAYER = {"decoder": 62, "seq2seq": 167}  # counted, forward and backward under autocast without dropout
BACKWARD_SHARE = 2 / 3  # of the computing: backward is twice the operations of forward

_EFFICIENCY_SOURCE = (
    "assumption: 0.5 of a large matmul (Narayanan et al. 2021, table 1: 137 of A100's 271 TFLOP/s at 1.7 B parameters; "
    "smaller widths reach less)"
)


def figures(profile: Profile, job: Job, ranks: Ranks, spread: Spread) -> list[Figure]:
    """Every term of the step, the step, and the speeds that follow."""
    accumulation = memory.accumulation(job, ranks, spread.micro_batch)
    speed = matmul_flops_per_s(job, ranks)
    multiply, launch = multiply_s(job, ranks, speed), launch_s(job, ranks, accumulation)
    compute = compute_s(multiply, launch)
    inside, across = inside_node_s(job, ranks), across_nodes_s(profile, job, ranks)
    communication = communication_s(job, ranks, inside, across, spread, accumulation)
    exposed = exposed_communication_s(job, ranks, compute, communication, spread.strategy, accumulation)
    data = data_s(profile, job)
    step = total_s(compute, exposed, data)
    rate = tokens_per_s(job, step)
    return [
        speed, multiply, launch, compute, inside, across, communication, exposed, data, step,
        rate, tokens_per_s_per_gpu(rate, ranks), mfu(job, ranks, rate),
    ]  # fmt: skip


def matmul_flops_per_s(job: Job, ranks: Ranks) -> Figure:
    """Speed of a large matmul on one rank."""
    name, unit = "matmul_flops_per_s", "FLOP/s"
    if not ranks.on_gpus:
        inputs = {ranks.key("flops"): ranks.node.flops_per_s, "ranks_per_node": ranks.per_node}
        return Figure.of(name, unit, "measured speed of a node / ranks_per_node", inputs, lambda node, n: node / n)
    row, measured = ranks.accelerator, ranks.node.gpus and ranks.node.gpus.flops_per_s
    if measured and in_bf16(job, ranks):
        inputs = {ranks.key("gpus.flops"): measured}
        return Figure.of(name, unit, "measured speed of a GPU", inputs, lambda speed: speed)
    if row is None or not in_bf16(job, ranks) or not row.bf16:
        missing = "a row in cluster/accelerators.py" if row is None else "the fp32 speed, which accelerators.py lacks"
        return Figure(name, None, unit, "large bf16 matmul", {_gpu(ranks): None}, f"unknown: needs {missing}")
    if row.matmul_flops_per_s is not None:
        inputs = {_gpu(ranks): row.matmul_flops_per_s}
        return Figure.of(name, unit, "reached by a large matmul", inputs, lambda speed: speed, row.source)
    return Figure.of(
        name, unit, "share × peak", {"share": MATMUL_SHARE_OF_PEAK, _gpu(ranks): row.peak_flops_per_s},
        lambda share, peak: share * peak, f"{row.source}; the share is an assumption: 0.51 to 0.87 where measured",
    )  # fmt: skip


def multiply_s(job: Job, ranks: Ranks, speed: Figure) -> Figure:
    """The matmuls of a rank's share of the step, forward and backward."""
    return Figure.of(
        "multiply_s", "s", "flops_per_token × tokens_per_step / (world_size × efficiency × matmul_flops_per_s)",
        {
            "flops_per_token": counts.flops_per_token(job).value,
            "tokens_per_step": counts.tokens_per_step(job).value,
            "world_size": ranks.world_size,
            "efficiency": EFFICIENCY,
            "matmul_flops_per_s": speed.value,
        },
        lambda flops, tokens, n, efficiency, matmul: flops * tokens / (n * efficiency * matmul),
        _EFFICIENCY_SOURCE,
    )  # fmt: skip


def launch_s(job: Job, ranks: Ranks, accumulation: int) -> Figure:
    """The least that launching the kernels takes, however small they are. On CPUs an operation is a call."""
    if not ranks.on_gpus:
        return Figure("launch_s", 0.0, "s", "0: no GPU", {})
    return Figure.of(
        "launch_s", "s", "gradient_accumulation × layers × kernels_of_a_layer × kernel_s",
        {
            "gradient_accumulation": accumulation,
            "model.layers": job.model.layers,
            "kernels_of_a_layer": KERNELS_OF_A_LAYER[job.model.architecture],
            "kernel_s": KERNEL_S,
        },
        lambda times, layers, kernels, each: times * layers * kernels * each,
        "assumption: 10 µs for an operation of eager torch, between 5 and 25",
    )  # fmt: skip


def compute_s(multiply: Figure, launch: Figure) -> Figure:
    """Computing: as long as the slower of the GPU and the CPU that feeds it."""
    inputs = {figure.name: figure.value for figure in (multiply, launch)}
    return Figure.of("step.compute_s", "s", "max(multiply_s, launch_s)", inputs, lambda *parts: max(parts))


def inside_node_s(job: Job, ranks: Ranks) -> Figure:
    """All-reduce between the ranks of a node: over NVLink, or through the memory of a CPU node."""
    name = "communication.inside_node_s"
    inputs = {"ranks_per_node": ranks.per_node, "gradient_bytes": gradient_bytes(job), "wire_share": WIRE_SHARE}
    if ranks.per_node == 1:
        return Figure.of(name, "s", "one rank a node: none", inputs, lambda *_: 0.0)
    if ranks.on_gpus:
        return Figure.of(
            name, "s", "2(n−1)/n · S / (wire_share · B)", {**inputs, ranks.key("gpus.link"): _link(ranks)},
            lambda n, size, share, link: 2 * (n - 1) / n * size / (share * link),
            "ring all-reduce; its latency, microseconds, is left out",
        )  # fmt: skip
    return Figure.of(
        name, "s", "2(n−1)/n · S / (wire_share · memory_rate / 2n)",
        {**inputs, ranks.key("memory_rate"): ranks.node.memory_rate_bytes_per_s},
        lambda n, size, share, rate: 2 * (n - 1) / n * size / (share * rate / (2 * n)),
        "ring all-reduce through shared memory: n ranks write and read every byte at once",
    )  # fmt: skip


def across_nodes_s(profile: Profile, job: Job, ranks: Ranks) -> Figure:
    """All-reduce between the nodes, after the ranks of each have summed: every rail carries its share."""
    (fabric, key), name = profile.fabric_of(ranks.partition), "communication.across_nodes_s"
    inputs = {"nodes": ranks.nodes, "gradient_bytes": gradient_bytes(job), "wire_share": WIRE_SHARE}
    if ranks.nodes == 1:
        return Figure.of(name, "s", "one node: none", inputs, lambda *_: 0.0)
    latency_s = fabric.latency_s or 0.0
    note = "" if fabric.latency_s else f"; {key}.latency is not known, so latency is left out"
    return Figure.of(
        name, "s", "2(n−1)·α + 2(n−1)/n · S / (wire_share · rails · B)",
        {**inputs, f"{key}.rails": fabric.rails, f"{key}.rate": fabric.rate_bytes_per_s, f"{key}.latency": latency_s},
        lambda n, size, share, rails, rate, alpha: 2 * (n - 1) * (alpha + size / n / (share * rails * rate)),
        f"ring all-reduce, about 80 % of the wire reached{note}{_beyond_a_switch(fabric, key, ranks.nodes)}",
    )  # fmt: skip


def _beyond_a_switch(fabric: Fabric, key: str, nodes: int) -> str:
    """What is left out where the job is larger than one switch; where nobody knows how large that is, than one node."""
    if (fabric.oversubscription or 1) <= 1 or nodes <= (fabric.switch_nodes or 1):
        return ""
    size = f"the {fabric.switch_nodes} nodes of a switch" if fabric.switch_nodes else "a switch"
    share = 1 / (fabric.oversubscription or 1)
    return f"; beyond {size} {share:.0%} of the nodes' rate gets through ({key}.oversubscription), which is left out"


def communication_s(
    job: Job, ranks: Ranks, inside: Figure, across: Figure, spread: Spread, accumulation: int
) -> Figure:
    """What the ranks exchange in a step, in all-reduces of the gradients inside the nodes and across them.

    A gather or a reduce-scatter is half of one. ZeRO-1 gathers what the ranks updated, in fp32, which is as much as a
    whole all-reduce of compressed gradients. FSDP gathers the weights for
    the forward and the backward pass of each micro-batch, and reduce-scatters gradients once, or with each; HSDP does
    so inside the nodes, and all-reduces across them once.
    """
    gathers = accumulation * (0.5 if in_bf16(job, ranks) else 1.0)
    scatters = 0.5 if spread.whole_gradients else 0.5 * accumulation
    sharded, updated = gathers + scatters, 2.0 if _is_compressed(job) else 1.5
    times = {"ddp": (1.0, 1.0), "zero1": (updated, updated), "hsdp": (sharded, 1.0), "fsdp": (sharded, sharded)}
    inside_times, across_times = times[spread.strategy]
    simple = spread.strategy == "ddp"
    return Figure.of(
        "communication_s", "s",
        "inside_node_s + across_nodes_s" if simple else "times_inside · inside_node_s + times_across · across_nodes_s",
        {
            **{figure.name: figure.value for figure in (inside, across)},
            **({} if simple else {"times_inside": inside_times, "times_across": across_times}),
        },
        lambda inside_s, across_s, *_: inside_times * inside_s + across_times * across_s,
        "" if simple else "Rajbhandari et al. 2020, §7: a gather or a reduce-scatter moves half of an all-reduce",
    )  # fmt: skip


def exposed_communication_s(
    job: Job, ranks: Ranks, compute: Figure, communication: Figure, strategy: str, accumulation: int
) -> Figure:
    """What computing does not hide: of DDP's all-reduce the last backward does, of FSDP's gathers every pass."""
    name = "step.exposed_communication_s"
    both = {"communication_s": communication.value, compute.name: compute.value}
    if strategy in ("fsdp", "hsdp") and not ranks.on_gpus:
        note = "on CPUs torch 2.13 waits for each collective of FSDP"
        return Figure.of(name, "s", "communication_s", {"communication_s": communication.value}, lambda s: s, note)
    if strategy in ("fsdp", "hsdp"):
        note = "weights are gathered a layer ahead, gradients reduced a layer behind"
        formula = "max(0, communication_s − compute_s)"
        return Figure.of(name, "s", formula, both, lambda comm, compute: max(0.0, comm - compute), note)
    if strategy == "zero1":
        return Figure.of(
            name, "s",
            "max(0, (1 − gathered)·communication_s − backward_share·compute_s / gradient_accumulation)"
            " + gathered·communication_s",
            {
                **both,
                "backward_share": BACKWARD_SHARE,
                "gradient_accumulation": accumulation,
                "gathered": 1 / 2 if _is_compressed(job) else 1 / 3,
            },
            lambda comm, compute, share, micro_batches, gathered:
                max(0.0, (1 - gathered) * comm - share * compute / micro_batches) + gathered * comm,
            "the all-reduce as DDP's; the gather of the new weights comes behind the update",
        )  # fmt: skip
    return Figure.of(
        "step.exposed_communication_s", "s",
        "max(0, communication_s − backward_share × compute_s / gradient_accumulation)",
        {
            "communication_s": communication.value,
            "backward_share": BACKWARD_SHARE,
            compute.name: compute.value,
            "gradient_accumulation": accumulation,
        },
        lambda comm, share, compute, micro_batches: max(0.0, comm - share * compute / micro_batches),
        "DDP overlaps its all-reduce with backward; where computing and sending share cores it hides less",
    )  # fmt: skip


def data_s(profile: Profile, job: Job) -> Figure:
    """Reading the step's tokens from the shared filesystem."""
    name = profile.scratch_name()
    return Figure.of(
        "step.data_s", "s", "sides × tokens_per_step × bytes_of_a_token / read rate",
        {
            "sides": 1 if job.data.pairs is None else 2,
            "tokens_per_step": counts.tokens_per_step(job).value,
            "bytes_of_a_token": job.data.tokenizer.token_bytes,
            f"filesystems.{name}.read": profile.scratch().read_bytes_per_s,
        },
        lambda sides, tokens, size, rate: sides * tokens * size / rate,
        "the page cache and reading ahead make it less",
    )  # fmt: skip


def total_s(compute: Figure, exposed: Figure, data: Figure) -> Figure:
    """The step. Where nobody knows how fast reading is, it is left out: a step's tokens are few bytes."""
    inputs = {figure.name: figure.value for figure in (compute, exposed, data)}
    if data.value is None:
        del inputs[data.name]
        note = "without reading, whose rate is not known"
        return Figure.of("step.total_s", "s", "compute_s + exposed_communication_s", inputs, lambda *t: sum(t), note)
    return Figure.of("step.total_s", "s", "compute_s + exposed_communication_s + data_s", inputs, lambda *t: sum(t))


def tokens_per_s(job: Job, step: Figure) -> Figure:
    """Speed of the whole job."""
    inputs = {"tokens_per_step": counts.tokens_per_step(job).value, step.name: step.value}
    formula = "tokens_per_step / step.total_s"
    return Figure.of("tokens_per_s", "tokens/s", formula, inputs, lambda tokens, seconds: tokens / seconds)


def tokens_per_s_per_gpu(rate: Figure, ranks: Ranks) -> Figure:
    """Speed of one rank."""
    inputs = {rate.name: rate.value, "world_size": ranks.world_size}
    formula = "tokens_per_s / world_size"
    return Figure.of("tokens_per_s_per_gpu", "tokens/s", formula, inputs, lambda tokens, n: tokens / n)


def mfu(job: Job, ranks: Ranks, rate: Figure) -> Figure:
    """Model FLOPs utilization: of the dense 16-bit peak on GPUs, of the measured matmul speed on CPUs."""
    inputs = {rate.name: rate.value, "flops_per_token": counts.flops_per_token(job).value}
    row = ranks.accelerator
    if ranks.on_gpus:
        what, inputs["world_size"] = "world_size", ranks.world_size
        inputs[_gpu(ranks)] = row.peak_flops_per_s if row else None
    else:
        what, inputs["nodes"] = "nodes", ranks.nodes
        inputs[ranks.key("flops")] = ranks.node.flops_per_s
    return Figure.of(
        "mfu", "", f"tokens_per_s × flops_per_token / ({what} × peak)", inputs,
        lambda tokens, flops, n, peak: tokens * flops / (n * peak), "PaLM (Chowdhery et al. 2022), appendix B",
    )  # fmt: skip


def _gpu(ranks: Ranks) -> str:
    return ranks.key("gpus.model")


def _is_compressed(job: Job) -> bool:
    return job.train.gradient_compression != "none"


def gradient_bytes(job: Job) -> float:
    """As they travel: in fp32, or in bf16 where they are compressed."""
    return (2.0 if _is_compressed(job) else 4.0) * job.model.parameters(job.data.tokenizer.most_tokens)


def _link(ranks: Ranks) -> float | None:
    """Bytes a second between two GPUs of a node, one way: the profile's word, else the accelerator's."""
    said = ranks.node.gpus.link_bytes_per_s if ranks.node.gpus else None
    return said or (ranks.accelerator.link_bytes_per_s if ranks.accelerator else None)
