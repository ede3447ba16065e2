"""This machine as a profile. Run: pytest tests/cluster/test_detect.py."""

import os
import subprocess
import sys

import pytest

from hpcllm import source
from hpcllm.cluster.detection import here as detect
from hpcllm.cluster.profile import Profile

TWO_SOCKETS = "".join(
    f"processor\t: {cpu}\nphysical id\t: {cpu % 4 // 2}\ncore id\t\t: {cpu % 2}\nflags\t\t: fpu sse2\n\n"
    for cpu in range(8)
)


def test_this_machine_is_one_node_without_queue_and_network():
    profile = detect.local_profile()

    assert (profile.scheduler.kind, profile.fabric.kind) == ("local", "none")
    assert profile.node_type(None).count == 1
    assert 1 <= profile.node_type(None).cores <= len(os.sched_getaffinity(0))


def test_the_speed_of_a_cpu_is_left_unknown():
    assert detect.local_profile().node_type(None).flops_per_s is None


def test_two_threads_of_a_core_are_one_core():
    topology = detect.topology_of(TWO_SOCKETS, frozenset(range(8)))

    assert (topology.cores, topology.sockets) == (4, 2)


def test_cores_outside_the_affinity_do_not_count():
    topology = detect.topology_of(TWO_SOCKETS, frozenset({0, 1, 4, 5}))

    assert (topology.cores, topology.sockets) == (2, 1)


def test_a_virtual_machines_cpus_are_cores():
    cpuinfo = TWO_SOCKETS.replace("sse2", "sse2 hypervisor")

    assert detect.topology_of(cpuinfo, frozenset(range(8))).cores == 8


def test_a_cpuinfo_that_does_not_tell_makes_each_thread_a_core():
    assert detect.topology_of("processor\t: 0\nBogoMIPS\t: 50\n\nprocessor\t: 1\n", frozenset({0, 1})).cores == 2


def test_gpus_are_read_from_nvidia_smi():
    gpus = detect.parse_nvidia_smi("NVIDIA A100-SXM4-80GB, 81920\nNVIDIA A100-SXM4-80GB, 81251\n")

    assert gpus == {"model": "A100-SXM4-80GB", "count": 2, "memory": "81251MiB"}
    assert detect.parse_nvidia_smi("No devices were found\n") is None


@pytest.mark.parametrize(
    ("said", "flavour"),
    [
        ("mpirun (Open MPI) 4.1.6", "openmpi"),
        ("mpirun (Intel(R) MPI Library) 2021", "intel-mpi"),
        ("HYDRA build details:", "mpich"),
        ("something else", "mpich"),
    ],
)
def test_an_mpirun_is_asked_whose_it_is(tmp_path, said, flavour):
    mpirun = tmp_path / "mpirun"
    mpirun.write_text(f"#!/bin/sh\necho '{said}'\n")
    mpirun.chmod(0o755)

    assert detect.mpi_flavour(str(mpirun)) == flavour


def test_no_mpirun_is_no_error_before_one_is_needed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    assert detect.local_profile().software.mpi.launcher == ("mpirun",)


def test_the_detected_file_loads_and_says_what_was_assumed():
    text = detect.detected_yaml()

    data, positions = source.parse(text, "detected")
    profile = source.check(data, Profile, "detected", positions)
    assert profile.node_type(None).cores == detect.local_profile().node_type(None).cores
    assert "# Detected" in text
    assert "# Assumed" in text


def test_a_folder_with_a_colon_in_its_name_is_described_too(monkeypatch, tmp_path):
    odd = tmp_path / "a: 'b' # c"
    odd.mkdir()
    monkeypatch.chdir(odd)

    data, positions = source.parse(detect.detected_yaml(), "detected")
    assert source.check(data, Profile, "detected", positions).scratch().path == str(odd)


def test_detecting_needs_no_torch():
    code = "import sys, hpcllm.cluster.detection.here as d; d.local_profile(); sys.exit('torch' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)
