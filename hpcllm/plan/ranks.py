"""Where the ranks of a job run: one a GPU, or several on the cores of a node."""

from __future__ import annotations

from dataclasses import dataclass

from hpcllm.cluster.accelerators import Accelerator, accelerator
from hpcllm.cluster.known import needed
from hpcllm.cluster.nodes import NodeType
from hpcllm.cluster.profile import Profile
from hpcllm.cluster.scheduler import Limits
from hpcllm.job.spec import Job
from hpcllm.plan.plan import Figure
from hpcllm.plan.queue import limits_of, partition_of


@dataclass(frozen=True)
class Ranks:
    """The ranks of a job on their nodes."""

    partition: str | None
    limits: Limits | None
    """Of the partition; None where there is no scheduler."""
    node_type: str
    node: NodeType
    nodes: int
    per_node: int
    on_gpus: bool

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * self.per_node

    @property
    def accelerator(self) -> Accelerator | None:
        """The facts of this node's GPUs; None on CPUs, and for a GPU that the table does not know."""
        return accelerator(self.node.gpus.model) if self.on_gpus and self.node.gpus else None

    @property
    def memory_bytes(self) -> int:
        """What one rank may use: its GPU's memory, or its share of the node's."""
        if self.on_gpus and self.node.gpus:
            return needed(self.node.gpus.memory_bytes, self.key("gpus.memory"), "a plan")
        return needed(self.node.memory_bytes, self.key("memory"), "a plan") // self.per_node

    def key(self, field: str) -> str:
        """The key of a field of these nodes in the profile: `nodes.gpu.flops`."""
        return f"nodes.{self.node_type}.{field}"


def place(profile: Profile, job: Job) -> Ranks:
    """The ranks that a job asks for. On CPUs, unless asked otherwise, one a NUMA domain: its memory is near.

    Raises UserError for a partition that the cluster does not have.
    """
    partition = partition_of(profile, job)
    node_type = profile.node_type_name(partition)
    node, asked = profile.nodes[node_type], job.resources
    on_gpus = node.gpus is not None and asked.gpus_per_node != 0
    usual = asked.gpus_per_node or (node.gpus.count if node.gpus else 1) if on_gpus else node.numa_domains
    limits = limits_of(profile, job, partition) if partition else None
    return Ranks(partition, limits, node_type, node, asked.nodes, asked.ranks_per_node or usual, on_gpus)


def in_bf16(job: Job, ranks: Ranks) -> bool:
    """Whether a plan counts on bf16 matmuls: when asked for, or `auto` on GPUs that are not known to lack it.

    On CPUs `auto` measures at the start; a plan counts on fp32 there, which takes more memory.
    """
    if job.train.precision != "auto":
        return job.train.precision == "bf16"
    return ranks.on_gpus and (ranks.accelerator is None or ranks.accelerator.bf16)


def figures(job: Job, ranks: Ranks) -> list[Figure]:
    """The counts that everything else is computed from."""
    return [
        Figure.of("nodes", "", "resources.nodes", {"resources.nodes": ranks.nodes}, lambda nodes: nodes),
        Figure.of(
            "world_size", "", "nodes × ranks_per_node", {"nodes": ranks.nodes, "ranks_per_node": ranks.per_node},
            lambda nodes, per_node: nodes * per_node, "one rank a GPU; on CPUs, unless asked, one a NUMA domain",
        ),
        num_parameters(job),
        flops_per_token(job),
        tokens_per_step(job),
    ]  # fmt: skip


def num_parameters(job: Job) -> Figure:
    """N."""
    vocabulary = job.data.tokenizer.most_tokens
    return Figure.of(
        "num_parameters", "", "N, every trainable number; output tied to the embedding",
        {"data.tokenizer.vocabulary": vocabulary}, job.model.parameters, "job/model_spec.py",
    )  # fmt: skip


def flops_per_token(job: Job) -> Figure:
    """Operations of a token, forward and backward."""
    formula = "6·N + 36·L·d·T" if job.model.architecture == "seq2seq" else "6·N + 12·L·d·T"
    return Figure.of(
        "flops_per_token", "FLOP", f"{formula}, N the weights of matmuls",
        {"data.tokenizer.vocabulary": job.data.tokenizer.most_tokens}, job.model.flops_per_token,
        "PaLM (Chowdhery et al. 2022), appendix B; masked positions are counted",
    )  # fmt: skip


def tokens_per_step(job: Job) -> Figure:
    """Target tokens of one optimizer step."""
    return Figure.of(
        "tokens_per_step", "tokens", "global_batch × context",
        {"train.global_batch": job.train.global_batch, "model.context": job.model.context},
        lambda sequences, tokens: sequences * tokens, "full contexts; shorter pairs hold fewer",
    )  # fmt: skip
