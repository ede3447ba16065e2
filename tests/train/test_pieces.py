"""How weights are cut for ZeRO-1, and ranks are grouped for HSDP. No MPI. Run: pytest tests/train/test_pieces.py"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hpcllm.errors import UserError
from hpcllm.job.model_spec import ModelSpec
from hpcllm.model.build import build
from hpcllm.parallel.pieces import Piece, local, pieces_of
from hpcllm.parallel.strategy import data_parallel, ranks_by_part
from hpcllm.parallel.world import World
from hpcllm.parallel.zero import cut, laid_end_to_end

SPEC = ModelSpec(layers=1, width=8, heads=2, feed_forward=12, context=4)


def pieces_of_each(model: torch.nn.Module, size: int) -> list[list[Piece]]:
    row = laid_end_to_end(model, size)
    weights = dict(model.named_parameters())
    return [cut(weights, rank * len(part), part) for rank, part in enumerate(row.chunk(size))]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_the_pieces_of_all_ranks_are_every_weight_once_and_about_as_large(size: int) -> None:
    model = build(SPEC, 11)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    ranks = pieces_of_each(model, size)

    seen = {name: torch.zeros(weight.numel()) for name, weight in before.items()}
    for piece in (piece for pieces in ranks for piece in pieces):
        assert torch.equal(local(piece.parameter), piece.of(before[piece.name]))
        seen[piece.name][piece.start : piece.start + piece.parameter.numel()] += 1
    assert all((times == 1).all() for times in seen.values())
    most = -(-sum(weight.numel() for weight in before.values()) // size)
    assert all(sum(piece.parameter.numel() for piece in pieces) <= most for pieces in ranks)


def test_what_is_done_to_a_piece_is_done_to_the_model() -> None:
    model = build(SPEC, 11)

    for pieces in pieces_of_each(model, 3):
        for piece in pieces:
            local(piece.parameter).fill_(5.0)

    assert all((weight == 5).all() for weight in model.parameters())


def test_one_rank_holds_and_saves_everything() -> None:
    model = build(SPEC, 11)

    pieces = pieces_of(data_parallel(model, World.alone(), "zero1"), World.alone())

    assert [piece.name for piece in pieces] == [name for name, _ in model.named_parameters()]
    assert all(piece.is_first and piece.start == 0 for piece in pieces)


def world_of(node_of_rank: list[int]) -> World:
    comm: Any = SimpleNamespace(allgather=lambda _: node_of_rank)
    nodes = max(node_of_rank) + 1
    return World(0, len(node_of_rank), 0, 1, 0, nodes, tuple(f"n{n}" for n in range(nodes)), comm)


@pytest.mark.parametrize(
    ("node_of_rank", "parts"),
    [
        ([0, 0, 1, 1], [[0, 1], [2, 3]]),
        ([0, 1, 0, 1], [[0, 2], [1, 3]]),  # dealt out to the nodes in turn
        ([0, 0, 0, 0], [[0, 1], [2, 3]]),
        ([0, 0], [[0, 1]]),
        ([0, 1], [[0], [1]]),
    ],
)
def test_hsdp_shards_among_the_ranks_of_a_node(node_of_rank: list[int], parts: list[list[int]]) -> None:
    assert ranks_by_part(world_of(node_of_rank)) == parts


def test_hsdp_on_unequal_nodes_is_refused_with_what_was_found() -> None:
    with pytest.raises(UserError, match=r"strategy hsdp: found 2 on n0, 1 on n1; .*fsdp takes any"):
        ranks_by_part(world_of([0, 0, 1]))
