"""Two hundred pairs trained until they are known by heart: model, decoding and score are right, end to end.

Real sentences of the zh_CN language pack (pip install 'hpcllm[demo]'), through `hpcllm run` as anyone would.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcllm.run_directory import Run, read_json

JOB = """
name: by-heart
data:
  pairs:
    target_language: zh_CN
    gettext: ["package:jupyterlab_language_pack_{target_language}/**/*.mo"]
    minimum_words: 2
    limit: 200
  split: {validation: 0%, test: 0%}
  tokenizer: {kind: bpe, vocabulary: 4096}
model: {architecture: seq2seq, layers: 1, width: 128, heads: 4, feed_forward: 512, context: 128, positions: sinusoidal}
train:
  steps: 250
  global_batch: 16
  precision: fp32
  optimizer: {learning_rate: 3e-3, weight_decay: 0, beta2: 0.98}
  schedule: {warmup_steps: 20, minimum: 5%}
evaluate:
  bleu: {split: train}
deploy: {quantize: int8}
"""


@pytest.mark.mpi
def test_a_translator_that_knows_its_pairs_by_heart_scores_above_80(tmp_path: Path):
    pytest.importorskip("jupyterlab_language_pack_zh_CN")
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    run = Run(tmp_path / "run")

    done = subprocess.run(
        [sys.executable, "-m", "hpcllm", "run", str(tmp_path / "job.yaml"), "--ranks", "1", "--out", str(run.root)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    scores = {model: read_json(run.result_json(model, "bleu"))["value"] for model in ("trained", "copied", "untrained")}
    assert scores["trained"] > 80
    assert scores["trained"] > scores["copied"] > scores["untrained"]
    compressed = read_json(run.result_json("compressed", "bleu"))
    assert compressed["value"] > 80
    assert compressed["computed_on"] == "train part: 200 pairs"
