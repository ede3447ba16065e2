"""Reads a run directory into a `RunSummary`: whatever is there, at any moment of the run, and never writes.

What is not there yet is left empty. A file that is damaged becomes a warning that names it, and the rest is read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hpcllm.cluster.profile import frozen_profile
from hpcllm.errors import HpcllmError
from hpcllm.job.spec import CommandJob, Job, frozen_any_job
from hpcllm.launch.array import together
from hpcllm.launch.pipeline import Stage, stages
from hpcllm.launch.tracking.efficiency import accounted
from hpcllm.plan.plan import read_plan
from hpcllm.report import measure
from hpcllm.report.link_matrix import link_matrix
from hpcllm.report.summary import Evaluation, Event, Network, RunSummary, Sample, StageTime
from hpcllm.run_directory import Run, read_json
from hpcllm.units import format_count

PACKAGES = ("torch", "mpi4py", "mpich", "numpy", "h5py", "tokenizers", "sacrebleu")  # whose versions change results

ENDS = ("running", "done", "failed", "interrupted")  # outcomes that a stage's record may hold

T = TypeVar("T")


def collect_all(runs: Sequence[Run]) -> list[RunSummary]:
    """Everything that a report says of these runs, and what their jobs used: accounting is asked once for all."""
    return [replace(collect(run), accounted=used) for run, used in zip(runs, accounted(runs), strict=True)]


def collect(run: Run) -> RunSummary:
    """What a run directory tells. Raises nothing for what is missing or damaged."""
    reader = _Reader(run)
    job = reader.try_to(run.resolved_json, lambda: frozen_any_job(run))
    profile = reader.try_to(run.resolved_json, lambda: frozen_profile(run))
    plan = reader.try_to(run.plan_json, lambda: read_plan(run))
    train, validation, events = (reader.lines(name) for name in ("train", "validation", "events"))
    planned_steps = job.train.steps if isinstance(job, Job) else 0
    training = measure.training([line for line in train if "step" in line], validation, events, planned_steps)
    evaluations = tuple(_evaluations(reader))
    return RunSummary(
        path=str(run.root),
        name=job.name if job else run.root.name,
        description=job.description if job else "",
        cluster=profile.name if profile else "",
        verified=f"{profile.verified.how}, {profile.verified.date}" if profile else "",
        command=job.command if isinstance(job, CommandJob) else (),
        architecture=_architecture(job) if isinstance(job, Job) else "",
        texts=reader.try_to(run.index_json, partial(_texts, reader)) or "",
        data=job.data.model_dump_json(exclude={"shard_jobs"}) if isinstance(job, Job) else "",
        language=_language(job) if isinstance(job, Job) else "",
        label_smoothing=job.train.label_smoothing if isinstance(job, Job) else 0.0,
        plan=plan,
        training=training,
        predictions=measure.predictions(plan, training),
        evaluations=evaluations,
        compression=measure.compression(evaluations),
        samples=tuple(sample for evaluation in evaluations for sample in _samples(evaluation)),
        stages=tuple(_stage_times(reader, stages(job) if job else ())),
        events=tuple(map(_event, events)),
        environment=_environment(reader, events),
        network=reader.try_to(run.preflight_json, lambda: _network(read_json(run.preflight_json))),
        warnings=tuple(reader.warnings),
    )


class _Reader:
    """Reads the files of one run and remembers which were damaged."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.warnings: list[str] = []

    def try_to(self, path: Path, read: Callable[[], T]) -> T | None:
        """What `read` gives of the file at `path`; None when it is missing, with a warning when it is damaged."""
        if not path.exists():
            return None
        try:
            return read()
        except HpcllmError as error:
            self._warn(path, str(error).removeprefix(f"{path}: "))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._warn(path, f"not as expected: {type(error).__name__}: {error}")
        return None

    def json(self, path: Path) -> dict[str, Any]:
        """A JSON file that holds a map; empty when it is missing or damaged."""
        data = self.try_to(path, lambda: read_json(path))
        if data is not None and not isinstance(data, dict):
            self._warn(path, "damaged: expected a map")
        return data if isinstance(data, dict) else {}

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a metrics file.

        A torn last line is a writer at work, and every attempt that was killed may leave one; more are a warning.
        """
        path = self.run.metrics_jsonl(name)
        texts = self.try_to(path, lambda: path.read_text(encoding="utf-8", errors="replace").splitlines()) or []
        parsed = [_record(text) for text in texts]
        records = [record for record in parsed if record is not None]
        unreadable = len(parsed) - len(records)
        if unreadable > max((record.get("attempt", 1) for record in records), default=1):
            self._warn(path, f"{unreadable} of {len(texts)} lines cannot be read and are left out")
        return records

    def _warn(self, path: Path, what: str) -> None:
        warning = f"{path.relative_to(self.run.root)}: {what}"
        if warning not in self.warnings:
            self.warnings.append(warning)


def _record(text: str) -> dict[str, Any] | None:
    """One line of metrics: a map whose step and attempt, if it has them, are whole numbers."""
    try:
        data = json.loads(text)
    except ValueError:
        return None
    if not isinstance(data, dict):
        return None
    return data if all(isinstance(data.get(key, 0), int) for key in ("step", "attempt")) else None


def _architecture(job: Job) -> str:
    model, vocabulary = job.model, job.data.tokenizer.vocabulary
    kind = {"decoder": "decoder", "seq2seq": "encoder and decoder"}[model.architecture]
    parameters = format_count(model.parameters(vocabulary)).replace(" ", " ")
    return (
        f"{kind}, {model.layers} layers, width {model.width}, {model.heads} heads, context {model.context}, "
        f"{parameters} parameters with a vocabulary of {vocabulary}"
    )


def _language(job: Job) -> str:
    return job.data.pairs.target_language.replace("_", "-") if job.data.pairs else ""


def _texts(reader: _Reader) -> str:
    """How much there was to read: `39 documents (364 k tokens) to train, 7 (29.1 k) to validate, 5 (21 k) to test`."""
    parts = reader.json(reader.run.index_json).get("parts")
    said = [
        f"{part['documents']:,} ({format_count(part['tokens'])} tokens) to {verb}"
        for name, verb in (("train", "train"), ("validation", "validate"), ("test", "test"))
        if isinstance(part := (parts or {}).get(name), dict)
    ]
    return ", ".join(said)


def _evaluations(reader: _Reader) -> Iterator[Evaluation]:
    for path in sorted(reader.run.results.glob("*/*.json")):
        data = reader.json(path)
        if data:
            yield _evaluation(path, data)


def _evaluation(path: Path, data: dict[str, Any]) -> Evaluation:
    text = {key: str(data.get(key) or "") for key in ("metric", "unit", "computed_on", "signature", "commit")}
    command, details = data.get("command") or "", data.get("details")
    return Evaluation(
        model=path.parent.name,
        task=path.stem,
        value=measure.number(data.get("value")),
        command=" ".join(map(str, command)) if isinstance(command, list) else str(command),
        details=details if isinstance(details, dict) else {},
        **text,
    )


def _samples(evaluation: Evaluation) -> Iterator[Sample]:
    samples = evaluation.details.get("samples")
    for sample in samples if evaluation.task == "samples" and isinstance(samples, list) else []:
        if isinstance(sample, dict):
            reference = sample.get("reference")
            yield Sample(
                model=evaluation.model,
                prompt=str(sample.get("prompt", "")),
                text=str(sample.get("text", "")),
                reference=None if reference is None else str(reference),
            )


def _network(found: Mapping[str, Any]) -> Network | None:
    matrix = link_matrix({(link["hosts"][0], link["hosts"][1]): float(link["bytes_per_s"]) for link in found["links"]})
    said = tuple(f"{one['what']} ({one['cause']})" for one in found["findings"])
    return Network(str(found["held"]), matrix, said) if matrix else None


def _stage_times(reader: _Reader, rows: tuple[Stage, ...]) -> Iterator[StageTime]:
    for stage in rows:
        paths = {element.id: reader.run.state_json(element.id) for element in stage.elements}
        records = [reader.json(path) for path in paths.values()]
        state = reader.try_to(reader.run.state, partial(together, stage, records)) or {} if stage.array else records[0]
        path = paths[state.get("id", stage.elements[0].id)]
        # The stage that writes this report is at work while it does; it says nothing of itself.
        if stage.name == "gather" and state.get("outcome") == "running":
            continue
        unknown = StageTime(stage.id, stage.name, stage.after, "unknown" if path.exists() else "waiting")
        yield (reader.try_to(path, partial(_stage_time, stage, state, path)) or unknown)


def _stage_time(stage: Stage, state: Mapping[str, Any], path: Path) -> StageTime:
    """What a record says. Raises ValueError or TypeError where it is not one."""
    if state.get("outcome") not in ENDS:
        raise ValueError(f"outcome: found {state.get('outcome')!r}; expected one of {', '.join(ENDS)}")
    return StageTime(
        id=stage.id,
        name=stage.name,
        after=stage.after,
        outcome=state["outcome"],
        attempt=int(state.get("attempt", 1)),
        start=measure.number(state.get("start")),
        end=measure.number(state.get("end")),
        world_size=state.get("world_size"),
        hosts=tuple(map(str, state.get("hosts") or ())),
        job_id=None if state.get("job_id") is None else str(state["job_id"]),
        message=str(state.get("message") or ""),
        silent_s=max(0.0, time.time() - path.stat().st_mtime) if state["outcome"] == "running" else None,
    )


def _event(line: dict[str, Any]) -> Event:
    return Event(
        time=measure.number(line.get("time")),
        attempt=line.get("attempt"),
        event=str(line.get("event", "")),
        details={key: value for key, value in line.items() if key not in ("time", "attempt", "event")},
    )


def _environment(reader: _Reader, events: list[dict[str, Any]]) -> dict[str, str]:
    """The frozen software, one line each, and what the training said of itself at its start."""
    software = reader.json(reader.run.software_json)
    packages = [str(line) for line in software.get("pip_freeze") or () if str(line).partition("==")[0] in PACKAGES]
    changed = " and uncommitted changes" if software.get("dirty") else ""
    start: dict[str, Any] = next((line for line in reversed(events) if line.get("event") == "start"), {})
    reason = f" ({start['reason']})" if start.get("reason") else ""
    facts = {
        "hpcllm": software.get("version"),
        "commit": f"{software['commit']}{changed}" if software.get("commit") else None,
        "code": software.get("code_sha256"),
        "python": software.get("python"),
        "packages": ", ".join(packages),
        "device": start.get("device"),
        "precision": f"{start['precision']}{reason}" if start.get("precision") else None,
        "threads of a rank": start.get("threads"),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}
