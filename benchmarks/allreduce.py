"""All-reduce, all-gather and reduce-scatter: the mpi4py backend beside gloo, and beside MPI's own call.

    python benchmarks/allreduce.py [--quick] [--ranks 2 4] [--lab]

All take turns in one run, on the same tensors. A ratio is theirs / ours, the median over the turns with its 95 %
interval; above 1 ours is faster. `copies` is our time over that of copying the bytes once, in the same turns, on all
ranks at once. `--lab` adds two nodes of a Slurm lab of its own, a rank and a core each (root; tests/slurm/lab/start).

The bar: 100 MB in one node at least 2 × gloo and 1.4 × MPI's all-reduce, between two nodes 1.2 × gloo; and nowhere
slower than gloo, the interval above 0.97. Where ranks outnumber cores there is none.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from machine import write
from ranks import go_ahead, in_one_node, lab_of_two_nodes, measuring, on_two_nodes
from turns import Call, Ratio, ratio_of, take_turns

KB, MB = 1000, 1_000_000
SIZES = {  # bytes of fp32: of the tensor that is reduced, of the whole that is gathered or scattered
    **{f"{size} KB": size * KB for size in (1, 4, 16, 64, 256)},
    **{f"{size} MB": size * MB for size in (1, 4, 25, 100, 256)},
}
QUICK = ("4 KB", "1 MB", "25 MB")
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter")
NOT_SLOWER = 0.97
BARS = {  # of the median, by where and peer, for an all-reduce of 100 MB
    "one node": {"gloo": 2.0, "MPI": 1.4},
    "two nodes": {"gloo": 1.2},
}
SIZE_S, QUICK_SIZE_S = 3.0, 0.7  # about as long at one size
CALLS_BYTES = 128 * KB  # small messages are timed several in a row
MOST_CALLS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three sizes, fewer turns; for development")
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 4], help="of one node; left out, 2 and 4")
    parser.add_argument("--lab", action="store_true", help="two nodes of a Slurm lab too")
    parser.add_argument("--only", choices=COLLECTIVES, nargs="+", default=COLLECTIVES)
    parser.add_argument("--sizes", choices=SIZES, nargs="+", metavar="SIZE", help="such as '25 MB'; left out, all")
    parser.add_argument("--ahead", action="store_true", help="of all other processes, on a machine in use (root)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # what each rank is started with
    asked = parser.parse_args()
    if asked.measure:
        if asked.ahead:
            go_ahead()
        _measure(asked.measure, asked.sizes, asked.only, QUICK_SIZE_S if asked.quick else SIZE_S)
        return
    sizes = asked.sizes or (QUICK if asked.quick else SIZES)
    flags = [flag for flag, on in (("--quick", asked.quick), ("--ahead", asked.ahead)) if on]
    words = [__file__, *flags, "--only", *asked.only, "--sizes", *sizes, "--measure"]
    rows = []
    for ranks in asked.ranks:
        rows += _shown(in_one_node(ranks, *words), "one node")
    if asked.lab:
        with lab_of_two_nodes():
            rows += _shown(on_two_nodes(*words), "two nodes")
    print(write("allreduce", rows))


# ---- on every rank ---------------------------------------------------------------------------------------------------


def _measure(path: Path, sizes: tuple[str, ...], collectives: tuple[str, ...], for_s: float) -> None:
    with measuring(path) as (world, gloo, rows):
        for collective in collectives:
            for size in sizes:
                whole = torch.empty(SIZES[size] // 4 // world.size * world.size)
                calls = _calls(collective, whole, world, gloo)
                repeats = max(1, min(MOST_CALLS, CALLS_BYTES // SIZES[size]))
                times = take_turns(calls, repeats, world, for_s)
                rows.append({"collective": collective, "size": size, "ranks": world.size, "times_s": times})


def _calls(collective: str, whole: torch.Tensor, world: Any, gloo: Any) -> dict[str, Call]:
    """The same collective by each backend, each of which is tried on ones first; and a copy of as many bytes."""
    from mpi4py import MPI

    comm, array = world.comm, whole.numpy()
    mine = torch.empty(whole.numel() // world.size)
    calls: dict[str, dict[str, Call]] = {
        "all_reduce": {
            "ours": partial(dist.all_reduce, whole),
            "gloo": partial(dist.all_reduce, whole, group=gloo),
            "MPI": partial(comm.Allreduce, MPI.IN_PLACE, array),
        },
        "all_gather": {
            "ours": partial(dist.all_gather_single, whole, mine),
            "gloo": partial(dist.all_gather_single, whole, mine, group=gloo),
            "MPI": partial(comm.Allgather, mine.numpy(), array),
        },
        "reduce_scatter": {
            "ours": partial(dist.reduce_scatter_single, mine, whole),
            "gloo": partial(dist.reduce_scatter_single, mine, whole, group=gloo),
            "MPI": partial(comm.Reduce_scatter_block, array, mine.numpy()),
        },
    }
    for name, call in calls[collective].items():
        _check(f"{collective} by {name}", call, whole, mine, mine if collective == "reduce_scatter" else whole, world)
    whole.zero_()  # a sum of zeros is zero, however often
    mine.zero_()
    return {**calls[collective], "copy": partial(torch.empty_like(whole).copy_, whole)}


def _check(name: str, call: Call, whole: torch.Tensor, mine: torch.Tensor, result: torch.Tensor, world: Any) -> None:
    whole.fill_(1.0)
    mine.fill_(1.0)
    call()
    right = 1.0 if name.startswith("all_gather") else float(world.size)
    if not bool((result == right).all()):
        raise SystemExit(f"{name}: a wrong result; a time of it means nothing")


# ---- what it comes to ------------------------------------------------------------------------------------------------


def _shown(measured: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """The rows with their ratios and whether the bar holds, printed."""
    rows = [_row(of, where) for of in measured]
    print(f"\n{where}, {rows[0]['ranks']} ranks; ms\n{'':<24}{'ours':>9}{'gloo':>9}{'MPI':>9}", end="")
    print(f"  {'gloo / ours':<22}{'MPI / ours':<20}{'copies':>7}{'turns':>6}  bar")
    for row in rows:
        name, *ms = f"{row['collective']} {row['size']}", *(row["ms"][who] for who in ("ours", "gloo", "MPI"))
        ratios = [str(Ratio(**row["ratios"][peer])) for peer in ("gloo", "MPI")]
        print(f"{name:<24}{''.join(f'{each:9.3f}' for each in ms)}  {ratios[0]:<22}{ratios[1]:<20}", end="")
        print(f"{row['copies']:7.2f}{row['turns']:6}  {row['bar']}", flush=True)
    return rows


def _row(measured: dict[str, Any], where: str) -> dict[str, Any]:
    times = measured.pop("times_s")
    ratios = {peer: ratio_of(times[peer], times["ours"]) for peer in ("gloo", "MPI")}
    return {
        "where": where,
        **measured,
        "bytes": SIZES[measured["size"]],
        "turns": len(times["ours"]),
        "ms": {name: 1e3 * median(of) for name, of in times.items()},
        "ratios": {peer: asdict(ratio) for peer, ratio in ratios.items()},
        "copies": ratio_of(times["ours"], times["copy"]).median,
        "bar": _bar(where, measured, ratios),
    }


def _bar(where: str, measured: dict[str, Any], ratios: Mapping[str, Ratio]) -> str:
    """`holds`, or what falls short of what; `-` where there is no bar."""
    if where == "one node" and measured["ranks"] > (os.cpu_count() or 1):
        return "-"
    short = []
    if ratios["gloo"].low <= NOT_SLOWER:
        short.append(f"gloo {ratios['gloo'].low:.2f} < {NOT_SLOWER}")
    if (measured["collective"], measured["size"]) == ("all_reduce", "100 MB"):
        short += [
            f"{peer} {ratios[peer].median:.2f} < {least}"
            for peer, least in BARS[where].items()
            if ratios[peer].median < least
        ]
    return "; ".join(short) or "holds"


if __name__ == "__main__":
    sys.exit(main())
