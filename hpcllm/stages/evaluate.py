"""Stages 40 and 60: measure the trained model, and the compressed one, on text that neither has seen."""

from __future__ import annotations

from hpcllm.data.tokenizer import Tokenizer
from hpcllm.deploy.quantize import load_int8
from hpcllm.evaluate.tasks import Evaluated, evaluate
from hpcllm.job.spec import frozen_job
from hpcllm.launch.pipeline import Stage
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run
from hpcllm.train.checkpoint import trained_model

LOAD = {"trained": trained_model, "compressed": load_int8}


def main(run: Run, stage: Stage, world: World) -> None:
    """Write results/<model>/<task>.json for every task that the job asks for."""
    name = stage.options["model"]
    evaluate(Evaluated(run, stage, world, frozen_job(run), Tokenizer.load(run.tokenizer_json), LOAD[name](run), name))
