"""`hpcllm profile probe` on a real Slurm: it measures, plans use it, and what is wrong is named.

The nodes of the lab share a few cores with each other and with whatever else runs, so figures are hardly held against
anything here; which node is slow, and which name is wrong, is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab_cluster import Lab, said

from hpcllm.cluster.profile import load_profile
from hpcllm.job.spec import ProbeJob
from hpcllm.launch.render import render
from hpcllm.launch.submission.submit import submit
from hpcllm.launch.tracking.track import cancel
from hpcllm.parallel.expected import expected
from hpcllm.run_directory import Run, read_json

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("quiet_queue")]

SMALL = {"message": "256KiB", "file": "4MiB", "time": "0.2s"}
JOB = Path(__file__).parents[2] / "jobs" / "demo.yaml"


@pytest.fixture
def own_profile(lab: Lab, tmp_path: Path) -> Path:
    """A copy of the lab's profile, which may be written."""
    path = tmp_path / "mine.yaml"
    path.write_text(lab.profile_path.read_text())
    return path


def probe(path: Path, out: Path, nodes: int) -> Run:
    """A small probe, rendered; the command line has no word for its size."""
    resources = {"nodes": nodes, "ranks_per_node": 2, "time": "2m"}
    profile = load_profile(path)
    job = ProbeJob.model_validate({"name": profile.name, "probe": SMALL, "resources": resources})
    return render(profile, path, job, None, None, out)


def test_a_probe_measures_two_nodes_writes_the_profile_and_a_later_plan_uses_it(
    lab: Lab, own_profile: Path, tmp_path: Path
) -> None:
    before = own_profile.read_text()

    probed = lab.hpcllm("profile", "probe", own_profile, "--out", tmp_path / "run", cwd=tmp_path)

    run = Run(tmp_path / "run")
    assert probed.returncode == 0, probed.stdout + probed.stderr + said(run)
    assert "4 ranks on 2 nodes" in probed.stdout
    assert "fabric.rate" in probed.stdout
    assert own_profile.read_text().startswith(before + "\nmeasured:")
    measured = load_profile(own_profile).measured
    assert measured is not None
    assert measured.fabric is not None
    assert measured.fabric.latency_s is not None
    assert measured.nodes["lab"].flops_per_s
    assert measured.filesystems["machine"].hdf5_read_bytes_per_s

    planned = lab.hpcllm("plan", JOB, "--cluster", own_profile, "--nodes", "2", "--json")
    inputs = {name for figure in json.loads(planned.stdout)["figures"] for name in figure["inputs"]}
    wanted = {"nodes.lab.flops", "fabric.rate", "fabric.latency", "filesystems.machine.write"}
    assert {f"measured.{name} ({measured.date})" for name in wanted} <= inputs
    assert not wanted & inputs

    later = lab.hpcllm("render", JOB, "--cluster", own_profile, "--nodes", "2", "--out", tmp_path / "later")
    assert later.returncode == 0, later.stderr
    asked = expected(None, None, tmp_path / "later")
    assert asked.rate_bytes_per_s == measured.fabric.rate_bytes_per_s
    assert asked.rate_key == f"measured.fabric.rate ({measured.date})"


def test_a_node_whose_link_is_throttled_is_named(lab: Lab, own_profile: Path, tmp_path: Path) -> None:
    run = probe(own_profile, tmp_path / "run", nodes=4)
    lab.node("link", "n2", "200mbit")
    try:
        probed = lab.hpcllm("profile", "probe", own_profile, "--out", run.root, "--json")
    finally:
        lab.node("link", "n2", "off")

    (line,) = [verdict for verdict in json.loads(probed.stdout)["verdicts"] if verdict["key"] == "fabric.rate"]
    assert line["word"] in ("slow", "broken")
    assert line["note"].startswith(("n2 is slow: ", "n2 is broken: "))
    assert "n1 is" not in line["note"]


