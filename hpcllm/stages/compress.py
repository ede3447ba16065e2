"""Stage 50: quantize the trained model, and set size and decoding speed beside the original's."""

from __future__ import annotations

from pathlib import Path

import torch

from hpcllm.data.shards import Shards
from hpcllm.deploy.quantize import load_int8, quantize, save_int8, weights_files
from hpcllm.deploy.speed import decoding, measure_decoding
from hpcllm.evaluate.result import Result, signature, write_result
from hpcllm.job.spec import frozen_job
from hpcllm.launch.pipeline import Stage
from hpcllm.model.build import Model
from hpcllm.parallel.world import World
from hpcllm.progress import ProgressLines
from hpcllm.run_directory import Run
from hpcllm.train.checkpoint import trained_model

PRECISION = {"trained": "fp32", "compressed": "int8"}


def main(run: Run, stage: Stage, world: World) -> None:
    """Write exports/int8, and results/{trained,compressed}/{size,decoding-speed}.json."""
    progress = ProgressLines(stage.name, 2)
    original = trained_model(run)
    save_int8(run, quantize(original))
    progress(1, "quantized; measuring the decoding speed")
    for name, file in weights_files(run).items():
        write_result(run, stage, name, "size", _size(name, file))
    _measure_speed(run, stage, {"trained": original, "compressed": load_int8(run)})
    progress(2, "measured")


def _size(name: str, file: Path) -> Result:
    how = signature(format="safetensors", precision=PRECISION[name])
    return Result("size", file.stat().st_size, "bytes", f"{file.parent.name}/{file.name}", how)


def _measure_speed(run: Run, stage: Stage, models: dict[str, Model]) -> None:
    shards, context = Shards.open(run, "train"), frozen_job(run).model.context
    decode = {name: decoding(model, shards, context) for name, model in models.items()}
    speeds = measure_decoding({name: once for name, (once, _) in decode.items()})
    for name, speed in speeds.items():
        threads = torch.get_num_threads()
        how = signature(decoding="greedy", precision=PRECISION[name], threads=threads, rounds=len(speed.rounds))
        details = {"rounds": speed.rounds, "tokens": speed.tokens, "threads": threads}
        result = Result("decoding speed", speed.tokens_per_s, "tokens/s", decode[name][1], how, details)
        write_result(run, stage, name, "decoding-speed", result)
        print(f"{stage.id}: {name} decodes {speed.tokens_per_s:.0f} tokens/s on {threads} threads", flush=True)
