"""The key of a stage says of which job and which code an outcome is. Equal keys and `done`: nothing to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hpcllm.job.spec import AnyJob, frozen_any_job
from hpcllm.launch.pipeline import Stage, find_stage, own_stage
from hpcllm.run_directory import Run, read_json


def is_current(run: Run, stage: Stage, record: Mapping[str, Any]) -> bool:
    """Whether what a record calls done is done for this job and by this code, and its files are still there."""
    return bool(record["key"] == stage_key(run, stage) and all((run.root / name).exists() for name in stage.makes))


def stage_key(run: Run, stage: Stage) -> str:
    """Hash of everything that the outcome depends on, without reading any data."""
    return key_of(run.resolved()["job"], read_json(run.software_json), frozen_any_job(run), stage)


def key_of(plain_job: Mapping[str, Any], software: Mapping[str, Any], job: AnyJob, stage: Stage) -> str:
    """The same of what resolved.json and software.json hold, or will hold."""
    own = own_stage(job, stage)
    inputs = {
        "read": {section: plain_job.get(section) for section in stage.reads},
        "program": [stage.program, dict(stage.options)],
        "after": [key_of(plain_job, software, job, find_stage(job, name)) for name in stage.after],
        "code": software.get("code_sha256"),
    }
    if own:  # our own code does not matter to it
        said = own.model_dump(mode="json", by_alias=True, exclude={"after", "before", "time_s"})
        inputs |= {"read": [said, plain_job.get("environment")], "code": (software.get("command") or {}).get("sha256")}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
