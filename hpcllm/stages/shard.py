"""Stage 20: turn the text into tokens, on all ranks of one or several jobs, and write them to HDF5 shards."""

from __future__ import annotations

from hpcllm.data import loader, sharding
from hpcllm.data.corpus import PARTS
from hpcllm.data.sharding import ALL, Share
from hpcllm.data.shards import Shards
from hpcllm.data.tokenizer import Tokenizer
from hpcllm.errors import UserError
from hpcllm.job.spec import Job, frozen_job
from hpcllm.launch.pipeline import Stage, find_stage
from hpcllm.parallel.world import World
from hpcllm.plan.plan import read_plan
from hpcllm.progress import ProgressLines
from hpcllm.run_directory import Run
from hpcllm.units import format_count


def main(run: Run, stage: Stage, world: World) -> None:
    """Write data/shards and data/index.json; an element of an array its share of them, which `merge` puts together.

    Raises UserError when a part that is needed has too little in it.
    """
    job = frozen_job(run)
    tokenizer = Tokenizer.load(run.tokenizer_json)
    # One rank asks the filesystem what there is: a thousand that list the same folders would be a storm.
    groups = world.broadcast(sharding.plan_groups(job.data) if world.rank == 0 else [])
    share = Share.parse(stage.options["share"]) if "share" in stage.options else ALL

    own = sum(len(group.items) for group in share.of_rank(groups, world))
    progress = ProgressLines(stage.name, own, quiet=world.rank > 0)
    sharding.write_shards(run, job.data, tokenizer, groups, world, progress, share)
    if share == ALL:
        _check(run, job, world.size, quiet=world.rank > 0)


def merge(run: Run) -> None:
    """Make data/index.json of what the elements of an array wrote. Raises UserError as `main`."""
    job = frozen_job(run)
    sharding.finish(run, job.data, Tokenizer.load(run.tokenizer_json))
    _check(run, job, read_plan(run).world_size)


def _summary(part: Shards) -> str:
    num_tokens = sum(stream.num_tokens for stream in part.streams.values())
    what = "documents" if "text" in part.streams else "pairs"
    return f"{part.part}: {part.num_documents} {what}, {format_count(num_tokens)} tokens"


def _check(run: Run, job: Job, world_size: int, quiet: bool = False) -> None:
    """Say what there is; and now, not after hours of training, that there is nothing to train or to evaluate on."""
    train, *held_out = parts = [Shards.open(run, part) for part in PARTS]
    for part in parts if not quiet else ():
        print(f"{find_stage(job, 'shard').id}: {_summary(part)}", flush=True)
    loader.check_enough(train, job, world_size)
    shares = {"validation": job.data.split.validation, "test": job.data.split.test}
    for part in held_out:
        if shares[part.part] > 0 and part.num_documents == 0:
            raise UserError(
                f"data.split.{part.part}: found {shares[part.part]:.3g}; nothing fell into it "
                f"({train.num_documents} documents or pairs are in train); make it larger, give more and smaller "
                "files, or say 0% to go without"
            )
