"""Facts of a person: `~/.config/hpcllm/user.yaml`, read only on login nodes and optional.

    mail: me@example.org
    clusters:
      lab: {account: research, qos: small}      # what holds on one cluster only

Command line > job > user > profile.
"""

from __future__ import annotations

import os
from pathlib import Path

from hpcllm import source
from hpcllm.names import Word
from hpcllm.source import Record


class Facts(Record):
    """What a person is on a cluster."""

    account: Word | None = None
    """Project that pays."""
    qos: Word | None = None
    mail: Word | None = None
    """Address that Slurm writes to at the end of a job."""
    scratch: Word | None = None
    """Folder for runs, where it is not the profile's."""


class User(Facts):
    """The whole file."""

    clusters: dict[str, Facts] = {}
    """By the name of the profile; these win over the ones above."""

    def fact(self, name: str, cluster: str) -> tuple[str | None, str]:
        """One fact on one cluster, and the key it comes from (`user.clusters.lab.account`)."""
        own = getattr(self.clusters.get(cluster, Facts()), name)
        return (own, f"user.clusters.{cluster}.{name}") if own else (getattr(self, name), f"user.{name}")


NOBODY = User()


def user_file() -> Path:
    """Where the file is looked for: below `$XDG_CONFIG_HOME`, else `~/.config`."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "hpcllm" / "user.yaml"


def load_user(path: Path | None = None) -> User:
    """The facts of whoever runs this; none when there is no file. Raises SourceError with all its mistakes."""
    path = path or user_file()
    return source.load(path, User) if path.exists() else User()
