"""Two trainings through what a cluster does to them, on the Slurm lab: do they end with the same weights to the bit?

    python benchmarks/lifecycle.py        some ten minutes; root and Debian's Slurm (tests/slurm/lab/start)

Each is disturbed alone: preempted by a job of a higher tier, stopped by real time limits of one minute three times
over, and bereft of a node. One is hpcllm's own, the other a script that knows nothing of it and has its own checkpoint.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from machine import write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "slurm"))

from disturbances import Training, lose_node, own, preempt, start, theirs
from lab_cluster import Lab, missing, started, stop

from hpcllm.cluster.profile import load_profile, shipped_profiles

LIMITS = 3
# Slurm warns up to half a minute early (job_time_limit looks every 30 s), so that an attempt of a minute has 15 to 45 s
# to train in. Theirs takes 0.1 s a step.
STEPS = {"own": 400, "theirs": 1400}
TIMEOUT_S = 900


def main() -> None:
    if reason := missing():
        print(f"skipped: {reason}")
        return
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        path = shipped_profiles() / "slurm-lab.yaml"
        lab = Lab(Path(folder) / "lab", load_profile(path), path)
        try:
            os.environ["SLURM_CONF"] = str(started(lab.folder))
            rows = [row for kind in STEPS for row in cases(lab, Path(folder), kind)]
        finally:
            stop(lab.folder)
    for r in rows:
        print(f"{r['case']:<24} {r['ours']:6.1f} s  undisturbed {r['theirs']:6.1f} s  attempts {r['attempts']}")
    print(write("lifecycle", rows))


def cases(lab: Lab, folder: Path, kind: str) -> list[dict[str, object]]:
    """One training, undisturbed and then in each of the three ways."""

    def fresh(name: str, **described: object) -> Training:
        (folder / f"{kind}-{name}").mkdir()
        if kind == "own":
            tokens = whole.run if name != "undisturbed" else None
            return own(lab, folder / f"{kind}-{name}", tokens, STEPS[kind], **described)
        return theirs(lab, folder / f"{kind}-{name}", STEPS[kind], **described)

    whole = fresh("undisturbed", time="30m")
    whole_s, _ = timed(whole, lambda: None)
    lost: list[str] = []
    preempted, limited, bereft = (
        fresh("preempted", time="30m"),
        fresh("limited", time="1m"),
        fresh("bereft", time="30m"),
    )
    disturbed = (
        ("preempted", preempted, lambda: preempt(preempted), 1),
        ("time-limited", limited, lambda: None, LIMITS),
        ("node lost", bereft, lambda: lost.append(lose_node(lab, bereft)), 1),
    )
    rows = []
    for name, training, disturb, at_least in disturbed:
        took_s, earlier = timed(training, disturb)
        assert len(earlier) >= at_least, f"{kind}, {name}: only {earlier}"
        assert training.fingerprint() == whole.fingerprint(), f"{kind}, {name}: other weights"
        attempts = [*earlier, "done"]
        rows.append({"case": f"{kind}, {name}", "ours": took_s, "theirs": whole_s, "unit": "s", "attempts": attempts})
        print(rows[-1], flush=True)
    for node in lost:
        lab.node("start", node)
    return rows


def timed(training: Training, disturb: Callable[[], object]) -> tuple[float, tuple[str, ...]]:
    """Seconds from submission to the end, and how the attempts before the last one ended."""
    start_s = time.monotonic()
    start(training)
    disturb()
    earlier = training.wait_until_done(TIMEOUT_S).earlier
    return time.monotonic() - start_s, earlier


if __name__ == "__main__":
    main()
