"""Random plans of collectives on random sub-groups, asked of the mpi4py backend and of gloo.

    mpirun -n 3 python tests/mpi/over_ranks/random_collectives.py [--plans 100] [--seed 0] [--without-gloo]

Every rank draws the same plans from the same seed. The ranks share their verdict on each plan, so that hypothesis
shrinks a plan that fails in step on all of them, and prints the smallest one. The last line holds the number of
collectives, and a digest of all bits that came out: equal runs have equal ones.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist
from against_gloo import ask_gloo, assert_as_computed, assert_near, both_backends
from collective_calls import COLLECTIVES, LAYOUTS, ONLY_MOVED, REDUCED, REDUCING, Asked, Call, Case, as_bytes, ops_of
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from torch.distributed import ProcessGroup

from hpcllm.parallel.world import World

GROUPS, MOST_STEPS = 6, 24
TIMEOUT = timedelta(seconds=20)
SHRINK_S = 30.0
LIMITS_BYTES = (4 * 2**10, 32 * 2**10, 64 * 2**10, 2**20)  # where a backend may take another path
SMALL, LARGEST_BYTES = 17, 3 * 2**20


@dataclass(frozen=True)
class Step:
    """One call in a plan, in one of the groups (by its number, modulo how many there are)."""

    group: int
    call: Call


@dataclass
class Run:
    """What a rank has done so far, and the groups it does it in."""

    world: World
    groups: list[tuple[ProcessGroup, ProcessGroup]]
    """Ours and gloo's, of the same members. A rank that is none of them holds places."""
    members: list[list[int]]
    with_gloo: bool = True
    collectives: int = 0
    """Of all plans, whether this rank has had a part in them or not."""
    digest: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """Plans that failed, and what was wrong: all that is known once there is no more time to shrink."""
    shrink_until: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-gloo", action="store_true", help="compute and compare nothing: for the digest")
    arguments = parser.parse_args()
    world = World.of_mpi()
    with both_backends(world):
        members = members_of_groups(world.size, arguments.seed)
        run = Run(world, make_groups(members), members, not arguments.without_gloo)
        hypothesis_of(lambda plan: carry_out(plan, run), arguments.plans, arguments.seed)
        digests = world.all_gather(run.digest)
    if world.rank == 0:
        print(f"{run.collectives} collectives, digest {zlib.crc32(repr(digests).encode()):08x}")


