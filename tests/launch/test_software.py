"""What programs run in: the words of a script for each kind, checked by bash, shellcheck and shims of the runtimes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from shipped_jobs import demo, described

import hpcllm
from hpcllm.cluster.profile import Profile
from hpcllm.cluster.user import User
from hpcllm.errors import UserError
from hpcllm.job.spec import CommandJob, SoftwareSpec, absolute
from hpcllm.launch.render import render
from hpcllm.launch.software import container_named, environment_at
from hpcllm.plan.search import search
from hpcllm.run_directory import Run

IMAGE = "/shared/my images/torch.sif"
KINDS = {
    "venv": "/home/me/venv",
    "conda": "/home/me/conda envs/torch",
    "packed": "/home/me/env.tar.gz",
    "apptainer": IMAGE,
    "singularity": IMAGE,
    "pyxis": "nvcr.io#nvidia/pytorch:25.01-py3",
    "podman-hpc": "nersc/pytorch:25.01",
    "shifter": "nersc/pytorch:25.01",
    "container-engine": "/home/me/torch.toml",
}


def site(kind: str = "slurm", **changed: object) -> Profile:
    """A cluster of four nodes, with parts of its profile changed."""
    plain = described(kind, "srun" if kind == "slurm" else "env").model_dump(mode="json", by_alias=True)
    plain["software"]["python"] = "python3"
    if kind == "local":
        plain["software"]["mpi"]["launcher"] = [
            "bash",
            "-c",
            'shift 2; exec "$@"',
            "alone",
        ]  # in place of an MPI: one rank
    return Profile.model_validate({**plain, **{part: {**plain[part], **value} for part, value in changed.items()}})  # type: ignore[dict-item]


def rendered(profile: Profile, folder: Path, environment: dict[str, object] | None, *words: str, **job: object) -> Run:
    """A command on two nodes, started in `folder`/code."""
    software = {"environment": environment} if environment else {}
    described_job = {
        "name": "mine",
        "command": words or ("python", "train.py"),
        "resources": {"nodes": 2, "ranks_per_node": 2} if profile.scheduler.kind == "slurm" else {},
        "software": software,
        "environment": {"GREETING": "it's here"},
        **job,
    }
    (folder / "code").mkdir(exist_ok=True)
    made = CommandJob.model_validate(described_job)
    return render(profile, None, made, None, None, folder / "run", user=User(), cwd=folder / "code")


def text_of(run: Run) -> str:
    path = run.script("30-command")
    return (path if path.exists() else run.local_script("30-command")).read_text()


def section(text: str, title: str) -> str:
    """One block of a script, its words on one line."""
    found = re.search(rf"^# ---- {title}.*?(?=^# ----|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, text
    return " ".join(found[0].split())


@pytest.mark.parametrize("kind", KINDS)
def test_bash_and_shellcheck_find_nothing(kind: str, tmp_path: Path) -> None:
    run = rendered(site(), tmp_path, {"kind": kind, "path": KINDS[kind], "mounts": ["$SCRATCH/data", "/a b:/data"]})

    subprocess.run(["bash", "-n", run.script("30-command")], check=True)
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", run.script("30-command")], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def test_a_venv_is_the_first_on_path_and_its_python_runs_the_checks(tmp_path: Path) -> None:
    text = text_of(rendered(site(), tmp_path, {"kind": "venv", "path": "/home/me/venv"}))

    assert "export VIRTUAL_ENV=/home/me/venv PATH=/home/me/venv/bin:$PATH  # job.software.environment.path" in text
    assert "PYTHON=/home/me/venv/bin/python  # job.software.environment.path" in text


def test_a_conda_environment_is_activated_without_conda(tmp_path: Path) -> None:
    text = text_of(rendered(site(), tmp_path, {"kind": "conda", "path": "/conda/torch"}))

    assert "export CONDA_PREFIX=/conda/torch PATH=/conda/torch/bin:$PATH" in text
    assert "for hook in /conda/torch/etc/conda/activate.d/*.sh" in text


def test_it_comes_after_the_sites_own_lines_and_before_unset_variables_are_errors(tmp_path: Path) -> None:
    own = {"software": {"modules": ["gcc/13"], "setup": ["source /site/env.sh"]}}

    text = text_of(rendered(site(**own), tmp_path, {"kind": "venv", "path": "/v"}))

    order = ["module load gcc/13", "source /site/env.sh", "export VIRTUAL_ENV=/v", "set -u"]
    assert [text.index(word) for word in order] == sorted(text.index(word) for word in order)


def test_the_jobs_environment_wins_over_the_profiles(tmp_path: Path) -> None:
    profile = site(software={"environment": {"kind": "venv", "path": "/site/venv"}})

    assert "VIRTUAL_ENV=/site/venv" in text_of(rendered(profile, tmp_path, None))
    (tmp_path / "own").mkdir()
    own = text_of(rendered(profile, tmp_path / "own", {"kind": "venv", "path": "/my/venv"}))
    assert "/site/venv" not in own
    assert "VIRTUAL_ENV=/my/venv" in own


def test_a_jobs_modules_come_after_the_sites(tmp_path: Path) -> None:
    profile = site(software={"modules": ["gcc/13"]})

    text = text_of(rendered(profile, tmp_path, None, software={"modules": ["cuda/12"]}))

    assert "module load gcc/13 cuda/12" in text


def test_checks_are_left_out_where_a_programs_own_python_lacks_what_they_need(tmp_path: Path) -> None:
    plain = section(text_of(rendered(site(), tmp_path, None)), "checks")
    (tmp_path / "own").mkdir()
    own = section(text_of(rendered(site(), tmp_path / "own", {"kind": "venv", "path": "/v"})), "checks")

    assert "can_check" not in plain
    assert "no checks: they need hpcllm's packages and an MPI in the program's own environment" in own


def test_an_environment_whose_mpi4py_finds_no_mpi_is_none_for_checks(tmp_path: Path) -> None:
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("class rc: pass\n")
    (tmp_path / "mpi4py" / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')\n")
    asked = [sys.executable, "-P", Path(hpcllm.__file__).parent / "parallel" / "can_check.py"]

    with_mpi = subprocess.run(asked, timeout=60).returncode
    without = subprocess.run(asked, timeout=60, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True)

    assert (with_mpi, without.returncode) == (0, 1)


# ---- images ----------------------------------------------------------------------------------------------------------


def inside(tmp_path: Path, kind: str, profile: Profile | None = None, **more: object) -> str:
    return section(text_of(rendered(profile or site(), tmp_path, {"kind": kind, "path": KINDS[kind], **more})), "image")


@pytest.mark.parametrize("kind", ["apptainer", "singularity"])
def test_apptainer_sees_the_run_and_the_code_and_starts_there(tmp_path: Path, kind: str) -> None:
    run, code = tmp_path / "run", tmp_path / "code"

    found = inside(tmp_path, kind, mounts=["$SCRATCH/data"])

    binds = f'--bind {run}:{run} --bind {code}:{code} --bind "${{SCRATCH-}}/data:${{SCRATCH-}}/data"'
    assert f"{kind} exec {binds} --pwd {code} '{IMAGE}' )" in found
    assert 'launch+=("${inside[@]}")' in found


@pytest.mark.parametrize(("gpu", "option"), [("A100-80GB", "--nv"), ("MI250X", "--rocm")])
def test_apptainer_sees_the_gpus(tmp_path: Path, gpu: str, option: str) -> None:
    nodes = {"cpu": {"count": 4, "cores": 4, "memory": "16GiB", "gpus": {"model": gpu, "count": 2}}}

    assert f"apptainer exec {option} " in inside(tmp_path, "apptainer", site(nodes=nodes))


def test_the_sites_options_and_modules_of_a_runtime_are_taken(tmp_path: Path) -> None:
    runtime = {"runtime": "apptainer", "modules": ["apptainer/1.4"], "options": ["--nv", "--bind=/opt/$SITE"]}
    profile = site(software={"containers": [runtime]})

    text = text_of(rendered(profile, tmp_path, {"kind": "apptainer", "path": IMAGE}))

    assert "module load apptainer/1.4" in text
    assert 'apptainer exec --nv "--bind=/opt/${SITE-}" --bind' in section(text, "image")


def test_pyxis_is_told_by_options_of_srun_and_which_variables_win(tmp_path: Path) -> None:
    options = ["--container-image", "--container-mounts=/run/tcpx-$SLURM_JOB_ID,/opt/nic", "--container-writable"]
    profile = site(software={"containers": [{"runtime": "pyxis", "options": options}]})
    run, code = tmp_path / "run", tmp_path / "code"

    found = inside(tmp_path, "pyxis", profile)

    assert "--container-image='nvcr.io#nvidia/pytorch:25.01-py3'" in found
    site_own = "/run/tcpx-${SLURM_JOB_ID-}:/run/tcpx-${SLURM_JOB_ID-},/opt/nic:/opt/nic"
    assert f'"--container-mounts={run}:{run},{code}:{code},{site_own}" ' in found
    assert f"--container-workdir={code} '--container-env=MASTER_ADDR,MASTER_PORT,PYTHONPATH,OMP_NUM_THREADS," in found
    assert "GREETING" in found
    assert found.count("--container-image") == found.count("--container-mounts") == 1
    assert "--container-writable" in found


def test_without_an_allocation_pyxis_says_that_it_needs_one(tmp_path: Path) -> None:
    assert "pyxis is a part of srun: run this inside an allocation" in inside(tmp_path, "pyxis")


def test_podman_is_given_every_variable_by_name(tmp_path: Path) -> None:
    found = inside(tmp_path, "podman-hpc")

    assert "podman-hpc run --rm --volume" in found
    assert "--env 'SLURM_*' --env 'PMI_*'" in found
    assert "--env MASTER_ADDR" in found
    assert "--env GREETING" in found
    assert f"--workdir {tmp_path}/code nersc/pytorch:25.01 )" in found


def test_shifter_mounts_the_sites_filesystems_itself(tmp_path: Path) -> None:
    assert f"shifter --image=nersc/pytorch:25.01 --workdir={tmp_path}/code )" in inside(tmp_path, "shifter")


def test_the_container_engine_reads_a_file_that_adds_the_run_to_the_users(tmp_path: Path) -> None:
    run = rendered(site(), tmp_path, {"kind": "container-engine", "path": "/home/me/torch.toml"})

    found = tomllib.loads(run.environment_toml.read_text())
    assert found["base_environment"] == "/home/me/torch.toml"
    assert found["mounts"] == [f"{run.root}:{run.root}", f"{tmp_path}/code:{tmp_path}/code"]
    assert found["workdir"] == f"{tmp_path}/code"
    assert '--environment="$RUN"/env/environment.toml' in section(text_of(run), "image")


def test_the_free_port_is_asked_of_the_nodes_own_python(tmp_path: Path) -> None:
    text = text_of(rendered(site(), tmp_path, {"kind": "apptainer", "path": IMAGE}))

    assert "SITE_PYTHON=$(command -v python3 || echo python3)" in text
    assert 'rendezvous "$SITE_PYTHON"' in text


@pytest.mark.parametrize("name", ["a,b", "a:b"])
def test_a_folder_that_no_image_could_mount_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()

    with pytest.raises(UserError, match="cannot be mounted into an image|expected a path without"):
        rendered(site(), tmp_path / name, {"kind": "apptainer", "path": IMAGE})


def test_what_a_copy_of_the_code_links_to_is_mounted_too(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    subprocess.run(["git", "init", "-q", tmp_path / "code"], check=True)

    found = inside(tmp_path, "apptainer")

    run, code = tmp_path / "run", tmp_path / "code"
    assert f"--bind {run}:{run} --bind {code}:{code} --pwd {run}/env/command " in found


def test_a_path_in_a_job_file_starts_at_the_file_and_a_name_of_a_registry_stays(tmp_path: Path) -> None:
    (tmp_path / "torch.sif").touch()

    def path_of(written: str) -> str:
        software = {"environment": {"kind": "apptainer", "path": written}}
        job = demo().model_copy(update={"software": SoftwareSpec.model_validate(software)})
        found = absolute(job, tmp_path).software.environment
        assert found
        return found.path

    assert path_of("torch.sif") == f"{tmp_path}/torch.sif"
    assert path_of("docker://pytorch/pytorch") == "docker://pytorch/pytorch"


def test_the_stages_of_the_pipeline_run_in_it_too(tmp_path: Path) -> None:
    job = demo().model_copy(
        update={"software": SoftwareSpec.model_validate({"environment": {"kind": "apptainer", "path": IMAGE}})}
    )
    profile = site()

    run = render(profile, None, job, None, search(profile, job), tmp_path / "run", user=User())

    for name in ("10-tokenizer", "30-train"):
        text = run.script(name).read_text()
        assert f"apptainer exec --bind {run.root}:{run.root} --pwd {run.root} '{IMAGE}' )" in section(text, "image")
        assert "PYTHON=python3  # job.software.environment.path" in text


SHIM = """\
#!/bin/bash
# A shim of apptainer, for this test: notes its arguments and runs the program without an image.
printf '%s\\n' "$@" >"{noted}"
while [[ $1 != *.sif ]]; do shift; done
shift
exec "$@"
"""


def test_the_program_gets_its_arguments_and_variables_through_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "apptainer"
    shim.write_text(SHIM.format(noted=tmp_path / "noted"))
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:/usr/bin:/bin")
    words = ("bash", "-c", 'echo "$GREETING $RANK $1 $PWD"', "x", "two  words $(no)")
    run = rendered(site("local"), tmp_path, {"kind": "apptainer", "path": IMAGE, "python": "/usr/bin/python3"}, *words)

    done = subprocess.run(["bash", run.local_script("30-command")], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"it's here 0 two  words $(no) {tmp_path}/code" in done.stdout
    assert IMAGE in (tmp_path / "noted").read_text().splitlines()


@pytest.mark.parametrize("kind", ["venv", "conda", "packed", "apptainer", "podman-hpc", "shifter", "pyxis"])
@pytest.mark.parametrize(
    "hostile", ["a'; touch MARK; '", '$(touch MARK)"`touch MARK`', "a\ntouch MARK\n", "${X:-$(touch MARK)}"]
)
def test_no_path_is_ever_code(tmp_path: Path, kind: str, hostile: str) -> None:
    environment: dict[str, object] = {"kind": kind, "path": f"/{hostile}"}
    if kind in ("apptainer", "podman-hpc", "shifter", "pyxis"):
        environment["mounts"] = [f"/{hostile}"]
    run = rendered(site("local"), tmp_path, environment, "true")

    subprocess.run(["bash", run.local_script("30-command")], capture_output=True, timeout=60, cwd=tmp_path)

    assert list(tmp_path.rglob("MARK")) == []


# ---- packed ----------------------------------------------------------------------------------------------------------


def small_environment(folder: Path) -> Path:
    """As much of a venv as unpacking looks at."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to("/usr/bin/env")
    program = folder / "bin" / "tool"
    program.write_text(f"#!{folder}/bin/python\necho\n")
    program.chmod(0o755)
    (folder / "pyvenv.cfg").write_text("")
    return folder


