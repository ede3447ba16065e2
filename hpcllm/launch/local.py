"""The DAG in the foreground: stage after stage by its rendered script, with progress, until the end or a signal."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hpcllm.cluster.profile import frozen_profile
from hpcllm.errors import DoesNotFit, ExitCode, HpcllmError, Interrupted, UserError
from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.live_view import Outcome, View, make_view
from hpcllm.launch.pipeline import Stage, stages
from hpcllm.launch.tracking.logs import log_files
from hpcllm.run_directory import Run

LAST_LINES = 15

_ERRORS: dict[int, type[HpcllmError]] = {
    ExitCode.USER_MISTAKE: UserError,
    ExitCode.DOES_NOT_FIT: DoesNotFit,
    ExitCode.INTERRUPTED: Interrupted,
}
_OUTCOMES: dict[int, Outcome] = {ExitCode.DONE: "done", ExitCode.INTERRUPTED: "interrupted"}


def run_local(run: Run, quiet: bool = False) -> None:
    """Run every stage that is not done, here, one after the other.

    Ctrl-C, TERM and USR2 are handed to the stage, which saves; a second Ctrl-C kills it. Raises Interrupted (75) then;
    HpcllmError, or the error of the stage's exit code, with the end of its log, when a stage fails.
    """
    rows = stages(frozen_any_job(run))
    for_slurm = frozen_profile(run).scheduler.kind == "slurm"
    with make_view(run.root, rows, quiet) as view, _Signals() as signals:
        for stage in rows:
            path = run.script(stage.id) if for_slurm else run.local_script(stage.id)
            view.begin(stage)
            code = _run_script(path, view, signals)
            view.end(stage, _OUTCOMES.get(code, "failed"))
            if code:
                raise _error(run, stage, code)


class _Signals:
    """Hands signals on to the script that runs now. Outside of the main thread Python has no handlers; so none here."""

    _HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

    def __init__(self) -> None:
        self.stopping = False
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Signals:
        main = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.signal(number, self._stop) for number in self._HANDLED if main}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def to(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """While the block runs, signals go to this process."""
        self._process = process
        try:
            yield
        finally:
            self._process = None

    def _stop(self, number: int, frame: FrameType | None) -> None:
        again, self.stopping = self.stopping, True
        if self._process is None:
            return
        if again and number == signal.SIGINT:
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.send_signal(signal.SIGUSR2)


def _run_script(path: Path, view: View, signals: _Signals) -> int:
    """The exit code of a script, whose lines go to the view as they come. It writes its own log."""
    if signals.stopping:
        return ExitCode.INTERRUPTED
    process = subprocess.Popen(
        ["bash", str(path)],
        env={**os.environ, "HPCLLM_FOREGROUND": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # the terminal's Ctrl-C comes to us alone
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout is not None
    with signals.to(process), process.stdout as lines:
        for line in lines:
            view.line(line.rstrip("\n"))
        code = process.wait()
    return ExitCode.INTERRUPTED if code == -signal.SIGUSR2 else code if code >= 0 else 128 - code


def _error(run: Run, stage: Stage, code: int) -> HpcllmError:
    ours = stage.program or code == ExitCode.INTERRUPTED  # a program of the user's has exit codes of its own
    kind = _ERRORS.get(code, HpcllmError) if ours else HpcllmError
    if kind is Interrupted:
        return Interrupted(
            f"{stage.id} was interrupted and saved what it had; go on with: hpcllm run {shlex.quote(str(run.root))}"
        )
    logs = log_files(run, stage.id)
    if not logs:
        return kind(f"{stage.id} failed (exit code {code}) before it wrote a log")
    lines = logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    return kind(f"{stage.id} failed (exit code {code}); the end of {logs[-1]}:\n" + "\n".join(f"  {x}" for x in lines))
