"""Stage 20: turn the text into tokens, on all ranks, and write them to HDF5 shards."""

from __future__ import annotations

from hpcllm.data import loader, sharding
from hpcllm.data.corpus import PARTS
from hpcllm.data.shards import Shards
from hpcllm.data.tokenizer import Tokenizer
from hpcllm.errors import UserError
from hpcllm.job.spec import Job, frozen_job
from hpcllm.launch.pipeline import Stage
from hpcllm.parallel.world import World
from hpcllm.progress import ProgressLines
from hpcllm.run_directory import Run
from hpcllm.units import format_count


def main(run: Run, stage: Stage, world: World) -> None:
    """Write data/shards and data/index.json. Raises UserError when a part that is needed has too little in it."""
    job = frozen_job(run)
    tokenizer = Tokenizer.load(run.tokenizer_json)
    # One rank asks the filesystem what there is: a thousand that list the same folders would be a storm.
    groups = world.broadcast(sharding.plan_groups(job.data) if world.rank == 0 else [])

    own = sum(len(group.items) for group in groups[world.rank :: world.size])
    progress = ProgressLines(stage.name, own, quiet=world.rank > 0)
    sharding.write_shards(run, job.data, tokenizer, groups, world, progress)

    parts = [Shards.open(run, part) for part in PARTS]
    if world.rank == 0:
        for part in parts:
            print(f"{stage.id}: {_summary(part)}", flush=True)
    _check_parts(parts, job, world)


def _summary(part: Shards) -> str:
    num_tokens = sum(stream.num_tokens for stream in part.streams.values())
    what = "documents" if "text" in part.streams else "pairs"
    return f"{part.part}: {part.num_documents} {what}, {format_count(num_tokens)} tokens"


def _check_parts(parts: list[Shards], job: Job, world: World) -> None:
    """Say now, not after hours of training, that there is nothing to train or to evaluate on."""
    train, *held_out = parts
    loader.check_enough(train, job, world.size)
    shares = {"validation": job.data.split.validation, "test": job.data.split.test}
    for part in held_out:
        if shares[part.part] > 0 and part.num_documents == 0:
            raise UserError(
                f"data.split.{part.part}: found {shares[part.part]:.3g}; nothing fell into it "
                f"({train.num_documents} documents or pairs are in train); make it larger, give more and smaller "
                "files, or say 0% to go without"
            )
