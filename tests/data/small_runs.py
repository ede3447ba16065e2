"""Run directories with a little text in them, as `hpcllm render` would leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcllm.job.spec import Job
from hpcllm.run_directory import FORMAT, Run, write_json

_MODEL = {"layers": 1, "width": 8, "heads": 1, "feed_forward": 8, "context": 16}
_TRAIN = {"steps": 10, "global_batch": 4}


def new_run(root: Path, data: dict[str, Any], **sections: Any) -> Run:
    """A run directory that holds a job with this data section; other sections as given beside it."""
    architecture = "seq2seq" if "pairs" in data else "decoder"
    job = {
        "name": "small",
        "data": {"tokenizer": {"kind": "byte"}, **data},
        "model": {**_MODEL, "architecture": architecture, **sections.get("model", {})},
        "train": {**_TRAIN, **sections.get("train", {})},
    }
    Job.model_validate(job)
    run = Run(root)
    write_json(run.resolved_json, {"format": FORMAT, "job": job})
    return run


def write_corpus(folder: Path, count: int = 60, words: int = 30) -> Path:
    """Files of different lengths, with signs of two and three bytes in them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        text = " ".join(f"word{number * i % 97} é 字" for i in range(1 + number % words))
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return folder


def write_aligned(folder: Path, count: int = 60) -> dict[str, Any]:
    """Two aligned files; the data section that reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = [f"sentence {n} " + "of words " * (n % 5) for n in range(count)]
    (folder / "source.txt").write_text("\n".join(sources) + "\n", encoding="utf-8")
    (folder / "target.txt").write_text(
        "\n".join(f"第{n}句" + "话" * (n % 7) for n in range(count)) + "\n", encoding="utf-8"
    )
    return {
        "target_language": "zh_CN",
        "source_file": str(folder / "source.txt"),
        "target_file": str(folder / "target.txt"),
    }
