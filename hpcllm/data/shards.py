"""All shards of a run: written by every rank, the same at any number of ranks, and read as one array of tokens.

Documents (or pairs) are divided into groups by their sizes alone; the n-th group is written by rank n mod w. So neither
the content of a shard nor the order of the shards depends on who wrote it. index.json is written last: without it
there are no shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcllm.data import corpus
from hpcllm.data.corpus import PARTS, Pair, Part
from hpcllm.data.locator import SourceFile
from hpcllm.data.shard_file import FORMAT, Offsets, ShardFile, Stream, Tokens, token_dtype, write_shard_file
from hpcllm.data.tokenizer import END, Tokenizer
from hpcllm.errors import HpcllmError
from hpcllm.job.spec import Data
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run, read_json, write_json

CHECKED_ON_OPEN_BYTES = 64 * 2**20  # more than this is mapped without being read; `hpcllm data verify` reads it all

_GROUPS_AT_LEAST = 64  # where there is enough text, so that as many ranks share it evenly
_GROUP_BYTES_AT_LEAST = 2**20
_TEXT_BYTES_PER_TOKEN = 3  # a group is cut where its tokens exceed a shard; this makes that rare
_ENCODED_AT_ONCE = 64


# ---- writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Neighbouring documents or pairs of one part, which one rank writes."""

    part: Part
    number: int
    items: tuple[SourceFile, ...] | tuple[Pair, ...]


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


def plan_groups(data: Data) -> list[Group]:
    """What to write, from names and sizes alone. Raises UserError for text that is not there."""
    groups = []
    for part in PARTS:
        items: Sequence[SourceFile] | Sequence[Pair] = (
            corpus.pairs(data, part) if data.pairs else corpus.document_files(data, part)
        )
        ranges = _divide([item.size_bytes for item in items], data.shard_tokens)
        groups += [Group(part, number, tuple(items[r.start : r.stop])) for number, r in enumerate(ranges)]  # type: ignore[arg-type]
    return groups


def write_shards(
    run: Run, data: Data, tokenizer: Tokenizer, groups: Sequence[Group], world: World, progress: Callable[[int], None]
) -> None:
    """Write this rank's groups; rank 0 then writes index.json. `progress` is told how many items this rank has done.

    A shard holds at most `data.shard_tokens` tokens, but for one longer document, which has a shard of its own.
    """
    if world.rank == 0:
        run.index_json.unlink(missing_ok=True)
    world.barrier()
    written: list[tuple[Part, Entry]] = []
    done = 0
    for group in groups[world.rank :: world.size]:
        written += [(group.part, entry) for entry in _write_group(run, data, tokenizer, group)]
        done += len(group.items)
        progress(done)
    everything = [one for of_rank in world.all_gather(written) for one in of_rank]
    if world.rank == 0:
        _write_index(run, data, tokenizer, everything)
    world.barrier()


def _divide(sizes_bytes: Sequence[int], shard_tokens: int) -> Iterator[range]:
    """Neighbours together, up to a size that depends on nothing but the sizes."""
    share = max(sum(sizes_bytes) // _GROUPS_AT_LEAST, _GROUP_BYTES_AT_LEAST)
    wanted_bytes = min(share, shard_tokens * _TEXT_BYTES_PER_TOKEN)
    first, group_bytes = 0, 0
    for number, size in enumerate(sizes_bytes):
        if number > first and group_bytes + size > wanted_bytes:
            yield range(first, number)
            first, group_bytes = number, 0
        group_bytes += size
    if sizes_bytes:
        yield range(first, len(sizes_bytes))


@dataclass(frozen=True)
class _Encoded:
    """A document or a pair as numbers, each of its texts closed by END."""

    file: str
    tokens: dict[Stream, Tokens]
    text_bytes: dict[Stream, int]

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.tokens.values()))


def _write_group(run: Run, data: Data, tokenizer: Tokenizer, group: Group) -> Iterator[Entry]:
    encoded = _encode(group.items, tokenizer)
    for cut, kept in enumerate(_cut(encoded, data.shard_tokens)):
        path = run.shards / f"{group.part}-{group.number:05d}-{cut:02d}.h5"
        yield _write_shard(path, group.part, tokenizer, kept)


def _encode(items: Sequence[SourceFile | Pair], tokenizer: Tokenizer) -> Iterator[_Encoded]:
    dtype = token_dtype(tokenizer.vocabulary_size)
    for first in range(0, len(items), _ENCODED_AT_ONCE):
        read = [(item, _texts(item)) for item in items[first : first + _ENCODED_AT_ONCE]]
        ids = iter(tokenizer.encode_many([text for _, texts in read for text in texts.values()]))
        for item, texts in read:
            tokens = {stream: np.array([*next(ids), END], dtype) for stream in texts}
            if tokens:
                file = item.file if isinstance(item, Pair) else item.name
                yield _Encoded(file, tokens, {stream: len(text.encode()) for stream, text in texts.items()})


def _texts(item: SourceFile | Pair) -> dict[Stream, str]:
    """What is in an item; nothing, if it is empty or cannot be read as text."""
    if isinstance(item, Pair):
        return {"source": item.source, "target": item.target}
    document = corpus.read_document(item)
    return {"text": document.text} if document else {}


def _cut(encoded: Iterable[_Encoded], shard_tokens: int) -> Iterator[list[_Encoded]]:
    kept: list[_Encoded] = []
    num_tokens = 0
    for one in encoded:
        if kept and num_tokens + one.num_tokens > shard_tokens:
            yield kept
            kept, num_tokens = [], 0
        kept.append(one)
        num_tokens += one.num_tokens
    if kept:
        yield kept


