"""One shard: an HDF5 file that anybody can read with h5py alone (docs/data.md), written whole and read in place.

    /tokens, /document_offsets                   of text
    /source/tokens, /source/document_offsets     of pairs, whose n-th document is the n-th sentence
    /target/tokens, /target/document_offsets

Each document's tokens end with END. Arrays are uncompressed and contiguous, so a reader maps the file and copies
nothing. A checksum is kept for each 1 MiB of each array: crc32, because it is in everybody's standard library and fast,
and because what it guards against is damage, not forgery.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcllm.data.corpus import Stream
from hpcllm.errors import HpcllmError
from hpcllm.run_directory import atomic_path

FORMAT = 1
CHECKSUM_BLOCK_BYTES = 2**20

GROUPS: dict[Stream, str] = {"text": "/", "source": "/source", "target": "/target"}

Tokens = NDArray[np.unsignedinteger[Any]]
Offsets = NDArray[np.int64]


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The smaller type that holds every id."""
    return np.dtype("<u2" if vocabulary_size < 2**16 else "<u4")


def write_shard_file(
    path: Path, documents: Mapping[Stream, Sequence[Tokens]], attributes: Mapping[str, Any], dtype: np.dtype[Any]
) -> None:
    """Write the documents of each stream, complete or not at all."""
    # The format of HDF5 1.8 on (2008) has no limit of 64 KiB on an attribute. Locks are not needed: nobody else knows
    # the temporary name, and many a parallel filesystem has none.
    with (
        atomic_path(path) as temporary,
        h5py.File(temporary, "w", libver=("v108", "v108"), locking=False) as file,
    ):
        file.attrs.update({"format_version": FORMAT, **attributes})
        for stream, arrays in documents.items():
            group = file.require_group(GROUPS[stream])
            lengths = np.array([0, *map(len, arrays)], "<i8")
            _write_array(group, "tokens", np.concatenate([np.zeros(0, dtype), *arrays]))
            _write_array(group, "document_offsets", np.cumsum(lengths, dtype="<i8"))


def _write_array(group: h5py.Group, name: str, array: NDArray[Any]) -> None:
    dataset = group.create_dataset(name, data=array)
    dataset.attrs["block_crc32"] = _checksums(array)


def _checksums(array: NDArray[Any]) -> NDArray[np.uint32]:
    content = memoryview(array.view(np.uint8))  # type: ignore[arg-type]  # numpy 2.4 types it as no buffer
    starts = range(0, len(content), CHECKSUM_BLOCK_BYTES)
    return np.array([zlib.crc32(content[at : at + CHECKSUM_BLOCK_BYTES]) for at in starts], "<u4")


@dataclass(frozen=True)
class ShardFile:
    """A shard that is mapped into memory."""

    path: Path
    attributes: dict[str, Any]
    tokens: dict[Stream, Tokens]
    offsets: dict[Stream, Offsets]
    checksums: dict[str, NDArray[np.uint32]]
    """By the name of the array in the file."""

    @classmethod
    def open(cls, path: Path) -> ShardFile:
        """Map a shard. Raises HpcllmError when it is missing, cut short, damaged, or another format."""
        try:
            with h5py.File(path, "r", locking=False) as file:
                return _map(path, file)
        except FileNotFoundError:
            raise HpcllmError(f"{path}: missing; {_AGAIN}") from None
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise HpcllmError(f"{path}: cut short or damaged: {_first_line(error)}; {_AGAIN}") from None

    def check(self) -> None:
        """Read everything and compare it with its checksums. Raises HpcllmError naming the array and the bytes."""
        for stream, group in GROUPS.items():
            if stream in self.tokens:
                self._check_array(f"{group.rstrip('/')}/tokens", self.tokens[stream])
                self._check_array(f"{group.rstrip('/')}/document_offsets", self.offsets[stream])
                self._check_ids(stream)

    def _check_array(self, name: str, array: NDArray[Any]) -> None:
        found, expected = _checksums(array), self.checksums[name]
        if len(found) != len(expected):
            raise HpcllmError(f"{self.path}: {name}: {len(expected)} checksums for {len(found)} blocks; {_AGAIN}")
        bad = np.flatnonzero(found != expected)
        if len(bad):
            first = int(bad[0]) * CHECKSUM_BLOCK_BYTES
            last = min(first + CHECKSUM_BLOCK_BYTES, array.nbytes) - 1
            raise HpcllmError(
                f"{self.path}: {name}: {len(bad)} of {len(found)} blocks differ from their checksums, "
                f"the first at bytes {first} to {last}: damaged after it was written; {_AGAIN}"
            )

    def _check_ids(self, stream: Stream) -> None:
        highest, size = int(self.tokens[stream].max(initial=0)), int(self.attributes["vocabulary_size"])
        if highest >= size:
            raise HpcllmError(f"{self.path}: {stream}: token {highest} in a vocabulary of {size}; {_AGAIN}")


_ATTRIBUTES = {"part", "tokenizer_sha256", "vocabulary_size", "source_files", "source_sizes"}
_AGAIN = "delete data/index.json of the run and start it again: the shard stage then writes them anew"


def _map(path: Path, file: h5py.File) -> ShardFile:
    found = file.attrs.get("format_version")
    if found != FORMAT:
        what = "no attribute format_version: not a shard of hpcllm" if found is None else f"format_version {found}"
        raise HpcllmError(f"{path}: {what}; this hpcllm reads format {FORMAT}; shard the text again with it")
    lacking = _ATTRIBUTES - set(file.attrs)
    if lacking:
        raise ValueError(f"no attribute {', '.join(sorted(lacking))}")
    streams: list[Stream] = ["source", "target"] if "source" in file else ["text"]
    tokens: dict[Stream, Tokens] = {}
    offsets: dict[Stream, Offsets] = {}
    checksums: dict[str, NDArray[np.uint32]] = {}
    for stream in streams:
        group = file[GROUPS[stream]]
        tokens[stream] = _map_array(path, group["tokens"], "u")
        offsets[stream] = _map_array(path, group["document_offsets"], "i")
        checksums |= {group[name].name: group[name].attrs["block_crc32"] for name in ("tokens", "document_offsets")}
        _check_offsets(path, stream, offsets[stream], len(tokens[stream]))
    return ShardFile(path, dict(file.attrs), tokens, offsets, checksums)


def _map_array(path: Path, dataset: h5py.Dataset, kind: str) -> NDArray[Any]:
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != kind or dataset.ndim != 1:
        raise ValueError(
            f"{dataset.name} is no array of one dimension of {'unsigned' if kind == 'u' else 'signed'} integers"
        )
    if dataset.size == 0:
        return np.empty(0, dataset.dtype)
    at = dataset.id.get_offset()
    if at is None:
        raise ValueError(f"{dataset.name} is compressed or chunked, and cannot be mapped")
    return np.memmap(path, dataset.dtype, "r", at, dataset.shape)


def _check_offsets(path: Path, stream: Stream, offsets: Offsets, num_tokens: int) -> None:
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != num_tokens or (np.diff(offsets) < 0).any():
        raise ValueError(f"document_offsets of {stream} do not divide its {num_tokens} tokens")


def _first_line(error: Exception) -> str:
    return str(error).strip('"').splitlines()[0] if str(error) else type(error).__name__
