"""Who started a process, which MPI library it has, and why the two may not find each other."""

from pathlib import Path

import pytest

from hpcllm.parallel.launched import Library, Started, check_protocol, library_of, singletons, started_as

MPICH, OPEN_MPI = "MPICH Version: 5.0.2", "Open MPI v5.0.11"
SLURM = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}
PMI = {"PMI_RANK": "1", "PMI_SIZE": "4"}
PRTE = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "PRTE_LAUNCHED": "1"}


def wheel(text: str) -> Library:
    return Library(text, "/venv/lib/libmpi.so.12", is_wheel=True)


@pytest.mark.parametrize(
    ("version", "flavour"),
    [
        ("MPICH Version: 5.0.2", "mpich"),
        ("Open MPI v5.0.7, package: Open MPI", "openmpi"),
        ("MPI VERSION : CRAY MPICH version 8.1.29.6", "cray-mpich"),
        ("Intel(R) MPI Library 2021.13 for Linux* OS", "intel-mpi"),
        ("MVAPICH Version : 4.0", "mvapich"),
        ("something new", None),
    ],
)
def test_a_library_is_known_by_its_version_text(version, flavour):
    assert Library(version).flavour == flavour


@pytest.mark.parametrize(
    ("environment", "launcher", "speaks"),
    [
        (SLURM, "srun without --mpi=", ""),
        ({**SLURM, "SLURM_MPI_TYPE": "pmix_v4"}, "srun --mpi=pmix_v4", "pmix"),
        ({**SLURM, **PMI, "SLURM_MPI_TYPE": "pmi2"}, "srun --mpi=pmi2", "pmi2"),
        ({**PMI, "HYDI_CONTROL_FD": "7"}, "Hydra's mpirun", "pmi"),
        ({**SLURM, **PMI, "HYDI_CONTROL_FD": "7", "SLURM_MPI_TYPE": "pmi2"}, "Hydra's mpirun", "pmi"),
        (PRTE, "Open MPI's mpirun", "pmix"),
    ],
)
def test_a_launcher_is_known_by_what_it_leaves_in_the_environment(environment, launcher, speaks):
    started = started_as(environment)

    assert (started.rank, started.size) == (1, 4)
    assert (started.launcher, started.speaks) == (launcher, speaks)


def test_a_library_is_known_by_its_file_and_a_wheel_by_its_place(tmp_path: Path):
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp 00000000 08:01 77   /venv/lib/libmpi.so.40\n7f02-7f03 r--p 0 0 0 /lib/libc.so\n")
    version = "Open MPI v5.0.11, package: Open MPI user@host Distribution, ident: 5.0.11\0"

    assert library_of(version, maps, "/venv") == Library(OPEN_MPI, "/venv/lib/libmpi.so.40", is_wheel=True)
    assert library_of(version, maps, "/usr") == Library(OPEN_MPI, "/venv/lib/libmpi.so.40")
    assert library_of(MPICH, tmp_path / "nowhere") == Library(MPICH)


def test_srun_without_mpi_is_the_likely_cause_of_singletons():
    finding = singletons(started_as(SLURM), wheel(MPICH))

    assert finding.cause.startswith("srun was given no --mpi= for MPICH Version: 5.0.2")
    assert finding.action.startswith("srun --mpi=pmi2, or /venv/bin/mpirun")


@pytest.mark.parametrize("environment", [{**SLURM, **PMI, "SLURM_MPI_TYPE": "pmi2"}, {**PMI, "HYDI_CONTROL_FD": "7"}])
def test_a_wheels_mpi_under_the_sites_launcher_is_the_likely_cause_of_others(environment):
    finding = singletons(started_as(environment), wheel(OPEN_MPI))

    assert finding.cause.startswith("the MPI of a wheel under the site's launcher: ")
    assert finding.cause.endswith("(the wheel /venv/lib/libmpi.so.12) understands pmix only")
    assert finding.action.startswith("srun --mpi=pmix, or /venv/bin/mpirun")


def test_a_library_that_nobody_knows_gets_a_general_cause():
    finding = singletons(started_as({**SLURM, "SLURM_MPI_TYPE": "pmi2"}), Library("something new"))

    assert "do not know each other's protocol" in finding.cause
    assert "srun --mpi=list" in finding.action


@pytest.mark.parametrize("environment", [{**SLURM, "SLURM_MPI_TYPE": "pmix"}, PRTE])
def test_mpich_of_a_wheel_is_stopped_before_it_dies_under_pmix(environment):
    finding = check_protocol(started_as(environment), wheel(MPICH))

    assert finding is not None
    assert "unsupported PMI version PMIx" in finding.what
    assert check_protocol(started_as(environment), wheel(OPEN_MPI)) is None
    assert (
        check_protocol(started_as(environment), Library(MPICH, "/opt/mpich/lib/libmpi.so.12")) is None
    )  # has PMIx, maybe


def test_a_process_that_nobody_started_is_let_be():
    assert started_as({}) == Started()
    assert check_protocol(started_as({}), wheel(MPICH)) is None
