"""Memory of one rank: what the trainer holds, term by term. The total is their visible sum.

Weights, gradients and the moments of Adam are fp32; under bf16 autocast a bf16 copy of the weights lives beside them.
Under DDP every rank holds all of it; ZeRO-1 shards the moments, FSDP and HSDP everything (plan/strategy.py).
Letters: N parameters, E of them outside the layers, W of the largest layer, n ranks that share one copy, s tokens of a
sequence, b sequences of a micro-batch, h width, f feed-forward width, L layers, V vocabulary, β bytes of an activation
and of a gathered weight (2 under bf16 autocast, 4 in fp32).
"""

from __future__ import annotations

from hpcllm.cluster.known import needed
from hpcllm.job.spec import Job
from hpcllm.plan.plan import Figure, Memory, Spread
from hpcllm.plan.ranks import Ranks, in_bf16

GIB = 2**30
USABLE_SHARE = 0.8  # of the capacity; arXiv:2411.06465: below it none of 454 runs ran out
CUDA_CONTEXT_BYTES = 1 * GIB  # assumption, between 0.5 and 2 GiB on the systems that are known
CPU_PROCESS_BYTES = round(0.35 * GIB)  # assumption: the interpreter with torch and MPI loaded
PIECE_LOGITS = 2**24  # as in train/objective.py: so many logits are in fp32 at a time
PREFIX = "memory_per_gpu_bytes."
_GRADIENT_BYTES = {
    "none": (4, "4·N: fp32"),
    "bf16": (6, "(4 + 2)·N: fp32, and as they travel"),
    "bf16-feedback": (10, "(4 + 2 + 4)·N: fp32, as they travel, and what was lost of them"),
}


def figures(job: Job, ranks: Ranks, spread: Spread) -> list[Figure]:
    """Every term, their total, and the capacity."""
    terms = [
        parameters(job, ranks, spread),
        gradients(job, ranks, spread),
        optimizer(job, ranks, spread),
        activations(job, ranks, spread.micro_batch),
        logits(job, ranks, spread.micro_batch),
        framework(ranks),
    ]
    return [kept_bytes(job, ranks), *terms, total(terms), capacity(ranks)]


def of(job: Job, ranks: Ranks, spread: Spread) -> Memory:
    """The same as a record."""
    found = figures(job, ranks, spread)
    values = {figure.name.removeprefix(PREFIX): int(figure.value or 0) for figure in found}
    return Memory(**{term: values[term] for term in Memory.__annotations__})


def fits(job: Job, ranks: Ranks, spread: Spread) -> bool:
    """Whether it stays below 80 % of the capacity."""
    memory = of(job, ranks, spread)
    return memory.total <= USABLE_SHARE * memory.capacity


def shards(strategy: str, ranks: Ranks) -> int:
    """Ranks that hold one copy of the weights between them. HSDP: those of a node; of one node alone, half of them."""
    half = ranks.per_node // 2 if ranks.per_node > 2 and ranks.per_node % 2 == 0 else ranks.per_node
    of_a_node = ranks.per_node if ranks.nodes > 1 else half
    return {"fsdp": ranks.world_size, "hsdp": of_a_node}.get(strategy, 1)


def parameters(job: Job, ranks: Ranks, spread: Spread) -> Figure:
    """Weights.

    Of sharded ones there are whole: what is outside the layers, and of layers the one that computes, the next, and what
    arrived of them in one piece.
    """
    bf16, n = in_bf16(job, ranks), shards(spread.strategy, ranks)
    if n == 1:
        bytes_each, formula = (6, "(4 + 2)·N: fp32, and autocast's bf16 copy") if bf16 else (4, "4·N: fp32")
        return _per_parameter("parameters", job, bytes_each, formula)
    return Figure.of(
        PREFIX + "parameters", "bytes", "4·N/n + bytes_of_each·E + 3·β·W: a shard, and what is gathered",
        {**_sharded(job, n), "bytes_of_each": 6 if bf16 else 4, "β": 2 if bf16 else 4},
        lambda size, n, outside, layer, each, gathered: 4 * size // n + each * outside + 3 * gathered * layer,
        "Zhao et al. 2023 (FSDP)",
    )  # fmt: skip


def gradients(job: Job, ranks: Ranks, spread: Spread) -> Figure:
    """Gradients, as large as the weights and in fp32.

    Of sharded ones there are whole: what is outside the layers, and a layer's as backward makes them and once more as
    they are sent; all of them while micro-batches add up that are not reduced one by one.
    """
    n = shards(spread.strategy, ranks)
    if n == 1:
        return _per_parameter("gradients", job, *_GRADIENT_BYTES[job.train.gradient_compression])
    accumulates = spread.whole_gradients and accumulation(job, ranks, spread.micro_batch) > 1
    whole = "4·N: micro-batches add up whole" if accumulates else "4·N/n"
    return Figure.of(
        PREFIX + "gradients", "bytes", f"{whole} + 4·E + (β + 4)·W",
        {**_sharded(job, n), "β": 2 if in_bf16(job, ranks) else 4},
        lambda size, n, outside, layer, each: 4 * size // (1 if accumulates else n) + 4 * outside + (each + 4) * layer,
        "Zhao et al. 2023 (FSDP)",
    )  # fmt: skip