@pytest.mark.parametrize("source", ["folder", "archive"])
def test_a_packed_environment_is_unpacked_used_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    path, disk = small_environment(tmp_path / "my env"), tmp_path / "node's disk"
    disk.mkdir()
    if source == "archive":
        subprocess.run(["tar", "-C", path, "-czf", tmp_path / "env.tar.gz", "."], check=True)
        path = tmp_path / "env.tar.gz"
    nodes = {"cpu": {"cores": 4, "memory": "16GiB", "local_scratch": {"path": str(disk)}}}
    words = ("bash", "-c", 'echo "at $VIRTUAL_ENV"; head -1 "$(command -v tool)"')
    run = rendered(site("local", nodes=nodes), tmp_path, {"kind": "packed", "path": str(path)}, *words)

    done = subprocess.run(["bash", run.local_script("30-command")], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr
    place = re.search(r"at (.*)", done.stdout)
    assert place
    assert place[1].startswith(f"{disk}/hpcllm-env-")
    assert f"#!{place[1]}/bin/python" in done.stdout
    assert list(disk.iterdir()) == []


def test_an_archive_of_something_else_is_told_how_to_be_packed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    nodes = {"cpu": {"cores": 4, "memory": "16GiB", "local_scratch": {"path": str(tmp_path)}}}
    run = rendered(site("local", nodes=nodes), tmp_path, {"kind": "packed", "path": str(tmp_path / "other")}, "true")

    done = subprocess.run(["bash", run.local_script("30-command")], capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert "holds no bin/python; pack it by: tar -C ENVIRONMENT -czf FILE ." in done.stdout


# ---- what the command line names -------------------------------------------------------------------------------------


def test_env_takes_a_venv_a_conda_environment_or_an_archive(tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    (tmp_path / "conda" / "conda-meta").mkdir(parents=True)
    (tmp_path / "env.tar.gz").write_text("")

    found = [environment_at(tmp_path / name) for name in ("venv", "conda", "env.tar.gz")]

    assert [environment.kind for environment in found] == ["venv", "conda", "packed"]
    assert found[0].path == str(tmp_path / "venv")
    with pytest.raises(UserError, match="expected a venv, a conda environment, or an archive"):
        environment_at(tmp_path)


def test_container_takes_the_sites_favourite_runtime(tmp_path: Path) -> None:
    profile = site(software={"containers": [{"runtime": "pyxis"}, {"runtime": "apptainer"}]})

    assert container_named("docker://pytorch", profile).kind == "pyxis"
    with pytest.raises(UserError, match="names no container runtime; give software.environment in the job"):
        container_named("docker://pytorch", site())


ELF = b"\x7fELF\x02\x01" + bytes(12) + (183).to_bytes(2, "little")
SIF = b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\0" + b"01\0" + b"04\0"


@pytest.mark.parametrize(("kind", "header"), [("venv", ELF), ("apptainer", SIF)])
def test_what_was_built_for_other_nodes_is_refused_before_it_waits_in_the_queue(
    tmp_path: Path, kind: str, header: bytes
) -> None:
    path = tmp_path / "built"
    file = path / "bin" / "python" if kind == "venv" else path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(header)
    environment: dict[str, object] = {"kind": kind, "path": str(path)}

    with pytest.raises(UserError, match=r"built was built for aarch64, and nodes\.cpu are x86_64; build it on one"):
        rendered(site(), tmp_path, environment)

    arm = {"cpu": {"cores": 4, "memory": "16GiB", "architecture": "aarch64"}}
    assert rendered(site(nodes=arm), tmp_path, environment).root.exists()


def test_the_python_that_renders_is_refused_on_nodes_of_another_architecture(tmp_path: Path) -> None:
    nodes = {"cpu": {"cores": 4, "memory": "16GiB", "architecture": "ppc64le"}}
    profile = site(software={"python": "this"}, nodes=nodes)

    with pytest.raises(UserError, match=r"nodes\.cpu are ppc64le; make an environment on one of these nodes"):
        rendered(profile, tmp_path, None)

    assert rendered(profile, tmp_path, {"kind": "venv", "path": "/v"}).root.exists()
