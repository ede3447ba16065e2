"""The shards on each node's own disk, where the profile says `local_scratch.stage`: the shared filesystem is read once.

The script says where (`derive/staging.py`). What does not fit, or cannot be written, is read where it lies.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hpcllm.data.corpus import Part
from hpcllm.data.shards import Entry, read_index
from hpcllm.derive.staging import BYTES, PATH
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run, atomic_path
from hpcllm.units import format_bytes

PARTS_OF_TRAINING: tuple[Part, ...] = ("train", "validation")
USABLE_SHARE = 0.9  # of what is free on the disk


@dataclass(frozen=True)
class Copies:
    """What one node has."""

    folder: Path | None = None
    """None: the shards are read where they lie."""
    what: str = ""
    """A sentence for the log; empty where nobody asked for copies."""


@contextmanager
def staged(run: Run, world: World, environment: Mapping[str, str] = os.environ) -> Iterator[tuple[Path, str]]:
    """The folder that this rank reads its shards from, and what the log says of it; all ranks call it.

    The first rank of each node copies, and takes its copies away afterwards.
    """
    first = world.local_rank == 0
    of_nodes = [copies for copies in world.all_gather(_copied(run, environment) if first else None) if copies]
    copies = of_nodes[world.node]
    said = "; ".join(dict.fromkeys(node.what for node in of_nodes if node.what))
    try:
        yield copies.folder or run.shards, said
        world.barrier()  # others of the node may still read
    finally:
        if first and copies.folder:
            shutil.rmtree(copies.folder, ignore_errors=True)


def _copied(run: Run, environment: Mapping[str, str]) -> Copies:
    disk = environment.get(PATH, "")
    if not disk:
        return Copies()
    index = read_index(run)
    entries = [entry for part in PARTS_OF_TRAINING for entry in index.parts[part]]
    size = sum(entry.file_bytes for entry in entries)
    try:
        room = min(int(USABLE_SHARE * shutil.disk_usage(disk).free), int(environment.get(BYTES, sys.maxsize)))
        if size > room:
            return Copies(
                None, f"shards stay where they are: {format_bytes(size)}, with {format_bytes(room)} in {disk}"
            )
        folder = _folder(Path(disk), run)
        for entry in entries:
            _copy(run.shards / entry.file, folder / entry.file, entry)
    except OSError as error:
        return Copies(None, f"shards stay where they are: {error}")
    return Copies(folder, f"{format_bytes(size)} of shards copied to {folder}")


def _folder(disk: Path, run: Run) -> Path:
    """The user's own, and another one for each set of shards."""
    content = hashlib.sha256(run.index_json.read_bytes()).hexdigest()
    return disk / f"hpcllm-{os.getuid()}" / content[:16]


def _copy(source: Path, target: Path, entry: Entry) -> None:
    """A copy that an earlier attempt left whole is as good."""
    if target.exists() and target.stat().st_size == entry.file_bytes:
        return
    with atomic_path(target, durable=False) as temporary:
        shutil.copyfile(source, temporary)
