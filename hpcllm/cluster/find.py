"""Which profile a command means: by path, by name, by this Slurm's own name, or this machine."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
from pathlib import Path

from hpcllm.cluster.detection.here import local_profile
from hpcllm.cluster.profile import Profile, load_profile, profile_folders
from hpcllm.errors import UserError
from hpcllm.source import read_text

SCONTROL_TIMEOUT_S = 2.0
LOCAL = "local"


def find_profile(name: str | None) -> tuple[Profile, Path | None]:
    """The profile of that name or path, and its file (None: this machine, detected).

    Left out, it is the profile whose `scheduler.cluster_name` is this Slurm's, else this machine.
    Raises UserError for an unknown name, SourceError for a profile with mistakes.
    """
    if name is None:
        path = _profile_of(slurm_cluster_name())
    elif name == LOCAL and not _named(LOCAL):
        path = None
    else:
        path = profile_file(name)
    return (load_profile(path), path) if path else (local_profile(), None)


def available_profiles() -> dict[str, Path]:
    """Every profile in the folders, by name; an earlier folder hides the same name in a later one."""
    found: dict[str, Path] = {}
    for folder in profile_folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def slurm_cluster_name() -> str | None:
    """ClusterName of the Slurm that this machine belongs to, or None. Asks scontrol only when no slurm.conf is here."""
    conf = Path(os.environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf")
    text = _read(conf) or _scontrol_config()
    matched = re.search(r"^\s*ClusterName\s*=\s*(\S+)", text, re.MULTILINE | re.IGNORECASE)
    return matched[1] if matched else None


def profile_file(name: str) -> Path:
    """The file that a path or a profile's name means. Raises UserError for an unknown name."""
    looks_like_a_path = "/" in name or name.endswith((".yaml", ".yml"))
    if looks_like_a_path:
        return Path(name)
    path = _named(name)
    if path is None:
        raise UserError(_unknown(name))
    return path


def _named(name: str) -> Path | None:
    return available_profiles().get(name)


def _profile_of(cluster_name: str | None) -> Path | None:
    """The file of the profile for this Slurm; a file with mistakes is passed over, since nobody asked for it."""
    for path in available_profiles().values() if cluster_name else ():
        try:
            text = read_text(path)
            if str(cluster_name) not in text and "extends:" not in text:
                continue  # checking a whole profile takes some ten milliseconds
            if load_profile(path).scheduler.cluster_name == cluster_name:
                return path
        except UserError:
            continue
    return None


def _unknown(name: str) -> str:
    names = [*available_profiles(), LOCAL]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    folders = ", ".join(map(str, profile_folders()))
    return (
        f"--cluster: found {name!r}, which is no profile{hint}; "
        f"there are {', '.join(sorted(names))} (looked in {folders}); "
        "give one of them, the path of a profile, or put your own folder in $HPCLLM_PROFILES"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _scontrol_config() -> str:
    """What `scontrol show config` says; nothing where there is no Slurm or it does not answer in time."""
    if not shutil.which("scontrol"):
        return ""
    command = ["scontrol", "show", "config"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SCONTROL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
