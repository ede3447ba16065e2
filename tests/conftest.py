"""What tests of several folders share: a run directory that holds everything but training."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcllm.run_directory import FORMAT, Run, write_json

# Ranks of a test share a few cores, and threads that spin while they wait would take them from those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

MODEL = {"layers": 2, "width": 32, "heads": 2, "feed_forward": 64, "context": 32}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also what takes minutes: every case, not one of each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes is left out, unless asked for."""
    if config.getoption("--long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def run_with_model(tmp_path: Path) -> Callable[..., Run]:
    """make(architecture, **sections): tokenizer, shards and a checkpoint whose weights are still the first ones."""
    # Imported here, because most tests need no torch.
    import torch

    from hpcllm.data.tokenizer import Tokenizer
    from hpcllm.job.spec import Job
    from hpcllm.launch.pipeline import find_stage
    from hpcllm.parallel.world import World
    from hpcllm.stages import shard, tokenizer
    from hpcllm.train import checkpoint

    def make(architecture: str = "decoder", **sections: Any) -> Run:
        data = _text(tmp_path) if architecture == "decoder" else _pairs(tmp_path)
        job = Job.model_validate(
            {
                "name": "small",
                "train": {"steps": 1, "global_batch": 2},
                **sections,
                "data": {
                    "tokenizer": {"kind": "byte"},
                    "split": {"validation": 0.2, "test": 0.3},
                    **data,
                    **sections.get("data", {}),
                },
                "model": {**MODEL, "architecture": architecture},
            }
        )
        run = Run(tmp_path / "run")
        write_json(run.resolved_json, {"format": FORMAT, "job": job.model_dump(mode="json", by_alias=True)})
        write_json(run.software_json, {"commit": "0" * 40, "dirty": False, "code_sha256": "0" * 64})
        tokenizer.main(run, find_stage(job, "tokenizer"), World.alone())
        shard.main(run, find_stage(job, "shard"), World.alone())
        model = checkpoint.fresh_model(job, Tokenizer.load(run.tokenizer_json).vocabulary_size)
        checkpoint.save(run, job, model, torch.optim.AdamW(model.parameters()), 1, "fp32", World.alone())
        return run

    return make


def _text(folder: Path) -> dict[str, Any]:
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"Größe {number} " + "of words " * (number % 5), encoding="utf-8")
    return {"text": {"files": [str(folder / "*.txt")]}}


def _pairs(folder: Path) -> dict[str, Any]:
    (folder / "a.en").write_text("\n".join(f"open {n} files" for n in range(30)), encoding="utf-8")
    (folder / "a.zh").write_text("\n".join(f"打开{n}个文件" for n in range(30)), encoding="utf-8")
    files = {"source_file": str(folder / "a.en"), "target_file": str(folder / "a.zh")}
    return {"pairs": {"target_language": "zh_CN", **files}}
