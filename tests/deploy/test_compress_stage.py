"""Stage compress: size and decoding speed of both models; and the compressed one evaluated."""

import pytest

from hpcllm.deploy.speed import measure_decoding
from hpcllm.job.spec import frozen_job
from hpcllm.launch.pipeline import find_stage
from hpcllm.parallel.world import World
from hpcllm.run_directory import read_json
from hpcllm.stages import compress, evaluate


@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_size_and_speed_stand_beside_the_originals_and_the_compressed_model_is_evaluated(run_with_model, architecture):
    run = run_with_model(architecture, deploy={"quantize": "int8"})
    job = frozen_job(run)

    compress.main(run, find_stage(job, "compress"), World.alone())
    evaluate.main(run, find_stage(job, "evaluate-compressed"), World.alone())

    for task in ("size", "decoding-speed"):
        own, original = (read_json(run.result_json(model, task)) for model in ("compressed", "trained"))
        assert own["unit"] == original["unit"]
        assert own["command"] == f"hpcllm stage compress {run.root}"
    speed = read_json(run.result_json("compressed", "decoding-speed"))
    assert "threads:" in speed["signature"]
    assert min(speed["details"]["rounds"]) <= speed["value"] <= max(speed["details"]["rounds"])
    assert read_json(run.result_json("compressed", "perplexity"))["value"] > 1
    assert "precision:int8" in read_json(run.result_json("compressed", "perplexity"))["signature"]
    assert not run.result_json("xz", "bits-per-byte").exists()


def test_models_decode_in_turns():
    calls = []

    def decoder(name):
        return lambda: calls.append(name) or 10

    speeds = measure_decoding({"a": decoder("a"), "b": decoder("b")}, rounds=3)

    assert calls == ["a", "b"] * 4
    assert speeds["a"].tokens == 10
    assert len(speeds["a"].rounds) == 3
