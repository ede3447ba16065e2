"""Ranks that do not come to a collective, or come to another one, are named; nothing hangs."""

import re

import pytest

pytestmark = pytest.mark.mpi

START = """
import sys, time, torch, torch.distributed as dist
from datetime import timedelta
from mpi4py import MPI
import hpcllm.parallel.mpi_backend
from hpcllm.parallel.mpi import paths, waiting
waiting.ANSWER_S = 1.0
rank, size = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
if sys.argv[1:] == ["network"]:
    paths.there_is_room = lambda *_: False
store = dist.HashStore()
dist.init_process_group("mpi4py", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=2))
def said(call):
    try:
        call()
        print(f"RANK {rank} came through", flush=True)
    except RuntimeError as error:
        print(f"RANK {rank} {type(error).__name__}: {error}", flush=True)
"""

ONE_COMES_LATE = (
    START
    + """
if rank == 2:
    time.sleep(5)
said(lambda: dist.all_reduce(torch.ones(5)))
said(dist.barrier)
MPI.COMM_WORLD.Barrier()
dist.destroy_process_group()
"""
)

DIFFERENT_SIZES = (
    START
    + """
said(lambda: dist.all_reduce(torch.ones(5 + (rank == 1))))
MPI.COMM_WORLD.Barrier()
dist.destroy_process_group()
"""
)

DIFFERENT_CALLS = (
    START
    + """
t = torch.ones(4)
said(lambda: dist.broadcast(t, 0) if rank == 0 else dist.all_to_all_single(torch.empty(4), t))
MPI.COMM_WORLD.Barrier()
dist.destroy_process_group()
"""
)


def lines_of(ended):
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return sorted(said.strip() for said in re.findall(r"RANK (?:(?!RANK).)*", ended.stdout))  # two may share a line


@pytest.mark.parametrize("path", ["memory", "network"])
def test_the_rank_that_did_not_arrive_is_named(mpirun, path):
    ended = mpirun(3, "-c", ONE_COMES_LATE, path)

    first, broken, *_ = lines_of(ended)
    assert "CollectiveTimeout: mpi4py backend: rank 0 on" in first
    assert "all_reduce (collective 1 of group default_pg)" in first
    assert first.endswith("did not arrive")
    assert "; rank 2 on" in first
    assert "rank 1 on" not in first.split("; ")[-1]
    assert "this group is broken since: " in broken
    assert "dist.all_reduce(torch.ones(5))" in ended.stderr or 'File "<string>"' in ended.stderr  # where it waits


def test_calls_of_other_sizes_are_told_apart_inside_a_node(mpirun):
    lines = lines_of(mpirun(2, "-c", DIFFERENT_SIZES, "memory"))

    what = "CollectiveMismatch: mpi4py backend: the ranks do not call the same collective: rank 0: all_reduce by SUM "
    assert [line.removeprefix(f"RANK {n} ") for n, line in enumerate(lines)] == [
        what + "float32 [5]; rank 1: all_reduce by SUM float32 [6]"
    ] * 2


def test_in_debug_mode_other_calls_are_told_apart_everywhere(mpirun, monkeypatch):
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")

    lines = lines_of(mpirun(2, "-c", DIFFERENT_CALLS, "network"))

    assert all("rank 0: broadcast from 0 float32 [4]; rank 1: all_to_all float32 []" in line for line in lines)
    assert len(lines) == 2
