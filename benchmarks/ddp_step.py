"""A training step of a 34 M parameter Transformer under DDP: the mpi4py backend beside gloo, and how much it hides.

    python benchmarks/ddp_step.py [--quick] [--lab]

A step is forward, backward with the all-reduce of 134 MB of gradients, and AdamW. Both backends take turns in one
run, each with a copy of the model; the weights must be equal to the bit at the end. `alone` is the step without
all-reduce, `talk` the all-reduce of as many bytes in DDP's buckets without a step. `hidden` is step / (alone + talk): 1
where nothing of it is hidden.

`--lab` adds two nodes of a Slurm lab of its own, a rank and a core each, whose links carry 1 Gb/s (root;
tests/slurm/lab/start). The bar: in one node at least 1.3 × as fast as gloo, over the slow link `hidden` at most 0.9.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from machine import write
from ranks import go_ahead, in_one_node, lab_of_two_nodes, measuring, on_two_nodes, throttle
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from turns import Ratio, ratio_of, take_turns

from hpcllm.job.model_spec import ModelSpec
from hpcllm.model.build import build
from hpcllm.parallel.world import World
from hpcllm.plan.buckets import DEFAULT_BUCKET_BYTES
from hpcllm.train.precision import autocast

VOCABULARY = 16384
SHAPE = {"layers": 8, "width": 512, "heads": 8, "feed_forward": 2048, "context": 512}
TOKENS = {"one node": (16, 64, 256), "two nodes": (128, 512)}  # of a rank's batch: the fewer, the more talk
FASTER, HIDDEN = 1.3, 0.9
LINK = "1gbit"
SIZE_S, QUICK_SIZE_S = 30.0, 5.0  # about as long at one number of tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns; for development")
    parser.add_argument("--lab", action="store_true", help="two nodes of a Slurm lab over a slow link too")
    parser.add_argument("--no-node", action="store_true", help="not the ranks of one node")
    parser.add_argument("--tokens", type=int, nargs="+", help=f"of a rank's batch; left out, {TOKENS}")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--ahead", action="store_true", help="in one node, of all other processes (root)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # what each rank is started with
    asked = parser.parse_args()
    if asked.measure:
        if asked.ahead:
            go_ahead()
        _measure(asked.measure, asked.tokens, asked.precision, QUICK_SIZE_S if asked.quick else SIZE_S)
        return

    def words(where: str) -> list[str]:
        tokens = asked.tokens or TOKENS[where]
        flags = [
            flag for flag, on in (("--quick", asked.quick), ("--ahead", asked.ahead and where == "one node")) if on
        ]
        return [__file__, *flags, "--precision", asked.precision, "--tokens", *map(str, tokens), "--measure"]

    rows = [] if asked.no_node else _shown(in_one_node(2, *words("one node")), "one node")
    if asked.lab:
        with lab_of_two_nodes() as lab:
            throttle(lab, LINK)
            rows += _shown(on_two_nodes(*words("two nodes")), "two nodes")
    print(write("ddp_step", rows))


# ---- on every rank ---------------------------------------------------------------------------------------------------


def _measure(path: Path, tokens: list[int], precision: str, for_s: float) -> None:
    with measuring(path) as (world, gloo, rows):
        for count in tokens:
            times, equal = _times_s(count, precision, world, gloo, for_s)
            rows.append({"tokens": count, "precision": precision, "equal": equal, "times_s": times})


def _times_s(
    tokens: int, precision: str, world: World, gloo: dist.ProcessGroup, for_s: float
) -> tuple[dict[str, list[float]], bool]:
    """Seconds of each kind of step, and whether both backends end with the same weights."""
    torch.manual_seed(1)
    bare = build(ModelSpec.model_validate(SHAPE), VOCABULARY)
    torch.manual_seed(world.rank)
    batch = torch.randint(VOCABULARY, (1, tokens + 1))
    models = {
        "ours": _data_parallel(copy.deepcopy(bare), None),
        "gloo": _data_parallel(copy.deepcopy(bare), gloo),
        "alone": bare,
    }
    calls: dict[str, Callable[[], object]] = {
        name: partial(_step, model, torch.optim.AdamW(model.parameters(), fused=True), batch, precision)
        for name, model in models.items()
    }
    calls["talk"] = partial(_talk, _buckets(bare))
    times = take_turns(calls, 1, world, for_s)
    both = zip(models["ours"].parameters(), models["gloo"].parameters(), strict=True)
    return times, all(torch.equal(ours, theirs) for ours, theirs in both)


def _data_parallel(model: nn.Module, group: dist.ProcessGroup | None) -> nn.Module:
    """As `strategy.data_parallel` does it, over any group."""
    return DistributedDataParallel(
        model, process_group=group, bucket_cap_mb=DEFAULT_BUCKET_BYTES / 2**20, gradient_as_bucket_view=True
    )


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch_BT: Tensor, precision: str) -> None:
    with autocast("cpu", precision):
        logits_BTV = model(batch_BT[:, :-1])
        loss = nn.functional.cross_entropy(logits_BTV.flatten(0, 1).float(), batch_BT[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _buckets(model: nn.Module) -> list[Tensor]:
    count = sum(parameter.numel() for parameter in model.parameters())
    return list(torch.zeros(count).split(DEFAULT_BUCKET_BYTES // 4))


def _talk(buckets: list[Tensor]) -> None:
    for work in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
        work.wait()


# ---- what it comes to ------------------------------------------------------------------------------------------------


def _shown(measured: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """The rows with their ratios and whether the bar holds, printed."""
    rows = [_row(of, where) for of in measured]
    link = f", links of {LINK}" if where == "two nodes" else ""
    print(f"\n{where}, 2 ranks{link}; ms\n{'tokens':>8}{'ours':>9}{'gloo':>9}{'alone':>9}{'talk':>9}", end="")
    print(f"  {'gloo / ours':<20}{'hidden':<20}{'turns':>6}  bar")
    for row in rows:
        ms = "".join(f"{row['ms'][name]:9.1f}" for name in ("ours", "gloo", "alone", "talk"))
        ratios = "".join(f"{Ratio(**row[name])!s:<20}" for name in ("faster", "hidden"))
        print(f"{row['tokens']:8}{ms}  {ratios}{row['turns']:6}  {row['bar']}", flush=True)
    return rows


def _row(measured: dict[str, Any], where: str) -> dict[str, Any]:
    times = measured.pop("times_s")
    apart = [alone + talk for alone, talk in zip(times["alone"], times["talk"], strict=True)]
    faster, hidden = ratio_of(times["gloo"], times["ours"]), ratio_of(times["ours"], apart)
    return {
        "where": where,
        **measured,
        "turns": len(apart),
        "ms": {name: 1e3 * median(of) for name, of in times.items()},
        "faster": asdict(faster),
        "hidden": asdict(hidden),
        "bar": _bar(where, measured, faster, hidden),
    }


def _bar(where: str, measured: dict[str, Any], faster: Ratio, hidden: Ratio) -> str:
    """`holds`, or what falls short of what."""
    short = [] if measured["equal"] else ["the weights differ"]
    if where == "one node" and faster.median < FASTER:
        short.append(f"{faster.median:.2f} < {FASTER}")
    if where == "two nodes" and hidden.median > HIDDEN:
        short.append(f"{hidden.median:.2f} > {HIDDEN}")
    return "; ".join(short) or "holds"


if __name__ == "__main__":
    sys.exit(main())
