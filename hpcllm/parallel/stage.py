"""One stage on its ranks: is it done already, is another one at it, what became of it.

`hpcllm stage NAME RUN` is this. The record `state/NN-stage.json` says attempt, job, host, start, end and outcome, and
the *key*: a hash of what the stage read of the job, of the keys of the stages before it, and of the code. The same key
and the outcome `done` mean that there is nothing to do. Data is never read again to find that out.

Of an array each element has a record of its own. Without `--part` one start does all elements, one after the other.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from hpcllm.errors import ExitCode, HpcllmError, Interrupted, UserError
from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.array import Part, are_done, is_done
from hpcllm.launch.key import stage_key
from hpcllm.launch.pipeline import Stage, find_stage
from hpcllm.launch.process import writer_lives
from hpcllm.parallel.expected import ranks_of_run
from hpcllm.parallel.interfaces import start_mpi
from hpcllm.parallel.launched import library_here, singletons, started_as
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run, read_json, write_json

HEARTBEAT_S = 10.0
GRACE_S = 2.0


def run_stage(run: Run, name: str, part: str | None = None) -> None:
    """Do one stage, or its part of an array (`3/8`), as far as it is not done.

    Raises HpcllmError with the exit code that the script acts on.
    """
    stage = find_stage(frozen_any_job(run), name)
    if not stage.program:
        raise UserError(f"{run.root}: runs a command of its own, which only its script can start")
    elements = Part.parse(part).elements(stage) if part else stage.elements
    alone = partial(record_failure, run, (*elements, stage)[0], World.alone())
    world = start_mpi(alone) if stage.ranks == "all" else World.alone()
    try:
        _check_ranks(run, stage, world)
        missing = world.broadcast(_missing_before(run, stage) if world.rank == 0 else None)
        if missing:
            raise UserError(
                f"{stage.id}: {missing} is not done with what the job says now; hpcllm stage {missing} first"
            )
        for element in elements:
            _run_element(run, stage, element, world, part)
        if world.rank == 0:
            _merge(run, stage)
    except Interrupted as interrupted:  # every rank agreed on it and has saved; one says so
        if world.rank != 0:
            raise SystemExit(int(interrupted.exit_code)) from None
        raise
    except Exception as error:
        if world.size > 1:
            _abort(stage, world, error)
        raise


def _run_element(run: Run, stage: Stage, element: Stage, world: World, part: str | None) -> None:
    """One element of an array, or a stage that is none. The last one puts together what all have made."""
    key = stage_key(run, element)
    if world.broadcast(world.rank == 0 and are_done(run, stage, [element])):
        _say(world, f"{element.id}: done already, nothing to do")
        return
    refusal = world.broadcast(_refusal(run, element) if world.rank == 0 else None)
    if refusal:
        raise UserError(refusal)
    module, function = stage.program.split(":")
    with _recorded(run, element, world, key, part):
        getattr(importlib.import_module(module), function)(run, element, world)
        others = [other for other in stage.elements if other != element]
        if stage.array and world.rank == 0 and are_done(run, stage, others):
            _call_merge(run, stage)


def _merge(run: Run, stage: Stage) -> None:
    """Put together what the elements of an array have made, where all are done and it is not there."""
    if stage.array and not is_done(run, stage) and are_done(run, stage, stage.elements):
        _call_merge(run, stage)


def _call_merge(run: Run, stage: Stage) -> None:
    if stage.merge:
        module, function = stage.merge.split(":")
        getattr(importlib.import_module(module), function)(run)


def _check_ranks(run: Run, stage: Stage, world: World) -> None:
    expected = ranks_of_run(run, frozen_any_job(run)).ranks if stage.ranks == "all" else 1
    if world.size == expected:
        return
    started = started_as(os.environ)
    if world.size == 1 and (started.size or 1) > 1:
        alone = singletons(started, library_here())
        raise UserError(f"{stage.id}: {alone.what}; {alone.cause}; {alone.action}")
    likely = "start it as scripts/ does, or render the job for this number of ranks"
    raise UserError(f"{stage.id}: found {world.size} MPI ranks; the run is for {expected}; {likely}")


def _missing_before(run: Run, stage: Stage) -> str | None:
    """The first stage before this one that is not done as the job and the code are now.

    On some filesystems the last two elements of an array did not see each other; then it is put together here.
    """
    job = frozen_any_job(run)
    for earlier in (find_stage(job, name) for name in stage.after):
        _merge(run, earlier)
        if not is_done(run, earlier):
            return earlier.name
    return None


def _refusal(run: Run, stage: Stage) -> str | None:
    """Why this start must not go on: another one of the same stage lives."""
    path = run.state_json(stage.id)
    if not path.exists():
        return None
    state = read_json(path)
    requeued = state["job_id"] is not None and state["job_id"] == _job_id() and _restarts() > state.get("restarts", 0)
    if state["outcome"] != "running" or requeued:
        return None
    if not writer_lives(path, state):
        return None
    where = f"job {state['job_id']}" if state["job_id"] else f"process {state['pid']}"
    return f"{stage.id}: {where} on {state['host']} is at it (state {path}); wait for it or cancel it first"


@contextmanager
def _recorded(run: Run, stage: Stage, world: World, key: str, part: str | None) -> Iterator[None]:
    """Write the record of a stage or an element at its start and its end, whatever the end is."""
    path = run.state_json(stage.id)
    state: dict[str, Any] = {}
    if world.rank == 0:
        state = {**_new_record(run, stage, world, key), **({"part": part} if part else {})}
        write_json(path, state)
    outcome, message, code = "failed", "killed", int(ExitCode.FAILED)
    ended = threading.Event()
    try:
        if world.rank == 0:
            threading.Thread(target=_heartbeat, args=(path, ended), daemon=True).start()
        yield
        outcome, message, code = "done", "", int(ExitCode.DONE)
    except Interrupted as error:
        outcome, message, code = "interrupted", str(error), int(error.exit_code)
        raise
    except HpcllmError as error:
        message, code = str(error), int(error.exit_code)
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        ended.set()
        if world.rank != 0 and outcome == "failed":
            state = _still_running(path)
            message = f"rank {world.rank} on {socket.gethostname()}: {message}"
        if state:
            write_json(path, {**state, "outcome": outcome, "message": message, "exit_code": code, "end": time.time()})


def record_failure(run: Run, stage: Stage, world: World, message: str) -> None:
    """Write that a stage failed before it began; not over the record of another start that lives."""
    if _refusal(run, stage):
        return
    failed = {"outcome": "failed", "message": message, "exit_code": int(ExitCode.FAILED), "end": time.time()}
    write_json(run.state_json(stage.id), {**_new_record(run, stage, world, stage_key(run, stage)), **failed})


def _new_record(run: Run, stage: Stage, world: World, key: str) -> dict[str, Any]:
    path = run.state_json(stage.id)
    attempt = 1 + (read_json(path)["attempt"] if path.exists() else 0)
    return {
        **{"stage": stage.name, "key": key, "attempt": attempt, "outcome": "running", "message": ""},
        **{"job_id": _job_id(), "restarts": _restarts(), "host": socket.gethostname(), "pid": os.getpid()},
        **{"world_size": world.size, "hosts": list(world.hosts), "start": time.time(), "end": None},
    }


def _still_running(path: Path) -> dict[str, Any]:
    """The record as rank 0 began it, if rank 0 does not end it by itself: it may have met the same failure."""
    time.sleep(GRACE_S)
    state: dict[str, Any] = read_json(path)
    return state if state["outcome"] == "running" else {}


def _abort(stage: Stage, world: World, error: Exception) -> None:
    """One rank's failure ends all ranks, which would otherwise wait for it for ever. Rank 0 speaks first.

    A mistake that every rank finds is so told once; one that only another rank finds is told by that rank.
    """
    if world.rank != 0:
        time.sleep(GRACE_S)
    message = str(error) if isinstance(error, HpcllmError) else "".join(traceback.format_exception(error))
    print(f"hpcllm: {stage.id}: rank {world.rank} on {socket.gethostname()}: {message}", file=sys.stderr, flush=True)
    assert world.comm is not None
    code = int(error.exit_code if isinstance(error, HpcllmError) else ExitCode.FAILED)
    world.comm.Abort(code)
    os._exit(code)  # Abort may come back before it has ended this process


def _heartbeat(path: Path, ended: threading.Event) -> None:
    """Touch the record while the stage lives, so that a start on another host can tell."""
    while not ended.wait(HEARTBEAT_S):
        with suppress(OSError):  # the run directory was moved away: the stage itself will say so
            os.utime(path)


def _job_id() -> str | None:
    """Slurm's id; of a task of an array as squeue shows it, `12_3`."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _restarts() -> int:
    """How often Slurm has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _say(world: World, text: str) -> None:
    if world.rank == 0:
        print(text, flush=True)
