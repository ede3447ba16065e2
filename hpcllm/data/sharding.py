"""Text to shards: written by every rank, the same at any number of ranks.

Documents (or pairs) are divided into groups by their sizes alone; the n-th group is written by rank n mod w. So neither
the content of a shard nor the order of the shards depends on who wrote it. index.json is written last: without it
there are no shards.

Several Slurm jobs may share the work (data.shard_jobs): the groups are dealt out to all of their ranks. Each job writes
down which shards it made, in data/shares; `finish` makes one index of these, the same however often it is called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

from hpcllm.data import corpus
from hpcllm.data.corpus import PARTS, Item, Pair, Part, Stream
from hpcllm.data.shard_file import Tokens, token_dtype, write_shard_file
from hpcllm.data.shards import Entry, Index, file_sha256, write_index
from hpcllm.data.tokenizer import END, Tokenizer
from hpcllm.errors import UserError
from hpcllm.job.spec import Data
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run, read_json, write_json

_GROUPS_AT_LEAST = 64  # where there is enough text, so that as many ranks share it evenly
_GROUP_BYTES_AT_LEAST = 2**20
_TEXT_BYTES_PER_TOKEN = 3  # a group is cut where its tokens exceed a shard; this makes that rare
_ENCODED_AT_ONCE = 64


@dataclass(frozen=True)
class Group:
    """Neighbouring documents or pairs of one part, which one rank writes."""

    part: Part
    number: int
    items: list[Item]


@dataclass(frozen=True)
class Share:
    """Which of several jobs this is: `3/8` is the fourth of eight."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """`3/8`."""
        number, of = map(int, text.split("/"))
        return cls(number, of)

    def of_rank(self, groups: Sequence[Group], world: World) -> Sequence[Group]:
        """The groups that a rank of this job writes."""
        return groups[self.number + self.of * world.rank :: self.of * world.size]


ALL = Share()


def plan_groups(data: Data) -> list[Group]:
    """What to write, from names and sizes alone. Raises UserError for text that is not there."""
    groups = []
    for part, items in corpus.items(data).items():
        ranges = _divide([item.size_bytes for item in items], data.shard_tokens)
        groups += [Group(part, number, items[r.start : r.stop]) for number, r in enumerate(ranges)]
    return groups


def write_shards(
    run: Run,
    data: Data,
    tokenizer: Tokenizer,
    groups: Sequence[Group],
    world: World,
    progress: Callable[[int], None],
    share: Share = ALL,
) -> None:
    """Write this rank's groups; rank 0 then writes index.json, or the share's own list of shards.

    `progress` is told how many items this rank has done. A shard holds at most `data.shard_tokens` tokens, but for one
    longer document, which has a shard of its own.
    """
    if world.rank == 0:
        run.index_json.unlink(missing_ok=True)
    world.barrier()
    written: list[tuple[Part, Entry]] = []
    done = 0
    for group in share.of_rank(groups, world):
        written += [(group.part, entry) for entry in _write_group(run, data, tokenizer, group)]
        done += len(group.items)
        progress(done)
    everything = [one for of_rank in world.all_gather(written) for one in of_rank]
    if world.rank == 0 and share == ALL:
        _write_index(run, data, tokenizer, everything)
    elif world.rank == 0:
        shards = [{"part": part, **asdict(entry)} for part, entry in everything]
        write_json(run.share_json(share.number), {"plan": _fingerprint(groups), "of": share.of, "shards": shards})
    world.barrier()


def finish(run: Run, data: Data, tokenizer: Tokenizer) -> None:
    """Make index.json of what all shares have written.

    Raises HpcllmError for a share that is missing, UserError when the text changed from one to another.
    """
    shares = [read_json(run.share_json(number)) for number in range(data.shard_jobs)]
    for number, share in enumerate(shares):
        if share["plan"] != shares[0]["plan"]:
            raise UserError(
                f"{run.share_json(number)}: the files of job.data have changed since {run.share_json(0)} was written; "
                f"delete {run.state}/20-shard_*.json and run the shard stage again"
            )
    written = [dict(shard) for share in shares for shard in share["shards"]]
    _write_index(run, data, tokenizer, [(shard.pop("part"), Entry(**shard)) for shard in written])


def _fingerprint(groups: Sequence[Group]) -> str:
    """Of which text each group is: names, or sources, and sizes."""
    digest = hashlib.sha256()
    for group in groups:
        for item in group.items:
            name = item.source if isinstance(item, Pair) else item.name
            digest.update(f"{group.part}\0{group.number}\0{name}\0{item.size_bytes}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


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


def _encode(items: Sequence[Item], tokenizer: Tokenizer) -> Iterator[_Encoded]:
    dtype = token_dtype(tokenizer.vocabulary_size)
    for first in range(0, len(items), _ENCODED_AT_ONCE):
        read = [(item, corpus.texts(item)) for item in items[first : first + _ENCODED_AT_ONCE]]
        ids = iter(tokenizer.encode_many([text for _, texts in read for text in texts.values()]))
        for item, texts in read:
            tokens = {stream: np.array([*next(ids), END], dtype) for stream in texts}
            if tokens:
                file = item.file if isinstance(item, Pair) else item.name
                yield _Encoded(file, tokens, {stream: len(text.encode()) for stream, text in texts.items()})


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
    return Entry(path.name, len(kept), tokens, text_bytes, path.stat().st_size, file_sha256(path))


def _write_index(run: Run, data: Data, tokenizer: Tokenizer, written: Sequence[tuple[Part, Entry]]) -> None:
    """List the shards, in the order in which they are read, and remove those of an earlier run of the stage."""
    parts = {part: sorted((e for p, e in written if p == part), key=lambda entry: entry.file) for part in PARTS}
    streams: tuple[Stream, ...] = ("source", "target") if data.pairs else ("text",)
    write_index(run, Index(tokenizer.sha256, tokenizer.vocabulary_size, streams, parts))
    names = {entry.file for _, entry in written}
    for path in run.shards.glob("*.h5"):
        if path.name not in names:
            path.unlink(missing_ok=True)  # another element may be at it too
