"""What a login node waits for: whole commands, each beside a Python that only imports torch.

    python benchmarks/login.py [--quick]

A planner that imports torch pays at least the peer's time before its first word. One pair is one run of ours and one of
the peer's, next to each other; a ratio is the median over the pairs, and above 1 ours is faster. Slurm's commands are
ones that answer nothing at once, since its own time is not ours.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import write

JOBS = Path(__file__).resolve().parents[1] / "jobs"
LARGE = "perlmutter"  # a shipped profile with two kinds of nodes, many QOS, and a citation behind each value
PAIRS = 9
HPCLLM = [sys.executable, "-m", "hpcllm"]
PEER = [sys.executable, "-c", "import torch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three pairs")
    pairs = 3 if parser.parse_args().quick else PAIRS
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        silent_slurm(Path(folder) / "bin")
        os.chdir(folder)
        demo = [str(JOBS / "demo.yaml"), "--cluster", "slurm-lab"]
        commands = {
            "plan": ["plan", str(JOBS / "gpt2-124m.yaml"), "--cluster", "ib-lustre-a100"],
            "render": ["render", *demo, "--out", run],
            "submit --dry-run": ["submit", "--dry-run", *demo],
            "status": ["status", run],
            "profile show --derived": ["profile", "show", LARGE, "--derived"],
            "profile lint": ["profile", "lint", LARGE],
        }
        rows = [row(case, [*HPCLLM, *words], pairs) for case, words in commands.items()]
    for r in rows:
        print(f"{r['case']:<24} ours {r['ours']:.3f} s  import torch {r['theirs']:.3f} s  ratio {r['ratio']:.1f}")
    print(write("login", rows))


def silent_slurm(folder: Path) -> None:
    """Commands of these names, first on PATH."""
    folder.mkdir()
    for name in ("sbatch", "squeue", "sacct", "sacctmgr", "scontrol"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


def row(case: str, ours: list[str], pairs: int) -> dict[str, object]:
    times = [(seconds(ours), seconds(PEER)) for _ in range(pairs + 1)][1:]  # the first pair warms the disk's cache
    our_s, their_s = median(o for o, _ in times), median(t for _, t in times)
    ratio = median(t / o for o, t in times)
    return {"case": case, "peer": "import torch", "ours": our_s, "theirs": their_s, "unit": "s", "ratio": ratio}


def seconds(command: list[str]) -> float:
    start_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main()