def hypothesis_of(holds: Callable[[list[Step]], None], plans: int, number: int) -> None:
    """Let hypothesis draw so many plans, and shrink one that fails. All ranks do the same."""
    quietly = settings(
        max_examples=plans,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    quietly(seed(number)(given(plans_of_steps())(holds)))()


# What is drawn.


def members_of_groups(size: int, number: int) -> list[list[int]]:
    """All ranks, and some of the other sets of ranks."""
    subsets = [list(ranks) for n in range(1, size) for ranks in itertools.combinations(range(size), n)]
    chosen = random.Random(number).sample(subsets, min(GROUPS - 1, len(subsets)))
    return [list(range(size)), *chosen]


def plans_of_steps() -> st.SearchStrategy[list[Step]]:
    return st.integers(1, MOST_STEPS).flatmap(lambda number: st.lists(steps(), min_size=number, max_size=number))


def steps() -> st.SearchStrategy[Step]:
    return st.builds(Step, st.integers(0, GROUPS - 1), calls())


@st.composite
def calls(draw: st.DrawFn) -> Call:
    name = draw(st.sampled_from(sorted(COLLECTIVES)))
    dtype = draw(st.sampled_from(REDUCED if name in REDUCING else REDUCED + ONLY_MOVED))
    return Call(
        name,
        shape=draw(shapes(dtype.itemsize)),
        dtype=dtype,
        op=draw(st.sampled_from(ops_of(dtype))) if name in REDUCING else "SUM",
        root=draw(st.integers(0, 3)),
        layout=draw(st.sampled_from(LAYOUTS)),
        is_async=draw(st.booleans()),
        seed=draw(st.integers(0, 999)),
    )


def shapes(itemsize: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Mostly small ones; some next to a limit; few of some megabytes."""
    small = st.lists(st.integers(0, SMALL), min_size=1, max_size=3).map(tuple)
    beside = [(limit // itemsize + off,) for limit in LIMITS_BYTES for off in (-1, 0, 1)]
    large = st.integers(2**20 // itemsize, LARGEST_BYTES // itemsize).map(lambda numel: (numel,))
    kinds = [small] * 16 + [st.sampled_from(beside[:9])] * 4 + [st.sampled_from(beside[9:])] + [large]
    return st.sampled_from(kinds).flatmap(lambda kind: kind)


# What is done with it.


def make_groups(members: list[list[int]]) -> list[tuple[ProcessGroup, ProcessGroup]]:
    return [(dist.new_group(ranks, TIMEOUT), dist.new_group(ranks, TIMEOUT, "gloo")) for ranks in members]


def carry_out(plan: list[Step], run: Run) -> None:
    """Do what the plan says. Raises AssertionError on every rank where any rank found something wrong."""
    words = "\n".join(map(str, plan))
    wrong = run.failures.get(words, "")
    if not (run.failures and run.world.broadcast(time.monotonic() > run.shrink_until)):
        run.collectives += len(plan)
        wrong = verdict(plan, run)
    if wrong and words not in run.failures:
        run.shrink_until = run.shrink_until or time.monotonic() + SHRINK_S
        run.failures[words] = wrong
        run.groups = make_groups(run.members)  # those of before may be out of step
    assert not wrong, f"{words}\n{wrong}"


def verdict(plan: list[Step], run: Run) -> str:
    """What any rank found wrong, the same text on all ranks; empty where nothing is."""
    words = None
    try:
        compare(ask_all(plan, run), run)
    except Exception as error:
        words = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
    verdicts = run.world.all_gather((zlib.crc32(repr(plan).encode()), words))
    assert len({drawn for drawn, _ in verdicts}) == 1, "the ranks have drawn different plans"
    return "\n".join(f"rank {rank}: {words}" for rank, (_, words) in enumerate(verdicts) if words)


def ask_all(plan: list[Step], run: Run) -> list[tuple[Asked, int]]:
    """What this rank has a part in, done, with the number of its group.

    Async calls stay in flight to the end, and ranks ask for them in orders of their own. What raises is kept until all
    has been asked and waited for, or the other ranks would wait for this one.
    """
    mine = [(n, step) for n, step in enumerate(plan) if run.world.rank in run.members[step.group % len(run.members)]]
    asked: dict[int, tuple[Asked, int]] = {}
    errors: list[Exception] = []
    for number, step in in_order_of(run.world.rank, mine):
        index = step.group % len(run.groups)
        group, _ = run.groups[index]
        case = Case.of(step.call, group.rank(), group.size())
        with keep(errors, step):
            asked[number] = case.ask(group), index
    for number in reversed(asked):
        with keep(errors, plan[number]):
            asked[number][0].wait()
    if errors:
        raise errors[0]
    return [asked[number] for number in sorted(asked)]


@contextmanager
def keep(errors: list[Exception], step: Step) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(str(step))
        errors.append(error)


def in_order_of(rank: int, steps: list[tuple[int, Step]]) -> Iterator[tuple[int, Step]]:
    """Async calls of one group keep their order; which group comes first differs from rank to rank."""
    for is_async, stretch in itertools.groupby(steps, key=lambda numbered: numbered[1].call.is_async):
        together = list(stretch)
        yield from sorted(together, key=lambda one: (one[1].group + 2 * rank) % GROUPS) if is_async else together


def compare(done: list[tuple[Asked, int]], run: Run) -> None:
    for asked, _ in done:
        for output in asked.outputs:
            run.digest = zlib.crc32(as_bytes(output).numpy(), run.digest)
    if run.with_gloo:
        theirs = [ask_gloo(asked.case, run.groups[index][1]) for asked, index in done]
        for (asked, index), reference in zip(done, theirs, strict=True):
            assert_as_computed(asked)
            assert_near(asked, reference, len(run.members[index]))


if __name__ == "__main__":
    main()
