"""What the plan counts on paper, against what torch keeps and launches for the real models (tiny, on the CPU)."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from described import cluster, gpt2, translation
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpcllm.job.spec import Job
from hpcllm.model.build import build
from hpcllm.plan import memory
from hpcllm.plan.plan import Spread
from hpcllm.plan.ranks import place
from hpcllm.plan.step_time import KERNELS_OF_A_LAYER
from hpcllm.train import objective

BATCH = 4
# Operations that launch nothing: another view of the same memory, or memory alone.
VIEWS = {"t", "view", "transpose", "detach", "_unsafe_view", "split", "unsqueeze", "alias", "select", "slice", "expand"}

ARCHITECTURES = {"decoder": gpt2, "seq2seq": translation}


def tiny(architecture: str, changes: dict[str, Any]) -> Job:
    shape = {"model.width": 64, "model.heads": 4, "model.feed_forward": 160, "model.context": 48, "model.dropout": 0.0}
    vocabulary = {"data.tokenizer.vocabulary": 300}
    partition = {"slurm.partition": "cpu", "resources.nodes": 1, "resources.ranks_per_node": 1}
    return ARCHITECTURES[architecture]({**shape, **vocabulary, **partition, **changes})


def inputs(job: Job) -> tuple[torch.Tensor, ...]:
    tokens = torch.randint(4, job.data.tokenizer.vocabulary, (BATCH, job.model.context))
    return (tokens, tokens) if job.model.architecture == "seq2seq" else (tokens,)


def loss_of(model: torch.nn.Module, job: Job) -> torch.Tensor:
    given = inputs(job)
    with torch.autocast("cpu", torch.bfloat16, enabled=job.train.precision == "bf16"):
        return objective.cross_entropy(model(*given), given[-1])


def kept_bytes(job: Job) -> int:
    """Bytes that autograd keeps for backward, without the weights and their bf16 copies."""
    model = build(job.model, job.data.tokenizer.vocabulary)
    weights = {tuple(sorted(parameter.shape)) for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tuple(sorted(tensor.shape)) not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_of(model, job)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_layer_keeps_the_bytes_that_the_plan_counts(architecture: str, precision: str, dropout: float, norm: str):
    changes = {"train.precision": precision, "model.dropout": dropout, "model.norm": norm}
    few, many = (tiny(architecture, {**changes, "model.layers": layers}) for layers in (1, 3))

    measured = kept_bytes(many) - kept_bytes(few)

    planned = [memory.of(job, place(cluster(), job), Spread("ddp", BATCH)).activations for job in (few, many)]
    assert measured == pytest.approx(planned[1] - planned[0], rel=0.03)  # a norm's two numbers a token are left out


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations made and nobody has freed, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage._cdata, None)
        self.most = max(self.most, sum(self.sizes.values()))
        return result


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("piece", [2**15, 2**19])
def test_the_loss_takes_what_the_plan_counts_for_a_logit(precision: str, piece: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "PIECE_LOGITS", piece)
    monkeypatch.setattr(objective, "PIECE_LOGITS", piece)
    changes = {"train.precision": precision, "model.layers": 1, "model.width": 8, "model.feed_forward": 8}
    job = tiny("decoder", {**changes, "data.tokenizer.vocabulary": 20_000})
    model = build(job.model, 20_000)
    loss_of(model, job).backward()  # from now on the gradients are there

    with LiveBytes() as live:
        loss_of(model, job).backward()

    planned = memory.of(job, place(cluster(), job), Spread("ddp", BATCH))
    assert live.most == pytest.approx(planned.logits, rel=0.1)


def test_the_plan_and_the_trainer_cut_the_loss_into_equal_pieces():
    assert memory.PIECE_LOGITS == objective.PIECE_LOGITS


class Operations(TorchDispatchMode):
    """Counts the operations that would launch a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += operation._schema.name.removeprefix("aten::") not in VIEWS
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_a_layer_launches_as_many_kernels_as_the_plan_counts(architecture: str):
    def operations(layers: int) -> int:
        job = tiny(architecture, {"model.layers": layers, "train.precision": "bf16"})
        model = build(job.model, job.data.tokenizer.vocabulary)
        with Operations() as counted:
            loss_of(model, job).backward()
        return counted.count

    assert (operations(4) - operations(2)) / 2 == pytest.approx(KERNELS_OF_A_LAYER[architecture], rel=0.1)


FLOPS_OF: dict[str, Callable[[Job], float]] = {
    "decoder": lambda job: job.model.flops_per_sequence(job.data.tokenizer.vocabulary, job.model.context),
    "seq2seq": lambda job: job.model.flops_per_sequence(
        job.data.tokenizer.vocabulary, job.model.context, job.model.context
    ),
}


@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_a_sequence_takes_the_operations_that_torch_counts(architecture: str):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    job = tiny(architecture, {"model.layers": 2})
    model = build(job.model, job.data.tokenizer.vocabulary)
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        loss_of(model, job).backward()

    assert counted.get_total_flops() == BATCH * FLOPS_OF[architecture](job)
