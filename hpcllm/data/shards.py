"""The shards of a run: index.json lists them, and together they read as one array of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hpcllm.data.corpus import PARTS, Part, Stream
from hpcllm.data.shard_file import FORMAT, Offsets, ShardFile, Tokens
from hpcllm.data.tokenizer import Tokenizer
from hpcllm.errors import HpcllmError
from hpcllm.run_directory import Run, read_json, write_json

CHECKED_ON_OPEN_BYTES = 64 * 2**20  # more than this is mapped without being read; `hpcllm data verify` reads it all


@dataclass(frozen=True)
class Entry:
    """One shard in index.json."""

    file: str
    documents: int
    """Documents, or pairs."""
    tokens: dict[Stream, int]
    text_bytes: dict[Stream, int]
    """UTF-8 bytes of the text that the tokens stand for."""
    file_bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """index.json: what there is, and of which tokenizer."""

    tokenizer_sha256: str
    vocabulary_size: int
    streams: tuple[Stream, ...]
    parts: Mapping[Part, list[Entry]]
    """The shards of each part, in the order in which they are read."""


@dataclass(frozen=True)
class TokenStream:
    """The documents of several shards as one array, mapped and not copied."""

    pieces: tuple[Tokens, ...]
    piece_offsets: tuple[Offsets, ...]

    @cached_property
    def starts(self) -> Offsets:
        """Where each piece begins, and last the number of tokens."""
        return np.cumsum([0, *map(len, self.pieces)], dtype=np.int64)

    @property
    def num_tokens(self) -> int:
        """Of all documents, their ENDs included."""
        return int(self.starts[-1])

    @property
    def itemsize(self) -> int:
        """Bytes of a token in the file."""
        return self.pieces[0].itemsize if self.pieces else 2

    @cached_property
    def document_offsets(self) -> Offsets:
        """int64, n+1: document i is tokens[offsets[i] : offsets[i + 1]]."""
        shifted = [offsets[1:] + start for offsets, start in zip(self.piece_offsets, self.starts[:-1], strict=True)]
        return np.concatenate([np.zeros(1, np.int64), *shifted])

    def tokens(self, start: int, stop: int) -> Tokens:
        """A stretch, over the borders of shards; copied only there."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        found = [self.pieces[i][max(0, start - self.starts[i]) : stop - self.starts[i]] for i in range(first, last)]
        return found[0] if len(found) == 1 else np.concatenate([np.zeros(0, "<u2"), *found])

    def document(self, number: int) -> Tokens:
        """The tokens of one document, its END included."""
        return self.tokens(int(self.document_offsets[number]), int(self.document_offsets[number + 1]))


@dataclass(frozen=True)
class Shards:
    """All shards of one part of a run."""

    part: Part
    streams: Mapping[Stream, TokenStream]
    """`text`, or `source` and `target`."""
    text_bytes: Mapping[Stream, int]
    """UTF-8 bytes of the text that each stream stands for (for bits per byte)."""
    vocabulary_size: int

    @property
    def num_documents(self) -> int:
        """Documents, or pairs."""
        return sum(len(offsets) - 1 for offsets in next(iter(self.streams.values())).piece_offsets)

    @classmethod
    def open(cls, run: Run, part: Part, folder: Path | None = None) -> Shards:
        """Map the shards of a part, or their copies in `folder`; small ones are compared with their checksums.

        Raises HpcllmError naming the file when one is missing, damaged, cut short or of another tokenizer.
        """
        index = read_index(run)
        entries = index.parts[part]
        files = [_open_entry(run, index, entry, folder) for entry in entries]
        if sum(entry.file_bytes for entry in entries) <= CHECKED_ON_OPEN_BYTES:
            for file in files:
                file.check()
        streams = {
            stream: TokenStream(tuple(f.tokens[stream] for f in files), tuple(f.offsets[stream] for f in files))
            for stream in index.streams
        }
        text_bytes = {stream: sum(entry.text_bytes[stream] for entry in entries) for stream in index.streams}
        return cls(part, streams, text_bytes, index.vocabulary_size)


def verify(run: Run) -> list[str]:
    """Read every byte of every shard; what is wrong, a line a shard."""
    index = read_index(run)
    problems = []
    for entry in (entry for part in PARTS for entry in index.parts[part]):
        try:
            _open_entry(run, index, entry).check()
            if file_sha256(run.shards / entry.file) != entry.sha256:
                raise HpcllmError(
                    f"{run.shards / entry.file}: its sha256 is another than in {run.index_json}; {_AGAIN}"
                )
        except HpcllmError as error:
            problems.append(str(error))
    return problems


def read_index(run: Run) -> Index:
    """Raises HpcllmError when it is missing, damaged, of another format, or of another tokenizer than the run's."""
    path, data = run.index_json, read_json(run.index_json)
    try:
        if data["format"] != FORMAT:
            raise HpcllmError(f"{path}: format: found {data['format']!r}; this hpcllm reads {FORMAT}; {_AGAIN}")
        parts = {part: [Entry(**entry) for entry in data["parts"][part]["shards"]] for part in PARTS}
        index = Index(data["tokenizer_sha256"], data["vocabulary_size"], tuple(data["streams"]), parts)
    except (KeyError, TypeError) as error:
        raise HpcllmError(f"{path}: damaged: {type(error).__name__}: {error}; {_AGAIN}") from None
    if index.tokenizer_sha256 != Tokenizer.load(run.tokenizer_json).sha256:
        raise HpcllmError(f"{path}: the shards are of another tokenizer than {run.tokenizer_json}; {_AGAIN}")
    return index


def write_index(run: Run, index: Index) -> None:
    """Written when all of its shards are complete."""
    parts = {
        part: {**part_totals(entries), "shards": list(map(asdict, entries))} for part, entries in index.parts.items()
    }
    write_json(run.index_json, {"format": FORMAT, **vars(index), "parts": parts})


def part_totals(entries: Sequence[Entry]) -> dict[str, int]:
    """Documents (or pairs), tokens and bytes of text of these shards."""
    return {
        "documents": sum(entry.documents for entry in entries),
        "tokens": sum(sum(entry.tokens.values()) for entry in entries),
        "text_bytes": sum(sum(entry.text_bytes.values()) for entry in entries),
    }


def file_sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_entry(run: Run, index: Index, entry: Entry, folder: Path | None = None) -> ShardFile:
    """Map one shard, if it is the one that the index lists."""
    path = (folder or run.shards) / entry.file
    size_bytes = path.stat().st_size if path.exists() else 0
    if 0 < size_bytes != entry.file_bytes:
        raise HpcllmError(f"{path}: {size_bytes} bytes; {entry.file_bytes} were written: cut short; {_AGAIN}")
    file = ShardFile.open(path)
    if file.attributes["tokenizer_sha256"] != index.tokenizer_sha256:
        raise HpcllmError(f"{path}: of another tokenizer than {run.index_json} says; {_AGAIN}")
    return file


_AGAIN = "run the shard stage again"
