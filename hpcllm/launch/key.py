"""The key of a stage says of which job and which code an outcome is. Equal keys and `done`: nothing to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hpcllm.job.own_stage import OwnStage
from hpcllm.job.spec import AnyJob, frozen_any_job
from hpcllm.launch.pipeline import Stage, own_stage, stages
from hpcllm.run_directory import Run, read_json


def is_current(run: Run, stage: Stage, record: Mapping[str, Any], key: str | None = None) -> bool:
    """Whether what a record calls done is done for this job and by this code, and its files are still there.

    `key`: the stage's (of an element: its array's), where it is known.
    """
    current = record["key"] == (_of_element(key, stage) if key else stage_key(run, stage))
    return bool(current and all((run.root / name).exists() for name in stage.makes))


def stage_key(run: Run, stage: Stage) -> str:
    """Hash of everything that the outcome depends on, without reading any data."""
    return key_of(run.resolved()["job"], read_json(run.software_json), frozen_any_job(run), stage)


def key_of(plain_job: Mapping[str, Any], software: Mapping[str, Any], job: AnyJob, stage: Stage) -> str:
    """The same of what resolved.json and software.json hold, or will hold."""
    return _of_element(keys_of(plain_job, software, job)[stage.name], stage)


def _of_element(key: str, stage: Stage) -> str:
    """The key of its stage, and what an element of an array differs in."""
    if stage.element is None:
        return key
    return " ".join([key, *(f"{name}={value}" for name, value in stage.options.items())])


def keys_of(plain_job: Mapping[str, Any], software: Mapping[str, Any], job: AnyJob) -> dict[str, str]:
    """The key of every stage by its name."""
    keys: dict[str, str] = {}
    for stage in stages(job):  # each behind those that it waits for
        keys[stage.name] = _key(plain_job, software, own_stage(job, stage), stage, keys)
    return keys


def _key(
    plain_job: Mapping[str, Any],
    software: Mapping[str, Any],
    own: OwnStage | None,
    stage: Stage,
    before: Mapping[str, str],
) -> str:
    inputs = {
        "read": {section: plain_job.get(section) for section in stage.reads},
        "program": [stage.program, dict(stage.options)],
        "after": [before[name] for name in stage.after],
        "code": software.get("code_sha256"),
    }
    if own:  # our own code does not matter to it
        said = own.model_dump(mode="json", by_alias=True, exclude={"after", "before", "time_s"})
        inputs |= {"read": [said, plain_job.get("environment")], "code": (software.get("command") or {}).get("sha256")}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
