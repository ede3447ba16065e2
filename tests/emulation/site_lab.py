"""What a user of an emulated site does: render, submit, wait."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulated_site import Site
from published_script import LEFT_OUT, slurm_seconds

from hpcllm.run_directory import Run, read_json

STAGE = "30-command"

# A stand-in for a trainer: says where it is, and what it finds of the variables that the script exports.
TRAINER = """\
import json, os, socket, sys
place = {name: int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")}
found = {name: os.environ.get(name) for name in sys.argv[1:]}
print("PLACE", json.dumps({**place, "host": socket.gethostname(), "environment": found}))
"""


@dataclass(frozen=True)
class SiteLab:
    """A site's Slurm that runs."""

    name: str
    site: Site
    folder: Path
    calls: Path
    """A line for each call of a shim."""


def hpcllm(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line, as on the site's login node."""
    command = [sys.executable, "-m", "hpcllm", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def request_words(site: Site, published: bool = False) -> list[str]:
    """The request as options of hpcllm; `published`: as many nodes and as long as the published script asks for."""
    asked = {key: value for key, value in site.published.directives.items() if published and value != LEFT_OUT}
    nodes = asked.get("nodes", site.request.nodes)
    time_ = f"{slurm_seconds(str(asked['time']))}s" if "time" in asked else site.request.time
    return [f"--nodes={nodes}", f"--time={time_}", *site.request.flags]


def rendered(cluster: str | Path, words: Sequence[str], command: Sequence[str], folder: Path) -> Run:
    """The run directory of a command, rendered as by a user. Raises AssertionError with hpcllm's words."""
    run = Run(folder / "run")
    (folder / "trainer.py").touch()  # what cannot start is not rendered
    done = hpcllm("render", "--cluster", cluster, "--out", run.root, *words, "--", *command, cwd=folder)
    assert done.returncode == 0, f"hpcllm render {' '.join(words)}: {done.stderr}"
    return run


def wait(run: Run, timeout_s: float = 60) -> str:
    """What the command's record says when nothing is in the queue any more."""
    end_s = time.monotonic() + timeout_s
    while subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True, timeout=30).stdout:
        assert time.monotonic() < end_s, f"not over after {timeout_s} s: {log(run)}"
        time.sleep(0.2)
    record = run.state_json(STAGE)
    return str(read_json(record)["outcome"]) if record.exists() else "no record"


def log(run: Run) -> str:
    """Everything that the job said."""
    return "\n".join(path.read_text() for path in sorted(run.logs.glob("*.log")))
