"""One figure of an evaluation, and the file that it becomes: `results/<model>/<task>.json`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpcllm.job.spec import frozen_job
from hpcllm.launch.pipeline import Stage, find_stage
from hpcllm.run_directory import Run, read_json, write_json


@dataclass(frozen=True)
class Result:
    """A figure with everything that one needs to compare it with another."""

    metric: str
    """What is measured: `perplexity`, `bits per byte`, `BLEU`."""
    value: float | None
    """None: there is no number, only `details` (samples)."""
    unit: str
    computed_on: str
    """The text it was measured on: `test part: 24 documents, 477,512 bytes`."""
    signature: str
    """How, to the last choice, as sacrebleu has it: `name:value|name:value`. Equal signatures are comparable."""
    details: Mapping[str, Any] = field(default_factory=dict)


def write_result(run: Run, stage: Stage, model: str, task: str, result: Result) -> None:
    """Write one result, complete or not at all, with the job's name, the command that computes it and the commit."""
    write_json(
        run.result_json(model, task),
        {
            "name": frozen_job(run).name,
            "metric": result.metric,
            "value": result.value,
            "unit": result.unit,
            "computed_on": result.computed_on,
            "signature": result.signature,
            "command": shlex.join(["hpcllm", "stage", stage.name, str(run.root), *_part(run, stage)]),
            "commit": commit(run),
            "details": dict(result.details),
        },
    )


def _part(run: Run, element: Stage) -> list[str]:
    """Of an array the element alone."""
    if element.element is None:
        return []
    return ["--part", f"{element.element}/{len(find_stage(frozen_job(run), element.name).array)}"]


def commit(run: Run) -> str | None:
    """The commit of hpcllm that the run was rendered with; `-dirty` when files of it were changed since."""
    software = read_json(run.software_json)
    return f"{software['commit']}{'-dirty' if software['dirty'] else ''}" if software["commit"] else None


def signature(**choices: object) -> str:
    """`signature(stride=256, precision="fp32")` -> `stride:256|precision:fp32`."""
    return "|".join(f"{name}:{value}" for name, value in choices.items())
