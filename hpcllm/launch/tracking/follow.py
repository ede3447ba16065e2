"""The logs of a run line by line as they are written, through every attempt, until the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.array import every_log_id
from hpcllm.launch.pipeline import find_stage, stages
from hpcllm.launch.tracking.logs import log_files
from hpcllm.launch.tracking.track import RunStatus, StageStatus, goes_on, status
from hpcllm.run_directory import Run

LOOK_S = 0.5  # between two looks at the files, which cost the scheduler nothing


def follow(
    run: Run, stage_name: str | None, poll_s: float, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """Lines as they are written, of a stage or of all, through every attempt, until none of them goes on.

    A header stands where another file goes on; a line in brackets where a stage changes its state. The ranks' labels
    are the launcher's. The scheduler is asked every `poll_s` seconds.
    """
    job = frozen_any_job(run)
    rows = [find_stage(job, stage_name)] if stage_name else list(stages(job))
    names, ids = {row.name for row in rows}, [one for row in rows for one in every_log_id(row)]
    reader = _Reader({path for stage_id in ids for path in log_files(run, stage_id)[:-1]})
    said: dict[str, str] = {}
    asked_s, lives = -poll_s, True
    while True:
        if time.monotonic() - asked_s >= poll_s:
            found = tuple(stage for stage in status(run) if stage.stage in names)
            asked_s, lives = time.monotonic(), goes_on(RunStatus(found))
        files = [path for stage_id in ids for path in (*log_files(run, stage_id), run.slurm_log(stage_id))]
        yield from reader.new_lines(files, to_the_end=not lives)
        yield from _changes(found, said)
        if not lives:
            return
        sleep(LOOK_S)


def _changes(found: Sequence[StageStatus], said: dict[str, str]) -> Iterator[str]:
    """A line for each stage that has another state than was said."""
    for stage in found:
        now = f"[{stage.stage}: {stage.state}{': ' + stage.reason if stage.reason else ''}]"
        if said.get(stage.stage) != now:
            yield now
        said[stage.stage] = now


class _Reader:
    """Reads files that grow, whole lines only, each byte once."""

    def __init__(self, skipped: set[Path]) -> None:
        self._offsets: dict[Path, int] = {path: path.stat().st_size for path in skipped}
        self._shown: Path | None = None

    def new_lines(self, files: list[Path], to_the_end: bool) -> Iterator[str]:
        """What came since the last call; at the end also a line that was never ended."""
        for path in files:
            new = self._new_bytes(path)
            whole = new if to_the_end else new[: new.rfind(b"\n") + 1]
            self._offsets[path] = self._offsets.get(path, 0) + len(whole)
            if whole and path != self._shown:
                yield f"==> {path}"
                self._shown = path
            yield from whole.decode("utf-8", errors="replace").splitlines()

    def _new_bytes(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                return file.read()
        except FileNotFoundError:
            return b""
