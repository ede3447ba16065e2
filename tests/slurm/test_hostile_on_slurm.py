"""Hostile strings (tests/launch/hostile.py) on a real Slurm: as words, variables, directives, names and folders.

pytest tests/slurm/test_hostile_on_slurm.py -m slurm
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from lab_cluster import Lab, said

sys.path.append(str(Path(__file__).parents[1] / "launch"))  # where the strings stand
from hostile import file_name, hostile

pytestmark = pytest.mark.slurm
SHOW = """
import json, os, sys
given = {name: value for name, value in os.environ.items() if name.startswith("H_")}
json.dump([sys.argv[2:], given], open(sys.argv[1], "w"))
"""
# One of each kind, of the table and of its pairs.
SAMPLE = (
    "it's",
    "$(owned)",
    "; owned #",
    '" --wrap=owned "',
    "%j",
    "  two  spaces  ",
    "a #SBATCH --nodes=99",
    "é 漢字 😀",
)


def printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable() and c not in "\\:")


def test_300_words_and_300_variables_reach_a_rank_through_sbatch_and_srun(
    lab: Lab, quiet_queue: None, tmp_path: Path
) -> None:
    strings = hostile()
    variables = {f"H_{i}": text for i, text in enumerate(strings)}
    command = [sys.executable, "-c", SHOW, str(tmp_path / "given"), *strings]
    run = lab.command(tmp_path / "run", command, check_nodes=True, environment=variables)  # as rendered, to the byte

    assert lab.hpcllm("submit", run.root).returncode == 0
    found = lab.wait(run)

    assert found["command"].state == "done", said(run)
    words, environment = json.loads((tmp_path / "given").read_text())
    assert words == strings
    assert environment == variables


def test_names_folders_and_directives_are_data_for_slurm_too(lab: Lab, quiet_queue: None, tmp_path: Path) -> None:
    canary = tmp_path / "bin" / "owned"
    canary.parent.mkdir()
    canary.write_text(f"#!/bin/bash\ntouch {tmp_path}/ran\n")
    canary.chmod(0o755)
    runs = []
    for number, text in enumerate(SAMPLE):
        folder = tmp_path / str(number) / file_name(text)
        folder.mkdir(parents=True)
        described = {"name": f"x{printable(text)}".replace("/", "_"), "slurm": {"directives": {"comment": text}}}
        run = lab.command(folder / printable(file_name(text)), ["pwd"], **described)
        submitted = lab.hpcllm("submit", run.root, PATH=f"{canary.parent}:{sys.prefix}/bin:/usr/sbin:/usr/bin:/bin")
        assert submitted.returncode == 0, submitted.stderr
        runs.append((text, folder, run))

    for text, folder, run in runs:
        assert lab.wait(run)["command"].state == "done", said(run)
        assert run.log("30-command", 1).read_text().splitlines()[-1].endswith(f": {folder}")
        (job_id,) = json.loads(run.jobs_json.read_text())["command"]
        shown = subprocess.run(["scontrol", "show", "job", job_id], capture_output=True, text=True).stdout
        assert f"Comment={text}" in shown
        assert "NumNodes=1 " in shown
    assert not (tmp_path / "ran").exists()
