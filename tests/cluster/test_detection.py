"""Profiles of clusters as they describe themselves. Run: pytest tests/cluster/test_detection.py."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from recorded_clusters import ROCM, node, partition, seen, slurm

from hpcllm.cluster.detection import ask, compose
from hpcllm.cluster.detection.ask import LOOK, Ask
from hpcllm.cluster.detection.node import node_of
from hpcllm.cluster.detection.queue import ask_slurm, queue_of
from hpcllm.cluster.profile import Profile, load_profile
from hpcllm.errors import UserError

PLACE = compose.Place("/work/me", "openmpi", "mpirun")


def described(folder: Path, words: dict[str, str], looked: dict | None) -> tuple[Profile, str]:
    """The profile that is written, read again, and its text."""
    text = compose.profile_text(queue_of(words), looked and node_of(looked), looked is not None, PLACE)
    file = folder / "found.yaml"
    file.write_text(text)
    return load_profile(file), text


def test_a_queue_and_a_node_make_a_profile(tmp_path):
    profile, _ = described(tmp_path, slurm(), seen())

    scheduler, gpus = profile.scheduler, profile.nodes["a100x4"].gpus
    assert (profile.name, scheduler.cluster_name, scheduler.version) == ("borealis", "borealis", "23.11.10")
    assert (scheduler.memory_request, scheduler.gpu_request, scheduler.account_required) == (
        "node",
        "gpus-per-node",
        True,
    )
    assert (gpus.model, gpus.count, gpus.gres_type, gpus.memory_bytes) == ("A100-80GB", 4, "a100", 80 * 2**30)
    assert (gpus.cpus, gpus.numa) == (("48-63", "32-47", "16-31", "0-15"), (3, 2, 1, 0))
    assert gpus.nics == ("mlx5_3", "mlx5_2", "mlx5_1", "mlx5_0")
    assert (profile.fabric.kind, profile.fabric.interfaces) == ("infiniband", ("ib0",))
    assert (profile.fabric.rails, profile.fabric.rate_bytes_per_s) == (4, 25e9)
    assert (profile.scratch().kind, profile.scratch().path) == ("lustre", "$SCRATCH")
    assert profile.software.mpi.launcher == ("srun", "--mpi=pmix")


def test_limits_are_those_of_partitions_and_their_qos(tmp_path):
    profile, _ = described(tmp_path, slurm(), seen())

    partitions = profile.scheduler.partitions
    assert set(partitions) == {"gpu", "debug", "cpu"}  # urgent has no nodes that name it; old is down
    assert (partitions["debug"].max_time_s, partitions["debug"].max_nodes) == (1800, 2)
    assert partitions["gpu"].default
    assert partitions["debug"].preemptible
    assert profile.scheduler.limits("gpu", "long", 1).max_time_s == 7 * 86400
    assert profile.nodes["cpu62"].cores == 62  # CoreSpecCount keeps two for the system
    assert profile.nodes["cpu62"].threads_per_core == 2


def test_what_was_assumed_stands_apart_from_what_was_detected(tmp_path):
    _, text = described(tmp_path, slurm(), None)

    lines = [line for line in text.splitlines() if ": " in line and not line.startswith("#")]
    kept = [line for line in lines if "verified" not in line and "kind: slurm" not in line]
    assert [line for line in kept if "# detected: " not in line and "# assumed: " not in line] == []
    assert "no compute node was looked at" in text
    assert "memory: unknown" in text


def test_gpus_that_no_driver_shows_are_left_out_and_named(tmp_path):
    profile, text = described(tmp_path, slurm(), seen(nvidia_smi="", nvidia_topology=""))

    assert profile.nodes["a100x4"].gpus is None
    assert "Slurm has 4 GPUs, but neither nvidia-smi nor rocm-smi found one on gpu001" in text


def test_gcds_are_gpus_and_share_no_cpus():
    found = node_of(seen(nvidia_smi="", nvidia_topology="", rocm_smi=ROCM)).gpus

    assert (found.model, found.count, found.memory_mib) == ("MI250X", 2, 65520)
    assert (found.cpus, found.numa) == ((), (3, 3))


def adapter(name: str, rate: str, link_layer: str) -> dict:
    return {"adapters": {name: {"rate": rate, "link_layer": link_layer, "state": "4: ACTIVE"}}}


def addresses(*names: str) -> dict:
    return {"adapters": {}, "addresses": "".join(f"{i}: {name} inet 10.0.0.{i}/16\n" for i, name in enumerate(names))}


@pytest.mark.parametrize(
    ("changes", "kind", "interfaces"),
    [
        (addresses("lo", "hsn0", "hsn1"), "slingshot", ("hsn0", "hsn1")),
        (addresses("lo", "docker0", "eno1"), "ethernet", ("eno1",)),
        (adapter("rdmap0s6", "100 Gb/sec (4X EDR)", "Unspecified"), "efa", ("eth0",)),
        (adapter("hfi1_0", "100 Gb/sec (4X EDR)", "InfiniBand"), "omni-path", ("ib0",)),
        (adapter("mlx5_0", "100 Gb/sec (4X EDR)", "Ethernet"), "roce", ("eth0",)),
    ],
)
def test_the_kind_of_network_is_read_off_its_adapters(changes, kind, interfaces):
    found = node_of(seen(**changes)).fabric

    assert (found.kind, found.interfaces) == (kind, interfaces)


def test_nodes_of_several_kinds_in_one_partition_are_to_be_checked(tmp_path):
    words = slurm(nodes="\n".join([node("gpu001"), node("gpu002"), node("gpu003", gres="gpu:h100:4")]))

    profile, text = described(tmp_path, words, None)

    assert profile.scheduler.partitions["gpu"].node_type == "a100x4"
    assert "partition gpu has nodes of several kinds (a100x4, h100x4)" in text


def test_of_gpus_of_several_types_in_a_node_the_most_numerous_are_described_and_the_others_named(tmp_path):
    gres = "gpu:v100:1(S:0),gpu:a100:2(S:0),gpu:a100:2(S:1),shard:8"

    profile, text = described(tmp_path, slurm(nodes=node("gpu001", gres=gres)), None)

    gpus = profile.nodes["a100x4"].gpus
    assert (gpus.count, gpus.gres_type) == (4, "a100")
    assert "nodes.a100x4.gpus: 4 a100 are described; the same nodes have 1 v100, which no rank uses" in text


def test_a_partition_named_like_a_yaml_word_is_still_a_name(tmp_path):
    words = slurm(nodes=node("gpu001", partitions="on"), partitions=partition("on", default="YES"))

    profile, _ = described(tmp_path, words, None)

    assert set(profile.scheduler.partitions) == {"on"}


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_looking_needs_nothing_but_python(tmp_path):
    token = tmp_path / "token"
    token.touch()
    empty = {"PATH": "/nonexistent", "HOME": "/root", "A_SECRET": "/do/not/tell"}

    looked = subprocess.run(
        [sys.executable, "-I", "-S", LOOK, token], env=empty, capture_output=True, text=True, check=True
    )

    found = json.loads(looked.stdout)
    assert found["shared"]
    assert set(found["places"]) <= {"HOME", "TMPDIR"}
    node_of(found)


def test_a_job_that_cannot_run_says_why_and_what_to_do(tmp_path, monkeypatch):
    program = tmp_path / "srun"
    program.write_text("#!/bin/sh\necho 'srun: error: Unable to allocate resources: Invalid account' >&2\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UserError, match=r"Invalid account; name a --partition, an --account"):
        ask.look_by_job(queue_of(slurm()), Ask(job=True))


def test_the_job_asks_for_a_whole_node_with_its_gpus():
    command = ask.look_command(queue_of(slurm()), Ask(job=True, account="physics"))

    assert "--partition=gpu" in command
    assert {"--exclusive", "--gres=gpu:a100:4", "--account=physics"} <= set(command)
    with pytest.raises(UserError, match="this Slurm has gpu, debug, cpu"):
        ask.look_command(queue_of(slurm()), Ask(job=True, partition="gpus"))


def test_words_of_slurm_that_are_no_text_are_no_crash(tmp_path, monkeypatch):
    for name in ("scontrol", "sacctmgr", "srun"):
        program = tmp_path / name
        program.write_text(
            "#!/bin/sh\nprintf 'ClusterName = odd\\nNodeName=\\377\\376 PartitionName=\\200 Gres=gpu:\\n'\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert queue_of(ask_slurm()).cluster_name == "odd"


def test_a_controller_that_says_nothing_is_asked_once(tmp_path, monkeypatch):
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\necho "$*" >>"$(dirname "$0")/asked"\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert queue_of(ask_slurm()) is None
    assert (tmp_path / "asked").read_text() == "show config\n"