def optimizer(job: Job, ranks: Ranks, spread: Spread) -> Figure:
    """Both moments of Adam."""
    n = ranks.world_size if spread.strategy == "zero1" else shards(spread.strategy, ranks)
    if n == 1:
        return _per_parameter("optimizer", job, 8, "8·N: two fp32 moments")
    inputs = {"num_parameters": num_parameters(job), "n": n}
    source = "Rajbhandari et al. 2020 (ZeRO)"
    formula = "8·N/n: two fp32 moments of a shard"
    return Figure.of(PREFIX + "optimizer", "bytes", formula, inputs, lambda size, n: 8 * size // n, source)


def activations(job: Job, ranks: Ranks, micro_batch: int) -> Figure:
    """What backward needs of forward. No s × s matrix: the fused attention computes in blocks."""
    return Figure.of(
        PREFIX + "activations", "bytes", "L · s · b · kept_bytes",
        {
            "model.layers": job.model.layers,
            "model.context": job.model.context,
            "micro_batch": micro_batch,
            "kept_bytes": kept_bytes(job, ranks).value,
        },
        lambda layers, s, b, kept: layers * s * b * kept,
        "outside the layers, an embedding's dropout and a last norm keep about as much as a sixth of a layer: left out",
    )  # fmt: skip


def kept_bytes(job: Job, ranks: Ranks) -> Figure:
    """Bytes that one layer keeps of one token (seq2seq: of a token of each side, in both stacks).

    A norm keeps its input, in fp32. An attention keeps input, query, key, value and output; autocast casts the input
    twice, for two matmuls. A feed-forward keeps its input and the hidden layer, before and behind a GELU, once for a
    ReLU. Dropout keeps a byte for each value on GPUs, a value on CPUs.
    """
    spec, each = job.model, 2 if in_bf16(job, ranks) else 4
    cross = spec.architecture == "seq2seq"
    inputs = {
        "h": spec.width,
        "f": spec.feed_forward,
        "β": each,
        "norms": 5 if cross else 2,
        "attention_values": (3 if cross else 1) * (6 if each == 2 else 5),
        "feed_forwards": 2 if cross else 1,
        "hidden_values": 2,  # ReLU in two stacks, or both sides of one GELU
        "dropout_bytes": (1 if ranks.on_gpus else each) if spec.dropout else 0,
    }
    return Figure.of(
        "kept_bytes", "bytes",
        "norms·4h + β·(attention_values·h + feed_forwards·h + hidden_values·f) + norms·dropout_bytes·h", inputs,
        lambda h, f, each, norms, attention, blocks, hidden, dropout:
            norms * 4 * h + each * (attention * h + blocks * h + hidden * f) + norms * dropout * h,
        "after Korthikanti et al. 2022, eq. 2 (34·h with flash attention): with autocast's fp32 norms 40·h",
    )  # fmt: skip


def logits(job: Job, ranks: Ranks, micro_batch: int) -> Figure:
    """The output and its gradient, at their most: when backward begins, all activations are there too."""
    return Figure.of(
        PREFIX + "logits", "bytes", "2β·s·b·V + 8·min(s·b·V, piece): logits and gradients, a piece of the loss",
        {
            "β": 2 if in_bf16(job, ranks) else 4,
            "model.context": job.model.context,
            "micro_batch": micro_batch,
            "data.tokenizer.vocabulary": job.data.tokenizer.most_tokens,
            "piece": PIECE_LOGITS,
        },
        lambda each, s, b, vocabulary, piece:
            2 * each * s * b * vocabulary + 8 * min(s * b * vocabulary, piece),
        "the loss is computed piece by piece (train/objective.py); whole, it would take 12 bytes a logit",
    )  # fmt: skip


def framework(ranks: Ranks) -> Figure:
    """What is there before the model is."""
    name, size = ("CUDA context", CUDA_CONTEXT_BYTES) if ranks.on_gpus else ("process", CPU_PROCESS_BYTES)
    return Figure.of(
        PREFIX + "framework", "bytes", name, {name: size}, lambda size: size,
        "assumption: a CUDA context takes 0.5 to 2 GiB" if ranks.on_gpus else "assumption: Python, torch, MPI",
    )  # fmt: skip


def total(terms: list[Figure]) -> Figure:
    """The sum."""
    inputs = {term.name.removeprefix(PREFIX): term.value for term in terms}
    return Figure.of(PREFIX + "total", "bytes", " + ".join(inputs), inputs, lambda *values: sum(values))


def capacity(ranks: Ranks) -> Figure:
    """What one rank may use."""
    if ranks.on_gpus:
        inputs: dict[str, float | str | None] = {ranks.key("gpus.memory"): ranks.memory_bytes}
        return Figure.of(PREFIX + "capacity", "bytes", "memory of one GPU", inputs, lambda size: size)
    key = ranks.key("memory")
    inputs = {key: needed(ranks.node.memory_bytes, key, "a plan"), "ranks_per_node": ranks.per_node}
    formula = "memory of a node / ranks_per_node"
    return Figure.of(PREFIX + "capacity", "bytes", formula, inputs, lambda size, n: size // n)


def num_parameters(job: Job) -> int:
    """N."""
    return job.model.parameters(job.data.tokenizer.most_tokens)


def accumulation(job: Job, ranks: Ranks, micro_batch: int) -> int:
    """Micro-batches of a step on one rank."""
    return max(1, job.train.global_batch // (ranks.world_size * micro_batch))


def _sharded(job: Job, n: int) -> dict[str, float | str | None]:
    """N, n, E and W."""
    return {
        "num_parameters": num_parameters(job),
        "n": n,
        "parameters_outside_layers": job.model.parameters_outside_layers(job.data.tokenizer.most_tokens),
        "layer_parameters": job.model.largest_layer_parameters(),
    }


def _per_parameter(name: str, job: Job, bytes_each: int, formula: str) -> Figure:
    return Figure.of(
        PREFIX + name, "bytes", formula, {"num_parameters": num_parameters(job), "bytes_of_each": bytes_each},
        lambda n, size: n * size, "mixed-precision Adam: 18 bytes a parameter in all",
    )  # fmt: skip
