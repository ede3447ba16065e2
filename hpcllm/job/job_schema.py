"""JSON Schema of a job file, for editors: which kind of job it is shows in its keys."""

from __future__ import annotations

from typing import Any

from hpcllm.job.spec import CommandJob, Job, StagesJob
from hpcllm.schema import DEFINITIONS, DIALECT, schema


def job_schema() -> dict[str, Any]:
    """Of all kinds that a file may hold; it chooses as `kind_of` does."""
    kinds = {kind.__name__: schema(kind) for kind in (Job, CommandJob, StagesJob)}
    definitions = {name: part for made in kinds.values() for name, part in made.pop("definitions").items()}
    for made in kinds.values():
        made.pop("$schema")
    training = {"anyOf": [{"required": [key]} for key in ("data", "model", "train")]}
    own = {"if": {"required": ["stages"]}, "then": _ref("StagesJob"), "else": _ref("Job")}
    return {
        "$schema": DIALECT,
        "title": "Job",
        "description": "A training, a program of one's own, or several of these.",
        "if": {"required": ["command"]},
        "then": _ref("CommandJob"),
        "else": {"if": training, "then": _ref("Job"), "else": own},
        "definitions": {**definitions, **kinds},
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"{DEFINITIONS}{name}"}
