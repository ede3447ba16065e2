"""`hpcllm preflight` on real ranks: what is right passes, what is wrong is named."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.mpi
PREFLIGHT = ("-m", "hpcllm", "preflight")

NO_TORCH = """
import sys
from hpcllm.parallel import preflight
code = preflight.main(None, None, None, as_json=True)
assert not {"torch", "h5py"} & set(sys.modules)
sys.exit(code)
"""

ONE_RANK_NEVER_COMES = """
import time
from mpi4py import MPI
from hpcllm.parallel import preflight
preflight.LIMIT_S = 1.0
if MPI.COMM_WORLD.rank == 1:
    time.sleep(60)
preflight.main(None, None, None, as_json=False)
"""


def test_two_ranks_are_fit_to_start_and_no_torch_was_imported(mpirun):
    ended = mpirun(2, "-c", NO_TORCH)

    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["fit"]
    assert (found["ranks"], found["nodes"]) == (2, 1)
    assert [one["bytes"] for one in found["all_reduce"]][:3] == [8, 1024, 65536]
    assert found["inside_bytes_per_s"][0] > 0
    assert found["software"]["torch"] != "missing"
    assert found["contract_s"] > 0


def test_too_few_ranks_are_an_error(mpirun):
    ended = mpirun(1, *PREFLIGHT, "--ranks", "4")

    assert ended.returncode == 1
    assert "error: ranks: found 1; --ranks says 4" in ended.stdout


def test_too_few_nodes_are_an_error(mpirun):
    ended = mpirun(2, *PREFLIGHT, "--nodes", "2")

    assert ended.returncode == 1
    assert "error: nodes: the ranks are on 1; 2 were asked for" in ended.stdout


def test_singletons_are_named_once():
    """As srun starts them when its --mpi= is not the library's."""
    outputs = []
    for rank in range(2):
        environment = {**os.environ, "SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": "2"}
        command = [sys.executable, *PREFLIGHT]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1
        outputs.append(ended.stdout)

    assert "each of the 2 processes is an MPI world of its own" in outputs[0]
    assert outputs[1] == ""


def test_two_ranks_on_one_core_are_an_error(mpirun):
    core = min(os.sched_getaffinity(0))
    bind = f"import os, sys; os.sched_setaffinity(0, {{{core}}}); sys.argv[1:] = ['preflight']\n"
    ended = mpirun(2, "-c", bind + "from hpcllm.cli import main\nsys.exit(main())")

    assert ended.returncode == 1
    assert f"rank 0 on {core}, rank 1 on {core}" in ended.stdout


def test_a_run_directory_that_is_none_is_one_error(mpirun, tmp_path):
    ended = mpirun(2, *PREFLIGHT, "--run", tmp_path / "nowhere")

    assert ended.returncode == 2
    assert ended.stderr.count("not a run directory") == 1
    assert "Traceback" not in ended.stderr


def test_a_check_that_hangs_ends_all_ranks_and_is_named(mpirun):
    ended = mpirun(2, "-c", ONE_RANK_NEVER_COMES, timeout_s=30)

    assert ended.returncode != 0
    assert "starting MPI: no end after 1 s" in ended.stderr
