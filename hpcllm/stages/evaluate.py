"""Stages 40 and 60: measure the trained model, and the compressed one, on text that neither has seen.

As an array each element measures one checkpoint by one task. The first checkpoint is the trained model; the others are
models of their own, `step-400`.
"""

from __future__ import annotations

from hpcllm.data.tokenizer import Tokenizer
from hpcllm.deploy.quantize import load_int8
from hpcllm.evaluate.tasks import Evaluated, evaluate
from hpcllm.job.spec import Job, frozen_job
from hpcllm.launch.pipeline import Stage
from hpcllm.model.build import Model
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run
from hpcllm.train.checkpoint import trained_model
from hpcllm.train.kept import chosen


def main(run: Run, stage: Stage, world: World) -> None:
    """Write results/<model>/<task>.json for every task that the job, or this element, asks for."""
    job, tokenizer = frozen_job(run), Tokenizer.load(run.tokenizer_json)
    tasks = [stage.options["task"]] if "task" in stage.options else job.evaluate.tasks
    found = _model(run, job, stage)
    if found is None:
        print(f"{stage.id}: training kept fewer checkpoints, so there is nothing to do", flush=True)
        return
    model, name, step = found
    evaluate(Evaluated(run, stage, world, job, tokenizer, model, name, step), tasks)


def _model(run: Run, job: Job, stage: Stage) -> tuple[Model, str, int] | None:
    """A model, what its results go under, and after how many steps it is; None where there are fewer checkpoints."""
    steps = chosen(run, job)
    if stage.options["model"] == "compressed":
        return load_int8(run), "compressed", steps[0]
    number = int(stage.options.get("checkpoint", 0))
    if number >= len(steps):
        return None
    return trained_model(run, steps[number]), "trained" if number == 0 else f"step-{steps[number]}", steps[number]
