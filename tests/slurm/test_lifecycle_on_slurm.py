"""A training that is warned, preempted or loses a node goes on by itself, to the same weights to the bit.

Each of two: hpcllm's own, and a script that knows nothing of it. The long cases, with real time limits three
times over, are `python benchmarks/lifecycle.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from disturbances import Training, lose_node, own, preempt, start, theirs, warn
from lab_cluster import Lab, said

from hpcllm.launch.bad_nodes import bad_nodes
from hpcllm.launch.submission.submit import submit
from hpcllm.run_directory import Run, read_json

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("quiet_queue")]
STEPS = {"train": 300, "command": 50}  # long enough for a node to be killed meanwhile


def only(quick: str) -> pytest.MarkDecorator:
    """That case in the suite, the other with --long."""
    cases = [pytest.param(kind, marks=() if kind == quick else pytest.mark.long) for kind in STEPS]
    return pytest.mark.parametrize("training", cases, indirect=True)


@pytest.fixture(scope="module")
def undisturbed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    """Both, as they end when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    both = {"train": own(lab, folder, None, STEPS["train"]), "command": theirs(lab, folder, STEPS["command"])}
    start(*both.values())
    for training in both.values():
        assert training.wait_until_done(120).earlier == ()
    return both


@pytest.fixture
def training(
    request: pytest.FixtureRequest, lab: Lab, tmp_path: Path, undisturbed: dict[str, Training]
) -> Iterator[Training]:
    """One of the two, fresh and submitted; in the end its weights are those of the undisturbed one."""
    kind = request.param
    tokens = undisturbed["train"].run
    made = own(lab, tmp_path, tokens, STEPS[kind]) if kind == "train" else theirs(lab, tmp_path, STEPS[kind])
    start(made)
    yield made
    assert made.fingerprint() == undisturbed[kind].fingerprint()


@only("command")
def test_warned_before_its_time_limit_it_saves_and_goes_on(training: Training) -> None:
    warn(training)

    assert training.wait_until_done(120).earlier == ("interrupted",)


@only("command")
def test_preempted_it_goes_on(training: Training) -> None:
    preempt(training)

    assert training.wait_until_done(120).earlier == ("preempted",)


@only("train")
def test_when_its_node_dies_it_goes_on_elsewhere(lab: Lab, training: Training) -> None:
    """Slurm sees after SlurmdTimeout (10 s in the lab) that a node does not answer."""
    lost = lose_node(lab, training)
    try:
        found = training.wait_until_done(90)
    finally:
        lab.node("start", lost)

    assert found.earlier == ("node failure",), training.log()
    assert lost not in training.hosts()


def test_a_slow_node_is_left_out_of_the_retry_and_of_the_next_submit(lab: Lab, tmp_path: Path) -> None:
    described = {"resources": {"nodes": 3, "ranks_per_node": 1, "time": "3m"}}
    run = lab.command(tmp_path / "run", ["bash", "-c", "[[ -e again ]]"], check_nodes=True, **described)
    lab.node("link", "n2", "100mbit")
    try:
        submit(run)
        found = lab.wait(run)["command"]
    finally:
        lab.node("link", "n2", "off")

    assert (found.state, found.earlier) == ("failed", ("preflight",)), said(run)
    assert hosts(run) == ["n1", "n3", "n4"]
    assert [(bad.node, bad.attempt) for bad in bad_nodes(run)] == [("n2", "30-command.1")]
    shown = lab.hpcllm("status", run.root).stdout
    assert "left out: n2" in " ".join(shown.split())
    (tmp_path / "again").touch()
    submit(run)
    assert lab.wait(run)["command"].state == "done", said(run)
    assert hosts(run) == ["n1", "n3", "n4"]


def hosts(run: Run) -> list[str]:
    """Where its latest attempt ran."""
    found: list[str] = read_json(run.state_json("30-command"))["hosts"]
    return found


def test_a_rank_that_is_killed_takes_the_job_down_in_seconds_and_status_says_which(lab: Lab, tmp_path: Path) -> None:
    words = ["bash", "-c", "echo here; [[ $RANK == 0 ]] || kill -9 $$; sleep 60"]
    run = lab.command(tmp_path / "run", words, resources={"nodes": 2, "ranks_per_node": 1, "time": "3m"})
    submit(run)

    found = lab.wait(run, 30)["command"]

    assert found.state == "failed"
    assert found.elapsed_s is not None
    assert found.elapsed_s < 15
    assert "rank 1 on n" in found.reason
    assert "Killed" in found.reason
