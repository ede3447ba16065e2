"""What programs run in, on a real Slurm: frozen code, a venv, a packed environment on the nodes' own disks, an image.

There is no container runtime on the lab: a shim called apptainer notes its arguments and runs the program without one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from lab_cluster import LAB, Lab, said

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import CommandJob
from hpcllm.launch.render import render
from hpcllm.launch.submission.submit import submit
from hpcllm.run_directory import Run

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("quiet_queue")]

TELL = """
import json, os, socket, sys
found = os.stat(sys.prefix + "/pyvenv.cfg")
print("TOLD", json.dumps([socket.gethostname(), int(os.environ["RANK"]), sys.prefix, found.st_ino, found.st_dev]))
"""


def submitted(lab: Lab, profile: Profile, folder: Path, *words: str, **described: object) -> Run:
    """A command of two nodes with two ranks each, started in `folder` and waited for. Its own Python has no hpcllm."""
    resources = {"nodes": 2, "ranks_per_node": 2, "time": "3m"}
    job = CommandJob.model_validate({"name": "mine", "command": words, "resources": resources, **described})
    run = render(profile, lab.profile_path, job, None, None, folder.parent / "run", cwd=folder)
    submit(run)
    return run


def told(lab: Lab, run: Run) -> list[list[object]]:
    """What every rank said, when all are over."""
    assert lab.wait(run)["command"].state == "done", said(run)
    lines = run.log("30-command", 1).read_text().splitlines()
    return sorted(json.loads(line.split("TOLD ")[1]) for line in lines if "TOLD " in line)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Where the user works."""
    folder = tmp_path / "my code"
    folder.mkdir()
    (folder / "tell.py").write_text(TELL)
    return folder


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A user's own environment, without anything of hpcllm's."""
    path = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True, timeout=60)
    (path / "bin" / "tool").write_text(f"#!{path}/bin/python\nimport sys; print('TOOL', sys.prefix)\n")
    (path / "bin" / "tool").chmod(0o755)
    return path


def test_a_queued_job_runs_the_code_as_it_was(lab: Lab, tmp_path: Path, code: Path) -> None:
    (code / "tell.py").write_text("print('TOLD 1')")
    subprocess.run(["git", "init", "-q", code], check=True)

    run = submitted(lab, lab.profile, code, sys.executable, "tell.py", slurm={"directives": {"begin": "now+5"}})
    (code / "tell.py").write_text("print('TOLD 2')")

    assert told(lab, run) == [1, 1, 1, 1]


def test_python_of_a_command_is_the_venvs_on_every_node(lab: Lab, tmp_path: Path, code: Path, venv: Path) -> None:
    environment = {"environment": {"kind": "venv", "path": str(venv)}}

    run = submitted(lab, lab.profile, code, "python", "tell.py", software=environment)

    found = told(lab, run)
    assert [rank for _, rank, *_ in found] == [0, 1, 2, 3]
    assert {prefix for _, _, prefix, *_ in found} == {str(venv)}
    assert "no checks: they need hpcllm's packages and an MPI" in run.log("30-command", 1).read_text()


def on_node(lab: Lab, node: str, *words: str) -> str:
    done = subprocess.run([LAB / "node", lab.folder, "exec", node, *words], capture_output=True, text=True, timeout=30)
    return done.stdout


@pytest.mark.parametrize("source", ["folder", "archive"])
def test_a_packed_environment_is_unpacked_once_on_each_nodes_own_disk(
    lab: Lab, tmp_path: Path, code: Path, venv: Path, source: str
) -> None:
    plain = lab.profile.model_dump(mode="json", by_alias=True)
    plain["nodes"]["lab"]["local_scratch"] = {"path": f"{lab.folder}/local"}
    path = venv
    if source == "archive":
        path = tmp_path / "env.tar.gz"
        subprocess.run(["tar", "-C", venv, "-czf", path, "."], check=True)
    environment = {"environment": {"kind": "packed", "path": str(path)}}
    words = ("bash", "-c", "python tell.py && tool")

    run = submitted(lab, Profile.model_validate(plain), code, *words, software=environment)

    found = told(lab, run)
    assert [rank for _, rank, *_ in found] == [0, 1, 2, 3]
    assert all(str(prefix).startswith(f"{lab.folder}/local/hpcllm-env-") for _, _, prefix, *_ in found)
    files = {(host, inode, device) for host, _, _, inode, device in found}
    assert len(files) == 2  # one on each node, which all of its ranks read
    log = run.log("30-command", 1).read_text()
    assert log.count(f"TOOL {lab.folder}/local/hpcllm-env-") == 4  # pip's programs too
    for node in ("n1", "n2", "n3", "n4"):
        assert "hpcllm-env" not in on_node(lab, node, "ls", f"{lab.folder}/local")


SHIM = """\
#!/bin/bash
# A shim of apptainer: notes its arguments, and runs the program without an image.
printf '%s\\n' "$@" >"{noted}.$(hostname).$$"
while [[ $1 != *.sif ]]; do shift; done
shift
exec "$@"
"""


def test_every_rank_runs_in_the_image_with_the_run_and_the_code_mounted(
    lab: Lab, tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "apptainer"
    shim.write_text(SHIM.format(noted=tmp_path / "noted"))
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{sys.prefix}/bin:/usr/bin:/bin:/usr/sbin")
    environment = {"environment": {"kind": "apptainer", "path": "/images/my torch.sif", "python": sys.executable}}

    run = submitted(lab, lab.profile, code, "python3", "tell.py", software=environment)

    assert [rank for _, rank, *_ in told(lab, run)] == [0, 1, 2, 3]
    calls = [path.read_text().splitlines() for path in tmp_path.glob("noted.*")]
    ranks = [words for words in calls if words[-1] == "tell.py"]
    checks = [words for words in calls if "preflight" in words]
    assert (len(ranks), len(checks)) == (4, 4)
    assert all(words[:5] == ["exec", "--bind", f"{run.root}:{run.root}", "--bind", f"{code}:{code}"] for words in calls)
    assert all(words[5:8] == ["--pwd", str(code), "/images/my torch.sif"] for words in calls)
