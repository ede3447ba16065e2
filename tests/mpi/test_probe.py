"""A probe on two real ranks of this machine, small: everything is measured, judged, and written where it belongs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hpcllm import cli
from hpcllm.cluster.detection.here import local_profile
from hpcllm.cluster.probe.found import read_probed
from hpcllm.cluster.profile import Profile, load_profile
from hpcllm.cluster.user import User
from hpcllm.errors import ExitCode, HpcllmError
from hpcllm.job.spec import ProbeJob, SlurmSpec
from hpcllm.launch.local import run_local
from hpcllm.launch.probe import probe_job, result_of
from hpcllm.launch.render import render
from hpcllm.run_directory import Run

pytestmark = pytest.mark.mpi

SMALL = {"message": "64KiB", "file": "1MiB", "time": "0.1s"}

ALL_REDUCE_OF_TORCH = """
import json
from hpcllm.parallel.gpu_bandwidth import measure_gpu_all_reduce
from hpcllm.parallel.world import World
world = World.of_mpi()
inside, over_all = measure_gpu_all_reduce(world, [8, 65536], 0.1, device="cpu")
if world.rank == 0:
    print(json.dumps([[one.bytes for one in inside], inside == over_all, all(one.seconds > 0 for one in inside)]))
"""


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def machine(folder: Path, **sections: object) -> Profile:
    """This machine, with a scratch that the run lies on."""
    files = {"scratch": {"kind": "local", "path": str(folder)}, "home": {"kind": "nfs", "path": "/"}}
    described = local_profile().model_dump(mode="json", by_alias=True)
    return Profile.model_validate({**described, "filesystems": files, **sections})


def small_probe(folder: Path, profile: Profile) -> Run:
    resources = {"nodes": 1, "ranks_per_node": 2, "time": "2m"}
    job = ProbeJob.model_validate({"name": "small", "probe": SMALL, "resources": resources})
    return render(profile, None, job, None, None, folder / "run", oversubscribe=True)


def test_two_ranks_measure_everything_that_one_node_has(tmp_path: Path) -> None:
    run = small_probe(tmp_path, machine(tmp_path))

    run_local(run, quiet=True)

    found = result_of(run)
    assert (found.world_size, len(found.nodes), found.node_type, found.filesystem) == (2, 1, "local", "scratch")
    node = found.nodes[0]
    assert all((node.flops_per_s, node.memory_rate_bytes_per_s, node.all_reduce_bytes_per_s))
    assert all(found.files.values())
    assert [one["bytes"] for one in found.all_reduce["inside"]] == [8, 128, 2048, 32768, 65536]
    assert not run.data.exists()
    assert read_probed(run) == found


def test_a_finished_probe_is_read_again_and_written_into_the_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = machine(tmp_path)
    path = tmp_path / "local.yaml"
    path.write_text("# mine\n" + yaml.safe_dump(json.loads(profile.model_dump_json(by_alias=True, exclude_none=True))))
    run = small_probe(tmp_path, profile)

    assert cli.main(["profile", "probe", str(path), "--out", str(run.root)]) == ExitCode.DONE
    told = capsys.readouterr().out
    assert "nodes.local.flops" in told
    assert f"wrote    {path}: measured" in told
    assert path.read_text().startswith("# mine\n")
    assert load_profile(path).measured
    assert cli.main(["profile", "probe", str(path), "--out", str(run.root), "--json"]) == ExitCode.DONE
    document = json.loads(capsys.readouterr().out)
    assert document["written"] == str(path)
    assert {verdict["word"] for verdict in document["verdicts"]} <= {"ok", "slow", "not stated"}
    assert cli.main(["profile", "probe", str(path), "--out", str(run.root), "--nodes", "3"]) == ExitCode.USER_MISTAKE
    assert "leave out --nodes" in capsys.readouterr().err


@pytest.mark.parametrize(("cores", "domains", "ranks"), [(1, 1, 1), (8, 1, 2), (64, 4, 4)])
def test_on_cores_there_is_a_rank_a_numa_domain_and_at_least_two(cores: int, domains: int, ranks: int) -> None:
    nodes = {"local": {"cores": cores, "numa_domains": domains, "count": 1}}
    profile = Profile.model_validate({**local_profile().model_dump(mode="json", by_alias=True), "nodes": nodes})

    found = probe_job(profile, SlurmSpec(), User(), None, None).resources

    assert (found.nodes, found.ranks_per_node) == (1, ranks)


def test_an_interface_that_is_not_there_stops_it_and_is_named(tmp_path: Path) -> None:
    wrong = machine(tmp_path, environment={"UCX_NET_DEVICES": "nowhere0"})
    run = small_probe(tmp_path, wrong)

    with pytest.raises(HpcllmError, match="nowhere0: there is none on .* UCX_NET_DEVICES=nowhere0 names it"):
        run_local(run, quiet=True)
    with pytest.raises(HpcllmError, match="the probe is failed .nowhere0: there is none"):
        result_of(run)


def test_a_variable_that_mpi_does_not_read_is_a_finding_beside_the_figures(tmp_path: Path) -> None:
    run = small_probe(tmp_path, machine(tmp_path, environment={"NCCL_SOCKET_IFNAME": "nowhere0"}))

    run_local(run, quiet=True)

    (finding,) = [one for one in result_of(run).findings if one["check"] == "interfaces"]
    assert finding["severity"] == "error"
    assert "NCCL_SOCKET_IFNAME=nowhere0 names it" in finding["what"]


def test_torchs_own_all_reduce_is_measured_inside_a_node(
    mpirun: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ended = mpirun(2, "-c", ALL_REDUCE_OF_TORCH)

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == [[8, 65536], True, True]