def test_an_interface_that_does_not_exist_is_named_with_the_variable_and_the_nodes(
    lab: Lab, own_profile: Path, tmp_path: Path
) -> None:
    own_profile.write_text(own_profile.read_text().replace("interfaces: [eth0]", "interfaces: [ib7]"))
    before = own_profile.read_text()

    probed = lab.hpcllm("profile", "probe", own_profile, "--out", tmp_path / "run")

    assert probed.returncode == 1
    for host in ("n1", "n2"):
        assert f"ib7: there is none on {host}; UCX_NET_DEVICES=ib7, FI_TCP_IFACE=ib7 name it" in probed.stderr
    assert own_profile.read_text() == before


def name_an_interface_that_is_not_there(profile: Path) -> None:
    profile.write_text(profile.read_text().replace("environment:\n", "environment:\n  GLOO_SOCKET_IFNAME: bond9\n"))


def test_a_variable_of_gloo_that_names_none_is_a_verdict_beside_the_figures(
    lab: Lab, own_profile: Path, tmp_path: Path
) -> None:
    name_an_interface_that_is_not_there(own_profile)
    run = probe(own_profile, tmp_path / "run", nodes=2)

    probed = lab.hpcllm("profile", "probe", own_profile, "--out", run.root, "--json")

    assert probed.returncode == 1, probed.stderr
    assert probed.stdout, probed.stderr
    document = json.loads(probed.stdout)
    (line,) = [verdict for verdict in document["verdicts"] if verdict["key"] == "interfaces"]
    assert line["word"] == "broken"
    assert "bond9: there is none on n1, n2; GLOO_SOCKET_IFNAME=bond9 names it; n1 has lo, eth0" in line["note"]
    assert load_profile(own_profile).measured


def test_a_training_does_not_start_over_an_interface_that_does_not_exist(
    lab: Lab, own_profile: Path, tmp_path: Path
) -> None:
    name_an_interface_that_is_not_there(own_profile)
    words = ["submit", "--cluster", own_profile, "--nodes", "2", "--ranks-per-node", "1", "--time", "2m"]

    submitted = lab.hpcllm(*words, "--out", tmp_path / "run", "--", "touch", "started", cwd=tmp_path)

    assert submitted.returncode == 0, submitted.stderr
    run = Run.open(tmp_path / "run")
    assert lab.wait(run)["command"].state == "failed"
    assert "GLOO_SOCKET_IFNAME=bond9 names it" in run.log("30-command", 1).read_text()
    assert not (tmp_path / "started").exists()


def test_ctrl_c_leaves_the_job_and_says_how_to_go_on(lab: Lab, own_profile: Path, tmp_path: Path) -> None:
    run = probe(own_profile, tmp_path / "run", nodes=2)
    command = [sys.executable, "-m", "hpcllm", "profile", "probe", str(own_profile), "--out", str(run.root)]
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    while not run.jobs_json.exists():
        assert waiting.poll() is None, waiting.communicate()
        time.sleep(0.1)
    time.sleep(1)  # it asks after the job now

    waiting.send_signal(signal.SIGINT)
    _, told = waiting.communicate(timeout=60)

    assert waiting.returncode == 130
    assert f"hpcllm profile probe {own_profile} --out {run.root}" in told
    assert lab.wait(run)["probe"].state == "done", said(run)
    assert lab.hpcllm("profile", "probe", own_profile, "--out", run.root).returncode in (0, 1)
    assert len(read_json(run.jobs_json)["probe"]) == 1
    assert load_profile(own_profile).measured


def test_a_probe_is_cancelled_as_any_other_run(lab: Lab, own_profile: Path, tmp_path: Path) -> None:
    run = probe(own_profile, tmp_path / "run", nodes=2)
    submit(run)

    assert cancel(run) == "cancelled probe"
    assert lab.wait(run)["probe"].state == "cancelled"
