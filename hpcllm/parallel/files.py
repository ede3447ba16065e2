"""How fast all ranks together write and read files, plain ones and HDF5, on one filesystem."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from hpcllm.parallel.world import World

BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class FileRates:
    """Bytes a second, all ranks together, until the slowest was done. None: it failed."""

    write_bytes_per_s: float
    read_bytes_per_s: float
    hdf5_write_bytes_per_s: float | None
    hdf5_read_bytes_per_s: float | None
    hdf5_error: str = ""
    """What HDF5 said where it failed with file locks, as they are set."""


def measure_files(world: World, folder: Path, most_bytes: int, for_s: float) -> FileRates:
    """Each rank writes a file of its own for about that time, then reads one of the next node.

    Written means on the servers (fdatasync after each block); what is read was never in this node's memory.
    """
    own, other = (folder / str(rank) for rank in (world.rank, (world.rank + world.local_size) % world.size))
    if world.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
        folder.mkdir(parents=True)
    world.barrier()
    try:
        block = np.random.default_rng(world.rank).bytes(min(BLOCK_BYTES, most_bytes))
        write, num_bytes = _rate(world, lambda: _write(own, block, most_bytes, for_s))
        read, _ = _rate(world, lambda: _read(other, len(block)))
        hdf5 = _measure_hdf5(world, own, other, block, num_bytes)
    finally:
        world.barrier()
        if world.rank == 0:
            shutil.rmtree(folder)
    return FileRates(write, read, *hdf5)


def _rate(world: World, call: Callable[[], int]) -> tuple[float, int]:
    """All ranks' bytes over the slowest one's time, and this rank's bytes."""
    world.barrier()
    start = time.perf_counter()
    num_bytes = call()
    found = world.all_gather((num_bytes, time.perf_counter() - start))
    return sum(count for count, _ in found) / max(seconds for _, seconds in found), num_bytes


def _write(path: Path, block: bytes, most_bytes: int, for_s: float) -> int:
    end, written = time.perf_counter() + for_s, 0
    with path.open("wb", buffering=0) as file:
        while written < most_bytes and (not written or time.perf_counter() < end):
            written += file.write(block)
            os.fdatasync(file.fileno())
    return written


def _read(path: Path, block_bytes: int) -> int:
    buffer, done = bytearray(block_bytes), 0
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # of no use where all nodes are one machine
        while count := file.readinto(buffer):
            done += count
    return done


def _measure_hdf5(
    world: World, own: Path, other: Path, block: bytes, num_bytes: int
) -> tuple[float | None, float | None, str]:
    """As the shards are: one contiguous dataset. Tried with locks as the environment sets them, then without any."""
    error = ""
    for locking in (None, False):
        failed = world.all_gather(_try(lambda locking=locking: _write_hdf5(own, block, 0, locking)))  # type: ignore[misc]
        if not any(failed):
            write, _ = _rate(world, lambda locking=locking: _write_hdf5(own, block, num_bytes, locking))  # type: ignore[misc]
            read, _ = _rate(world, lambda locking=locking: _read_hdf5(other, len(block), locking))  # type: ignore[misc]
            return write, read, error
        error = error or next(filter(None, failed))
    return None, None, error


def _try(call: Callable[[], int]) -> str:
    """What went wrong, or nothing."""
    try:
        call()
    except (OSError, RuntimeError) as error:
        return str(error)
    return ""


def _write_hdf5(path: Path, block: bytes, num_bytes: int, locking: bool | None) -> int:
    tokens = np.frombuffer(block[: len(block) // 2 * 2], "<u2")
    blocks = num_bytes // len(block)
    with h5py.File(f"{path}.h5", "w", libver=("v108", "v108"), locking=locking) as file:
        dataset = file.create_dataset("tokens", (blocks * len(tokens),), "<u2")
        for number in range(blocks):
            dataset[number * len(tokens) : (number + 1) * len(tokens)] = tokens
    with open(f"{path}.h5", "rb") as written:
        os.fsync(written.fileno())
    return blocks * tokens.nbytes


def _read_hdf5(path: Path, block_bytes: int, locking: bool | None) -> int:
    buffer = np.empty(block_bytes // 2, "<u2")
    with open(f"{path}.h5", "rb") as written:
        os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with h5py.File(f"{path}.h5", "r", locking=locking) as file:
        dataset = file["tokens"]
        for start in range(0, len(dataset), len(buffer)):
            dataset.read_direct(buffer, np.s_[start : start + len(buffer)])
        return int(dataset.nbytes)
