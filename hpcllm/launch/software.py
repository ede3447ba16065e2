"""The software of a run, frozen: a copy of hpcllm that the scripts put first, and what lay beside it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import hpcllm
from hpcllm.cluster.profile import Profile
from hpcllm.cluster.software import SoftwareEnvironment
from hpcllm.errors import UserError

PACKAGE = Path(hpcllm.__file__).parent
GIT_TIMEOUT_S = 10.0


def software() -> dict[str, Any]:
    """What env/software.json says. Commit and diff are None where hpcllm does not run from a git checkout."""
    return {"version": hpcllm.__version__, **_git(), "code_sha256": code_sha256(), **_python()}


def copy_code(target: Path) -> None:
    """The package into `target`/hpcllm, so that a queued job never runs a later edit."""
    shutil.copytree(PACKAGE, target / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def code_sha256() -> str:
    """Hash of every file of the package, with its path."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path.relative_to(PACKAGE)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def environment_at(path: Path) -> SoftwareEnvironment:
    """The Python environment at a path: a venv or a conda environment where it lies, or an archive of one.

    Raises UserError for anything else.
    """
    path = Path(os.path.abspath(path.expanduser()))
    marks = {"venv": path / "pyvenv.cfg", "conda": path / "conda-meta"}
    kinds = [kind for kind, mark in marks.items() if mark.exists()] or ["packed"] * path.is_file()
    if not kinds:
        raise UserError(
            f"--env: found {path}; expected a venv, a conda environment, or an archive of one (tar, squashfs)"
        )
    return SoftwareEnvironment.model_validate({"kind": kinds[0], "path": str(path)})


def container_named(image: str, profile: Profile) -> SoftwareEnvironment:
    """An image for the site's favourite runtime. Raises UserError where the profile names none that we know to use."""
    runtimes = [container.runtime for container in profile.software.containers if container.runtime != "enroot"]
    if not runtimes:
        raise UserError(
            f"--container: {profile.name} names no container runtime; give software.environment in the job "
            "({kind: apptainer, path: IMAGE}), or software.containers in the profile"
        )
    path = os.path.abspath(image) if Path(image).exists() else image
    return SoftwareEnvironment.model_validate({"kind": runtimes[0], "path": path})


def _git() -> dict[str, Any]:
    """Commit and uncommitted changes of the checkout, if the package is tracked by one (a .venv inside is not)."""
    if _git_says("ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None, "diff_sha256": None}
    commit, diff = _git_says("rev-parse", "HEAD"), _git_says("diff", "HEAD", "--", ".") or ""
    sha256 = hashlib.sha256(diff.encode()).hexdigest() if diff else None
    return {"commit": commit and commit.strip(), "dirty": bool(diff), "diff_sha256": sha256}


def _git_says(*arguments: str) -> str | None:
    said = git(PACKAGE, *arguments)
    return None if said is None else said.decode(errors="replace")


def git(folder: Path, *arguments: str) -> bytes | None:
    """What git says; None when it is not there, refuses, or takes too long."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _python() -> dict[str, Any]:
    """The interpreter that rendered, and the packages that it has, as `pip freeze` writes them."""
    packages = {f"{found.name}=={found.version}" for found in distributions() if found.name}
    return {"python": platform.python_version(), "pip_freeze": sorted(packages, key=str.lower)}
