"""What `hpcllm status` costs with 200 jobs in the queue of a real Slurm, beside submitit's polling and squeue itself.

    python benchmarks/status.py [--quick]        needs what tests/slurm/lab/start needs (root, Slurm's packages)

Each pair is one query of ours and one of the peer's for the same jobs, next to each other; a ratio is the median over
the pairs, and above 1 ours is faster. The queries are counted by wrappers first on PATH: one a source, whatever the
number of jobs. Two more rows are the whole command with its start, of one run and of a sweep of as many runs.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from machine import write

ROOT = Path(__file__).parents[1]
LAB = ROOT / "tests" / "slurm" / "lab"
JOBS, PAIRS = 200, 9
SOURCES = ("squeue", "sacct", "scontrol")
BAR_S = 0.5  # for the whole command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 jobs, three pairs")
    quick = parser.parse_args().quick
    num_jobs, pairs = (20, 3) if quick else (JOBS, PAIRS)
    with tempfile.TemporaryDirectory() as folder:
        lab = Path(folder) / "lab"
        ports = {"BASE_PORT": "29910", "SUBNET": "10.91.7"}
        subprocess.run([LAB / "start", lab], check=True, stdout=subprocess.DEVNULL, env={**os.environ, **ports})
        try:
            os.environ["SLURM_CONF"] = str(lab / "slurm.conf")
            rows = measured(Path(folder), num_jobs, pairs)
        finally:
            subprocess.run([LAB / "stop", lab], check=True, stdout=subprocess.DEVNULL)
    for row in rows:
        print(
            "  ".join(f"{name} {f'{value:.3f}' if isinstance(value, float) else value}" for name, value in row.items())
        )
    print(write("status", rows))


def measured(folder: Path, num_jobs: int, pairs: int) -> list[dict[str, object]]:
    """The rows, by a queue of that many jobs, half of them over."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    from hpcllm.launch.tracking.slurm import query

    ids = jobs(num_jobs)
    watcher = SlurmInfoWatcher()
    for job_id in ids:
        watcher.register_job(job_id)
    squeue = ["squeue", "--noheader", "--states=all", f"--jobs={','.join(ids)}"]
    peers: dict[str, Callable[[], object]] = {
        "submitit's SlurmInfoWatcher": watcher.update,
        "squeue": lambda: subprocess.run(squeue, check=True, stdout=subprocess.DEVNULL),
    }
    rows = [against(f"{num_jobs} jobs", peer, lambda: query(ids), call, pairs) for peer, call in peers.items()]
    whole = [
        whole_command("a DAG of 7 stages", submitted_run(folder, ids), pairs),
        whole_command(f"a sweep of {num_jobs} runs", submitted_sweep(folder, ids), pairs),
    ]
    return [*rows, *whole, queries(folder, lambda: query(ids), num_jobs)]


def whole_command(what: str, run: Path, pairs: int) -> dict[str, object]:
    """`hpcllm status` from its start to its end, against the bar."""
    command = [sys.executable, "-m", "hpcllm", "status", str(run)]
    times = [
        (seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)), cpu_s())
        for _ in range(pairs + 1)
    ]
    our_s, own_cpu_s = median(s for s, _ in times), (times[-1][1] - times[0][1]) / pairs
    bar = {"peer": "the bar", "theirs": BAR_S, "ratio": BAR_S / our_s}
    return {"case": f"hpcllm status, {what}", "ours": our_s, "unit": "s", "cpu": own_cpu_s, **bar}


def cpu_s() -> float:
    """What all commands have used so far; on a machine that others are busy on, it says more than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def queries(folder: Path, ask: Callable[[], object], num_jobs: int) -> dict[str, object]:
    """How often each source is asked at one time, counted by wrappers first on PATH."""
    wrappers = folder / "wrappers"
    wrappers.mkdir()
    for name in SOURCES:
        path = wrappers / name
        path.write_text(f'#!/bin/sh\necho >>"{path}.calls"\nexec {shutil.which(name)} "$@"\n')
        path.chmod(0o755)
    os.environ["PATH"] = f"{wrappers}:{os.environ['PATH']}"
    ask()
    files = {name: wrappers / f"{name}.calls" for name in SOURCES}
    counts = {name: file.read_text().count("\n") if file.exists() else 0 for name, file in files.items()}
    return {"case": f"queries for {num_jobs} jobs", "unit": "queries", **counts}


def jobs(number: int) -> list[str]:
    """Ids of that many jobs: half over, half held in the queue."""
    short = ["--wrap=true", "--output=/dev/null", "--nodes=1", "--time=1"]
    over = [sbatch(*short) for _ in range(number // 2)]
    held = [sbatch("--hold", *short) for _ in range(number - number // 2)]
    wait = ["squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING", f"--jobs={','.join(over)},1"]
    while subprocess.run(wait, capture_output=True, text=True).stdout.strip():
        time.sleep(1)
    time.sleep(10)  # accounting is behind
    return over + held


def sbatch(*words: str) -> str:
    done = subprocess.run(["sbatch", "--parsable", *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def submitted_run(folder: Path, ids: list[str]) -> Path:
    """A run directory of the demo job whose stages are jobs of the queue, of both kinds."""
    from hpcllm.run_directory import Run, write_json

    run = Run(folder / "run")
    words = ["render", str(ROOT / "jobs" / "demo.yaml"), "--cluster", "slurm-lab", "--out", str(run.root)]
    subprocess.run([sys.executable, "-m", "hpcllm", *words], check=True, stdout=subprocess.DEVNULL)
    stages = ("tokenizer", "shard", "train", "evaluate", "compress", "evaluate-compressed", "gather")
    write_json(run.jobs_json, {stage: [job_id] for stage, job_id in zip(stages, [*ids[:4], *ids[-3:]], strict=True)})
    return run.root


def submitted_sweep(folder: Path, ids: list[str]) -> Path:
    """A sweep of a command, a job of the queue for each of its runs."""
    from hpcllm.launch.sweep import Sweep
    from hpcllm.run_directory import write_json

    job, out = folder / "job.yaml", folder / "sweep"
    values = ", ".join(f"'{i}'" for i in range(len(ids)))
    job.write_text(
        f"name: many\nstages: [{{name: say, command: ['true']}}]\nsweep: {{environment.NUMBER: [{values}]}}\n"
    )
    words = ["render", str(job), "--cluster", "slurm-lab", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "hpcllm", *words], check=True, capture_output=True)
    for run, job_id in zip(Sweep.open(out).runs, ids, strict=True):
        write_json(run.jobs_json, {"say": [job_id]})
    return out


def against(
    case: str, peer: str, ours: Callable[[], object], theirs: Callable[[], object], pairs: int
) -> dict[str, object]:
    times = [(seconds(ours), seconds(theirs)) for _ in range(pairs + 1)][1:]  # the first pair warms the disk's cache
    our_s, their_s = median(o for o, _ in times), median(t for _, t in times)
    ratio = median(t / o for o, t in times)
    return {"case": case, "peer": peer, "ours": our_s, "theirs": their_s, "unit": "s", "ratio": ratio}


def seconds(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main()