def _write_shard(path: Path, part: Part, tokenizer: Tokenizer, kept: Sequence[_Encoded]) -> Entry:
    streams = kept[0].tokens
    tokens = {stream: sum(len(one.tokens[stream]) for one in kept) for stream in streams}
    text_bytes = {stream: sum(one.text_bytes[stream] for one in kept) for stream in streams}
    sources: dict[str, int] = {}
    for one in kept:
        sources[one.file] = sources.get(one.file, 0) + sum(one.text_bytes.values())
    attributes = {
        **{"part": part, "tokenizer_sha256": tokenizer.sha256, "vocabulary_size": tokenizer.vocabulary_size},
        **{"token_count": sum(tokens.values()), "document_count": len(kept), "text_bytes": sum(text_bytes.values())},
        "source_files": np.array(list(sources), dtype=h5py.string_dtype()),
        "source_sizes": np.array(list(sources.values()), "<i8"),
    }
    documents = {stream: [one.tokens[stream] for one in kept] for stream in streams}
    write_shard_file(path, documents, attributes, token_dtype(tokenizer.vocabulary_size))
    return Entry(path.name, len(kept), tokens, text_bytes, path.stat().st_size, _sha256(path))


def _write_index(run: Run, data: Data, tokenizer: Tokenizer, written: Sequence[tuple[Part, Entry]]) -> None:
    """List the shards, in the order in which they are read, and remove those of an earlier run of the stage."""
    listed = {part: sorted((e for p, e in written if p == part), key=lambda e: e.file) for part in PARTS}
    index = {
        **{"format": FORMAT, "tokenizer_sha256": tokenizer.sha256, "vocabulary_size": tokenizer.vocabulary_size},
        "streams": ["source", "target"] if data.pairs else ["text"],
        "parts": {
            part: {**_totals(entries), "shards": [asdict(e) for e in entries]} for part, entries in listed.items()
        },
    }
    write_json(run.index_json, index)
    names = {entry.file for _, entry in written}
    for path in run.shards.glob("*.h5"):
        if path.name not in names:
            path.unlink()


def _totals(entries: Sequence[Entry]) -> dict[str, int]:
    return {
        "documents": sum(entry.documents for entry in entries),
        "tokens": sum(sum(entry.tokens.values()) for entry in entries),
        "text_bytes": sum(sum(entry.text_bytes.values()) for entry in entries),
    }


# ---- reading ---------------------------------------------------------------------------------------------------------


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
    def open(cls, run: Run, part: Part) -> Shards:
        """Map the shards of a part; small ones are compared with their checksums.

        Raises HpcllmError naming the file when one is missing, damaged, cut short or of another tokenizer.
        """
        index = read_index(run)
        entries = entries_of(index, part)
        files = [open_entry(run, index, entry) for entry in entries]
        if sum(entry.file_bytes for entry in entries) <= CHECKED_ON_OPEN_BYTES:
            for file in files:
                file.check()
        streams: list[Stream] = index["streams"]
        return cls(
            part,
            {s: TokenStream(tuple(f.tokens[s] for f in files), tuple(f.offsets[s] for f in files)) for s in streams},
            {s: sum(entry.text_bytes[s] for entry in entries) for s in streams},
            int(index["vocabulary_size"]),
        )


def verify(run: Run) -> list[str]:
    """Read every byte of every shard; what is wrong, a line a shard."""
    index = read_index(run)
    problems = []
    for part in PARTS:
        for entry in entries_of(index, part):
            try:
                open_entry(run, index, entry).check()
                if _sha256(run.shards / entry.file) != entry.sha256:
                    raise HpcllmError(f"{run.shards / entry.file}: its sha256 is another than in {run.index_json}")
            except HpcllmError as error:
                problems.append(str(error))
    return problems


def read_index(run: Run) -> dict[str, Any]:
    """index.json. Raises HpcllmError when it is missing, of another format, or of another tokenizer than the run's."""
    index: dict[str, Any] = read_json(run.index_json)
    if index.get("format") != FORMAT:
        raise HpcllmError(
            f"{run.index_json}: format: found {index.get('format')!r}; this hpcllm reads {FORMAT}; {_AGAIN}"
        )
    if index["tokenizer_sha256"] != Tokenizer.load(run.tokenizer_json).sha256:
        raise HpcllmError(f"{run.index_json}: the shards are of another tokenizer than {run.tokenizer_json}; {_AGAIN}")
    return index


def entries_of(index: Mapping[str, Any], part: Part) -> list[Entry]:
    """The shards of a part, in the order in which they are read."""
    return [Entry(**entry) for entry in index["parts"][part]["shards"]]


def open_entry(run: Run, index: Mapping[str, Any], entry: Entry) -> ShardFile:
    """Map one shard, if it is the one that the index lists."""
    path = run.shards / entry.file
    size_bytes = path.stat().st_size if path.exists() else 0
    if 0 < size_bytes != entry.file_bytes:
        raise HpcllmError(f"{path}: {size_bytes} bytes; {entry.file_bytes} were written: cut short; {_AGAIN}")
    file = ShardFile.open(path)
    if file.attributes["tokenizer_sha256"] != index["tokenizer_sha256"]:
        raise HpcllmError(f"{path}: of another tokenizer than {run.index_json} says; {_AGAIN}")
    return file


_AGAIN = "run the shard stage again"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
