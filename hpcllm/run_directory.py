"""One run's whole truth on disk: every path of a run comes from `Run`, and every file of it is complete or absent.

RUN/
  profile.yaml job.yaml resolved.json plan.json    what was asked, and what was derived
  env/                                             the frozen software
  scripts/  state/  jobs.json  logs/               how it is run, and how far it came
  data/  checkpoints/  metrics/  results/  exports/  report.html
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcllm.errors import HpcllmError, UserError

FORMAT = 1  # of the run directory; a reader refuses any other


class _At:
    """A path inside a run directory."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: Run, owner: type[Run]) -> Path:
        return run.root / self.name


@dataclass(frozen=True)
class Run:
    """The names of everything in a run directory. Opening one is `Run.open`; `launch/` makes new ones."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> Run:
        """An existing run. Raises UserError when there is none, or when another version of hpcllm wrote it."""
        run = cls(root.absolute())
        if not run.resolved_json.exists():
            raise UserError(f"{root}: not a run directory (no resolved.json); hpcllm render JOB --out {root} makes one")
        found = read_json(run.resolved_json).get("format")
        if found != FORMAT:
            raise UserError(
                f"{run.resolved_json}: format: found {found!r}; this hpcllm reads {FORMAT}; "
                "render the job again into a new directory, or use the version of hpcllm named in env/software.json"
            )
        return run

    profile_yaml = _At("profile.yaml")
    job_yaml = _At("job.yaml")
    resolved_json = _At("resolved.json")
    plan_json = _At("plan.json")
    env = _At("env")
    software_json = _At("env/software.json")
    code = _At("env/code")
    environment_toml = _At("env/environment.toml")
    lifecycle = _At("env/lifecycle.bash")
    command = _At("env/command")
    command_diff = _At("env/command.diff")
    scripts = _At("scripts")
    submit_sh = _At("scripts/submit.sh")
    run_local_sh = _At("scripts/run-local.sh")
    state = _At("state")
    bad_nodes_json = _At("state/bad-nodes.json")
    jobs_json = _At("jobs.json")
    jobs_lock = _At("jobs.lock")
    choice_json = _At("choice.json")
    logs = _At("logs")
    data = _At("data")
    tokenizer_json = _At("data/tokenizer.json")
    shards = _At("data/shards")
    index_json = _At("data/index.json")
    checkpoints = _At("checkpoints")
    latest = _At("checkpoints/LATEST")
    metrics = _At("metrics")
    results = _At("results")
    probe_json = _At("results/probe.json")
    preflight_json = _At("results/preflight.json")
    exports = _At("exports")
    report_html = _At("report.html")

    def resolved(self) -> dict[str, Any]:
        """The frozen profile and job, with every default filled in."""
        resolved: dict[str, Any] = read_json(self.resolved_json)
        return resolved

    def script(self, stage_id: str) -> Path:
        """The sbatch script of a stage, `scripts/30-train.sbatch`."""
        return self.scripts / f"{stage_id}.sbatch"

    def local_script(self, stage_id: str) -> Path:
        """The script of a stage for a machine without a scheduler, `scripts/30-train.sh`."""
        return self.scripts / f"{stage_id}.sh"

    def log(self, stage_id: str, attempt: int | str) -> Path:
        """What one attempt of a stage said: `logs/30-train.1.log`."""
        return self.logs / f"{stage_id}.{attempt}.log"

    def slurm_log(self, stage_id: str) -> Path:
        """What Slurm itself said of all attempts (cancelled, out of memory): `logs/30-train.slurm.log`."""
        return self.log(stage_id, "slurm")

    def state_json(self, stage_id: str) -> Path:
        """What became of a stage."""
        return self.state / f"{stage_id}.json"

    def share_json(self, number: int) -> Path:
        """The shards that one of several jobs wrote, until index.json lists all: `data/shares/3.json`."""
        return self.data / "shares" / f"{number}.json"

    def checkpoint(self, step: int) -> Path:
        """The directory of the checkpoint after `step` optimizer steps."""
        return self.checkpoints / f"step-{step}"

    def metrics_jsonl(self, name: str) -> Path:
        """One line a step or event, appended: `metrics/train.jsonl`."""
        return self.metrics / f"{name}.jsonl"

    def export(self, name: str) -> Path:
        """The directory of what deployment made: `exports/int8`."""
        return self.exports / name

    def result_json(self, model: str, task: str) -> Path:
        """One evaluation: `results/<model>/<task>.json`."""
        return self.results / model / f"{task}.json"


@contextmanager
def atomic_path(target: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary name beside `target` to write a file or a directory to; renamed onto it when the block succeeds.

    On disk are the old content or the new one, never a part: everything is flushed before the rename, and the folder
    after it. When the block raises, what it wrote is removed. What can be made again at once, such as a copy of the
    code, may leave out the flush (`durable=False`): it is then whole unless the machine itself goes down.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        for path in _all_of(temporary) if durable else []:
            _fsync(path)
        if target.is_dir() and temporary.is_dir():  # a file never takes the place of a folder
            _remove(target)
        os.replace(temporary, target)
        if durable:
            _fsync(target.parent)
    finally:
        _remove(temporary)


def write_text(target: Path, text: str, executable: bool = False) -> None:
    """Write a text file, complete or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
        if executable:
            temporary.chmod(0o755)


def write_json(target: Path, data: Any) -> None:
    """Write a JSON file, complete or not at all."""
    write_text(target, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run. Raises HpcllmError naming the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HpcllmError(f"{path}: missing; the stage that writes it has not finished") from None
    except (OSError, ValueError) as error:
        raise HpcllmError(f"{path}: damaged: {error}; delete it and run the stage that writes it again") from None


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append one line in one write. A line that a killed writer left torn is ended first, so that it takes no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a torn one (a writer was killed) is passed over. A missing file has none."""
    records: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
    return records


def _all_of(path: Path) -> list[Path]:
    return [*path.rglob("*"), path] if path.is_dir() else [path]


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
