"""Memory of one rank: what the trainer holds, term by term. The total is their visible sum.

Weights, gradients and the moments of Adam are fp32; under bf16 autocast a bf16 copy of the weights lives beside them.
DDP: every rank holds all of it. Letters: N parameters, s tokens of a sequence, b sequences of a micro-batch, h width,
f feed-forward width, L layers, V vocabulary, β bytes of an activation (2 under bf16 autocast, 4 in fp32).
"""

from __future__ import annotations

from hpcllm.cluster.known import needed
from hpcllm.job.spec import Job
from hpcllm.plan.plan import Figure, Memory
from hpcllm.plan.ranks import Ranks, in_bf16

GIB = 2**30
USABLE_SHARE = 0.8  # of the capacity; arXiv:2411.06465: below it none of 454 runs ran out
CUDA_CONTEXT_BYTES = 1 * GIB  # assumption, between 0.5 and 2 GiB on the systems that are known
CPU_PROCESS_BYTES = round(0.35 * GIB)  # assumption: the interpreter with torch and MPI loaded
MOST_TOKENS_OF_A_MICRO_BATCH = 32_768  # larger ones make no matmul faster
PIECE_LOGITS = 2**24  # as in train/objective.py: so many logits are in fp32 at a time
PREFIX = "memory_per_gpu_bytes."


def figures(job: Job, ranks: Ranks, micro_batch: int) -> list[Figure]:
    """Every term, their total, and the capacity."""
    terms = [
        parameters(job, ranks),
        gradients(job),
        optimizer(job),
        activations(job, ranks, micro_batch),
        logits(job, ranks, micro_batch),
        framework(ranks),
    ]
    return [kept_bytes(job, ranks), *terms, total(terms), capacity(ranks)]


def of(job: Job, ranks: Ranks, micro_batch: int) -> Memory:
    """The same as a record."""
    found = figures(job, ranks, micro_batch)
    values = {figure.name.removeprefix(PREFIX): int(figure.value or 0) for figure in found}
    return Memory(**{term: values[term] for term in Memory.__annotations__})


def fits(job: Job, ranks: Ranks, micro_batch: int) -> bool:
    """Whether it stays below 80 % of the capacity."""
    memory = of(job, ranks, micro_batch)
    return memory.total <= USABLE_SHARE * memory.capacity


def best_micro_batch(job: Job, ranks: Ranks) -> int:
    """The job's own, or the largest that divides a rank's share of the global batch and fits; 1 if none fits."""
    if job.train.micro_batch is not None:
        return job.train.micro_batch
    return next((b for b in micro_batches(job, ranks) if fits(job, ranks, b)), 1)


def micro_batches(job: Job, ranks: Ranks) -> list[int]:
    """The divisors of a rank's share of the global batch, largest first, up to where larger ones gain nothing."""
    share = max(1, job.train.global_batch // ranks.world_size)
    most = max(1, MOST_TOKENS_OF_A_MICRO_BATCH // job.model.context)
    return [b for b in range(min(share, most), 0, -1) if share % b == 0]


def parameters(job: Job, ranks: Ranks) -> Figure:
    """Weights."""
    bytes_each, formula = (6, "(4 + 2)·N: fp32, and autocast's bf16 copy") if in_bf16(job, ranks) else (4, "4·N: fp32")
    return _per_parameter("parameters", job, bytes_each, formula)


def gradients(job: Job) -> Figure:
    """Gradients, as large as the weights and in fp32."""
    return _per_parameter("gradients", job, 4, "4·N: fp32")


def optimizer(job: Job) -> Figure:
    """Both moments of Adam."""
    return _per_parameter("optimizer", job, 8, "8·N: two fp32 moments")


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


def _per_parameter(name: str, job: Job, bytes_each: int, formula: str) -> Figure:
    num_parameters = job.model.parameters(job.data.tokenizer.most_tokens)
    return Figure.of(
        PREFIX + name, "bytes", formula, {"num_parameters": num_parameters, "bytes_of_each": bytes_each},
        lambda n, size: n * size, "mixed-precision Adam: 18 bytes a parameter in all",
    )  # fmt: skip
