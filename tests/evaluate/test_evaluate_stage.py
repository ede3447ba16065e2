"""Stage evaluate: what it writes, beside which yardsticks, and the same on any number of ranks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hpcllm.data.shards import Shards
from hpcllm.errors import HpcllmError
from hpcllm.job.spec import frozen_job
from hpcllm.launch.pipeline import find_stage
from hpcllm.parallel.world import World
from hpcllm.run_directory import read_json
from hpcllm.stages import evaluate
from hpcllm.train import checkpoint
from hpcllm.train.checkpoint import trained_model

KEYS = {"name", "metric", "value", "unit", "computed_on", "signature", "command", "commit", "details"}
PAIRS = {"evaluate": {"bleu": {"split": "test"}, "samples": {"count": 2}}}


def evaluated(run, name="evaluate"):
    evaluate.main(run, find_stage(frozen_job(run), name), World.alone())
    return results(run)


def results(run):
    return {f"{path.parent.name}/{path.stem}": read_json(path) for path in run.results.glob("*/*.json")}


def test_a_text_model_is_measured_beside_xz(run_with_model):
    run = run_with_model("decoder", evaluate={"samples": {"prompts": ["words", "Größe"], "new": "7 tokens"}})

    found = evaluated(run)

    assert set(found) == {"trained/perplexity", "trained/bits-per-byte", "trained/samples", "xz/bits-per-byte"}
    assert all(set(result) == KEYS for result in found.values())
    shards = Shards.open(run, "test")
    own, xz = found["trained/bits-per-byte"], found["xz/bits-per-byte"]
    assert own["details"]["bytes"] == xz["details"]["bytes"] == shards.text_bytes["text"]
    assert own["details"]["targets"] == shards.streams["text"].num_tokens
    assert own["computed_on"] == xz["computed_on"]
    assert found["trained/perplexity"]["command"] == f"hpcllm stage evaluate {run.root}"
    assert [sample["prompt"] for sample in found["trained/samples"]["details"]["samples"]] == ["words", "Größe"]


def test_a_signature_says_everything_that_a_comparison_needs(run_with_model):
    result = evaluated(run_with_model("decoder"))["trained/perplexity"]

    names = [choice.split(":")[0] for choice in result["signature"].split("|")]
    assert names == ["tokenizer", "context", "stride", "precision", "tokens", "bytes"]


def test_without_prompts_held_out_documents_are_continued(run_with_model):
    run = run_with_model("decoder", evaluate={"samples": {"count": 2, "new": "3 tokens"}})

    samples = evaluated(run)["trained/samples"]["details"]["samples"]

    assert len(samples) == 2
    assert all(sample["prompt"].startswith("Größe") for sample in samples)


def test_where_nothing_is_held_out_nothing_is_claimed(run_with_model, capsys):
    run = run_with_model("decoder", data={"split": {"validation": 0, "test": 0}})

    assert evaluated(run) == {}
    assert "nothing is held out" in capsys.readouterr().out


def test_samples_come_from_the_part_that_bleu_scores(run_with_model):
    nothing_held_out = {"split": {"validation": 0, "test": 0}}
    run = run_with_model("seq2seq", data=nothing_held_out, evaluate={"bleu": {"split": "train", "pairs": 4}})

    found = evaluated(run)

    assert found["trained/samples"]["computed_on"] == "first sentences of the train part"
    assert len(found["trained/samples"]["details"]["samples"]) == 3
    assert found["trained/bleu"]["computed_on"] == "train part: 4 pairs"


def test_a_translator_is_measured_beside_the_source_copied_and_an_untrained_model(run_with_model):
    found = evaluated(run_with_model("seq2seq", **PAIRS))

    assert {name for name in found if name.endswith("bleu")} == {"trained/bleu", "untrained/bleu", "copied/bleu"}
    assert "tok:zh" in found["trained/bleu"]["signature"]
    # The checkpoint of this test was not trained, so both models say the same.
    assert found["trained/bleu"]["value"] == found["untrained/bleu"]["value"]
    assert set(found["trained/samples"]["details"]["samples"][0]) == {"prompt", "text", "reference"}


def test_xz_is_refused_when_the_text_changed_since_it_was_sharded(run_with_model, tmp_path):
    run = run_with_model("decoder")
    for path in tmp_path.glob("*.txt"):
        path.write_text("another text", encoding="utf-8")

    with pytest.raises(HpcllmError, match="changed"):
        evaluated(run)


def test_words_that_are_not_known_make_no_bits_per_byte(run_with_model, capsys):
    run = run_with_model("decoder", data={"tokenizer": {"kind": "word", "vocabulary": 260}})

    found = evaluated(run)

    assert "trained/perplexity" in found
    assert "trained/bits-per-byte" not in found
    assert "no bits per byte" in capsys.readouterr().out


@pytest.mark.mpi
@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_two_ranks_write_what_one_writes(run_with_model, architecture):
    sections = PAIRS if architecture == "seq2seq" else {}
    run = run_with_model(architecture, **sections)
    alone = evaluated(run)
    shutil.rmtree(run.results)
    script = (
        "import sys; from hpcllm.launch.pipeline import find_stage; from hpcllm.job.spec import frozen_job\n"
        "from hpcllm.parallel.world import World; from hpcllm.run_directory import Run\n"
        "from hpcllm.stages import evaluate; from pathlib import Path\n"
        "run = Run(Path(sys.argv[1])); evaluate.main(run, find_stage(frozen_job(run), 'evaluate'), World.of_mpi())"
    )
    beside = Path(sys.executable).with_name("mpirun")
    launcher = str(beside) if beside.exists() else "mpirun"

    subprocess.run(
        [launcher, "-n", "2", sys.executable, "-c", script, str(run.root)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=120,
    )  # fmt: skip

    together = results(run)
    assert set(together) == set(alone)
    for name, result in together.items():
        assert result["value"] == (None if result["value"] is None else pytest.approx(alone[name]["value"], rel=1e-6))
    assert together["trained/samples"] == alone["trained/samples"]


def test_a_diverged_model_is_named_and_not_written(run_with_model):
    run = run_with_model("decoder")
    model = trained_model(run)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    checkpoint.save(run, frozen_job(run), model, torch.optim.AdamW(model.parameters()), 2, "fp32", World.alone())

    with pytest.raises(HpcllmError, match="diverged"):
        evaluated(run)

    assert not run.results.exists()


def test_each_element_of_an_array_measures_one_checkpoint_by_one_task(run_with_model, capsys):
    several = {"train": {"steps": 3, "global_batch": 2, "checkpoint": {"every_steps": 1, "keep": 3}}}
    run = run_with_model(
        "decoder", **several, evaluate={"checkpoints": "all", "samples": {"count": 1, "new": "3 tokens"}}
    )
    job = frozen_job(run)
    save_again(run, job, step=2)

    for element in find_stage(job, "evaluate").elements:
        evaluate.main(run, element, World.alone())

    assert set(results(run)) == {
        *("trained/perplexity", "trained/bits-per-byte", "trained/samples", "xz/bits-per-byte"),
        *("step-1/perplexity", "step-1/bits-per-byte", "step-1/samples"),
    }
    assert results(run)["trained/perplexity"]["details"]["step"] == 2
    assert results(run)["step-1/perplexity"]["command"] == f"hpcllm stage evaluate {run.root} --part 2/6"
    assert capsys.readouterr().out.count("training kept fewer checkpoints, so there is nothing to do") == 2


def save_again(run, job, step):
    """The same weights as a later checkpoint."""
    model = trained_model(run)
    checkpoint.save(run, job, model, torch.optim.AdamW(model.parameters()), step, "fp32", World.alone())
