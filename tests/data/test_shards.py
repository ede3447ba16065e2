"""Shards on disk: readable by h5py alone, the same whoever wrote them, and never read when they are damaged."""

from __future__ import annotations

import itertools
import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks_in_threads import on_ranks
from small_runs import new_run, write_aligned, write_corpus

from hpcllm.data import sharding
from hpcllm.data.corpus import PARTS, documents, pairs
from hpcllm.data.inspect import inspect_text, verify_path
from hpcllm.data.shard_file import ShardFile, token_dtype, write_shard_file
from hpcllm.data.sharding import ALL, Share
from hpcllm.data.shards import Shards, TokenStream, verify
from hpcllm.data.tokenizer import END, Tokenizer
from hpcllm.errors import HpcllmError, UserError
from hpcllm.job.spec import frozen_job
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run, write_json

SPLIT = {"validation": 0.2, "test": 0.2}


def shard(run: Run, size: int = 1, shares: Sequence[Share] = (ALL,)) -> Run:
    """Tokenize and shard the data of a run, on so many ranks of one job, or of one after another."""
    data = frozen_job(run).data
    texts = [t for p in pairs(data, "train") for t in (p.source, p.target)] if data.pairs else ["a b"]
    Tokenizer.learn(data.tokenizer, texts).save(run.tokenizer_json)

    def work(world: World, share: Share) -> None:
        groups = world.broadcast(sharding.plan_groups(data) if world.rank == 0 else [])
        sharding.write_shards(run, data, Tokenizer.load(run.tokenizer_json), groups, world, lambda done: None, share)

    for share in shares:
        on_ranks(size, partial(work, share=share))
    return run


@pytest.fixture(scope="module")
def text_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_corpus(tmp_path_factory.mktemp("corpus"))
    return {"text": {"files": [f"{folder}/*.txt"]}, "split": SPLIT, "shard_tokens": "1000 tokens"}


@pytest.fixture(scope="module")
def pair_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"pairs": write_aligned(tmp_path_factory.mktemp("aligned")), "split": SPLIT, "shard_tokens": "500 tokens"}


@pytest.fixture
def text_run(tmp_path: Path, text_data: dict[str, Any]) -> Run:
    return shard(new_run(tmp_path / "run", text_data))


# ---- what is written -------------------------------------------------------------------------------------------------


def test_a_shard_is_read_by_h5py_alone(text_run: Run) -> None:
    data = frozen_job(text_run).data
    tokenizer = Tokenizer.load(text_run.tokenizer_json)
    found = []

    for path in sorted(text_run.shards.glob("train-*.h5")):
        with h5py.File(path) as file:
            tokens, offsets = file["tokens"][:], file["document_offsets"][:]
            assert (tokens.dtype, offsets.dtype) == (np.uint16, np.int64)
            assert file.attrs["token_count"] == len(tokens) == offsets[-1]
            assert file.attrs["tokenizer_sha256"] == tokenizer.sha256
            assert sum(file.attrs["source_sizes"]) == file.attrs["text_bytes"]
            assert file["tokens"].attrs["block_crc32"][0] == zlib.crc32(tokens.tobytes())
            names = file.attrs["source_files"]
            for name, start, stop in zip(names, offsets[:-1], offsets[1:], strict=True):
                assert tokens[stop - 1] == END
                found.append((name, tokenizer.decode(tokens[start : stop - 1])))

    assert found == [(d.name, d.text) for d in documents(data, "train")]


@pytest.mark.parametrize("kind", ["text", "pairs"])
def test_shards_are_the_same_to_the_byte_whoever_wrote_them(
    tmp_path: Path, kind: str, text_data: dict[str, Any], pair_data: dict[str, Any]
) -> None:
    data = text_data if kind == "text" else pair_data
    runs = [shard(new_run(tmp_path / str(size), data), size) for size in (1, 2, 3, 4)]

    contents = [{p.name: p.read_bytes() for p in [run.index_json, *run.shards.iterdir()]} for run in runs]

    assert len(contents[0]) > 6
    assert contents[1:] == contents[:1] * 3


@pytest.mark.parametrize(("jobs", "size"), [(2, 2), (40, 1)])
def test_several_jobs_write_the_shards_of_one_in_whichever_order(
    tmp_path: Path, text_data: dict[str, Any], jobs: int, size: int
) -> None:
    alone = shard(new_run(tmp_path / "alone", text_data))
    shares = [Share(number, jobs) for number in reversed(range(jobs))]
    run = shard(new_run(tmp_path / "together", {**text_data, "shard_jobs": jobs}), size, shares)
    assert not run.index_json.exists()

    for _ in range(2):  # whoever comes next may do it once more
        sharding.finish(run, frozen_job(run).data, Tokenizer.load(run.tokenizer_json))
        contents = [{p.name: p.read_bytes() for p in [r.index_json, *r.shards.iterdir()]} for r in (alone, run)]
        assert contents[0] == contents[1]


def test_shares_of_files_that_changed_in_between_are_not_put_together(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", count=20)
    run = new_run(tmp_path / "run", {"text": {"files": [f"{folder}/*.txt"]}, "split": SPLIT, "shard_jobs": 2})
    shard(run, shares=[Share(0, 2)])
    (folder / "000.txt").write_text("longer than it was")
    shard(run, shares=[Share(1, 2)])

    with pytest.raises(
        UserError, match=r"shares/1\.json: the files of job\.data have changed since .*0\.json was written"
    ):
        sharding.finish(run, frozen_job(run).data, Tokenizer.load(run.tokenizer_json))
    assert not run.index_json.exists()


def test_no_shard_holds_more_tokens_than_allowed(text_run: Run) -> None:
    counts = [len(ShardFile.open(path).tokens["text"]) for path in text_run.shards.iterdir()]

    assert max(counts) <= 1000


def test_a_document_longer_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("x" * 5000)
    (tmp_path / "short.txt").write_text("y")
    data = {
        "text": {"files": [f"{tmp_path}/*.txt"]},
        "split": {"validation": 0, "test": 0},
        "shard_tokens": "1000 tokens",
    }

    run = shard(new_run(tmp_path / "run", data))

    assert sorted(len(ShardFile.open(path).tokens["text"]) for path in run.shards.iterdir()) == [2, 5001]


def test_shards_of_an_earlier_run_of_the_stage_are_gone(text_run: Run) -> None:
    stale = text_run.shards / "train-09999-00.h5"
    shutil.copy(next(text_run.shards.iterdir()), stale)

    shard(text_run)

    assert not stale.exists()
    assert verify(text_run) == []


@pytest.mark.parametrize(("vocabulary", "dtype"), [(65_535, "<u2"), (65_536, "<u4")])
def test_the_token_type_is_the_contracts(vocabulary: int, dtype: str) -> None:
    assert token_dtype(vocabulary) == np.dtype(dtype)


def test_the_names_of_many_source_files_fit(tmp_path: Path) -> None:
    """HDF5's first format allows 64 KiB to an attribute."""
    names = [f"folder/file-{number}.txt" for number in range(20_000)]
    attributes = {
        **{"part": "train", "tokenizer_sha256": "", "vocabulary_size": 260, "source_sizes": np.ones(20_000, "<i8")},
        "source_files": np.array(names, h5py.string_dtype()),
    }
    write_shard_file(tmp_path / "a.h5", {"text": [np.array([7, END], "<u2")]}, attributes, np.dtype("<u2"))

    assert list(ShardFile.open(tmp_path / "a.h5").attributes["source_files"]) == names


# ---- what is read ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.lists(st.integers(0, 5), max_size=5), max_size=5), data=st.data())
def test_several_shards_read_as_one_array(lengths: list[list[int]], data: st.DataObject) -> None:
    everything = np.arange(sum(map(sum, lengths)), dtype=np.uint16)
    ends = np.cumsum([0, *map(sum, lengths)])
    pieces = tuple(everything[a:b] for a, b in itertools.pairwise(ends))
    stream = TokenStream(pieces, tuple(np.cumsum([0, *of_piece]) for of_piece in lengths))

    start = data.draw(st.integers(0, len(everything)))
    stop = data.draw(st.integers(start, len(everything)))

    assert stream.tokens(start, stop).tolist() == everything[start:stop].tolist()
    assert np.diff(stream.document_offsets).tolist() == [n for of_piece in lengths for n in of_piece]


def test_arrays_are_mapped_and_not_copied(text_run: Run) -> None:
    stream = Shards.open(text_run, "train").streams["text"]

    assert all(isinstance(piece, np.memmap) for piece in stream.pieces)
    assert np.shares_memory(stream.tokens(3, 9), stream.pieces[0])


def test_a_part_knows_how_much_text_it_stands_for(text_run: Run) -> None:
    for part in PARTS:
        text = [document.text for document in documents(frozen_job(text_run).data, part)]
        shards = Shards.open(text_run, part)
        assert shards.text_bytes["text"] == sum(len(t.encode()) for t in text)
        assert shards.num_documents == len(text)


def test_both_sides_of_a_pair_have_the_same_number(tmp_path: Path, pair_data: dict[str, Any]) -> None:
    run = shard(new_run(tmp_path / "run", pair_data), 2)
    tokenizer = Tokenizer.load(run.tokenizer_json)
    shards = Shards.open(run, "test")

    found = [
        tuple(tokenizer.decode(shards.streams[stream].document(i)) for stream in ("source", "target"))
        for i in range(shards.num_documents)
    ]

    assert found == [(p.source, p.target) for p in pairs(frozen_job(run).data, "test")]


# ---- damage ----------------------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_token(path: Path) -> None:
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        content[file["tokens"].id.get_offset() + 7] ^= 1
    path.write_bytes(content)


def flip_an_offset(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["document_offsets"][1] = 10**9


def overwrite_the_head(path: Path) -> None:
    path.write_bytes(b"\0" * 64 + path.read_bytes()[64:])


def raise_the_format(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99


def swap_the_tokenizer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["tokenizer_sha256"] = "another"


def lose_an_attribute(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["vocabulary_size"]


def compress(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        tokens, checksums = file["tokens"][:], file["tokens"].attrs["block_crc32"]
        del file["tokens"]
        file.create_dataset("tokens", data=tokens, compression="gzip").attrs["block_crc32"] = checksums


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (Path.unlink, "missing"),
    (cut_short, "cut short"),
    (flip_a_token, r"/tokens: 1 of 1 blocks differ .* bytes 0 to \d+: damaged after it was written"),
    (flip_an_offset, "document_offsets of text do not divide its"),
    (overwrite_the_head, "cut short or damaged"),
    (raise_the_format, "format_version 99; this hpcllm reads format 1"),
    (swap_the_tokenizer, "of another tokenizer"),
    (lose_an_attribute, "no attribute vocabulary_size"),
    (compress, "compressed or chunked"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_damage_is_named_with_the_file_and_the_next_step(
    text_run: Run, damage: Callable[[Path], None], message: str
) -> None:
    path = text_run.shards / "train-00000-00.h5"
    size = path.stat().st_size
    damage(path)
    if path.exists() and path.stat().st_size != size and damage is not cut_short:
        # HDF5 has lengthened the file; so that it is not only its size that tells
        index = json.loads(text_run.index_json.read_text())
        index["parts"]["train"]["shards"][0]["file_bytes"] = path.stat().st_size
        write_json(text_run.index_json, index)

    with pytest.raises(HpcllmError, match=f"train-00000-00.h5: .*{message}.*again") as raised:
        Shards.open(text_run, "train")

    assert type(raised.value) is HpcllmError
    with pytest.raises(HpcllmError, match="train-00000-00"):
        verify_path(text_run.root)
    Shards.open(text_run, "test")


def test_every_damaged_shard_has_a_line(text_run: Run) -> None:
    names = sorted(path.name for path in text_run.shards.glob("train-*.h5"))[:2]
    flip_a_token(text_run.shards / names[0])
    cut_short(text_run.shards / names[1])

    problems = verify(text_run)

    assert [any(name in line for line in problems) for name in names] == [True, True]
    assert len(problems) == 2


def test_a_single_shard_of_anyones_is_verified(text_run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copy(text_run.shards / "test-00000-00.h5", tmp_path / "sent-by-mail.h5"))
    verify_path(path)

    flip_a_token(path)

    with pytest.raises(HpcllmError, match=r"sent-by-mail\.h5: /tokens"):
        verify_path(path)


def test_what_is_no_shard_is_said_to_be_none(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["temperatures"] = [1.0, 2.0]
    (tmp_path / "notes.txt").write_text("hello")

    for name, message in (("other.h5", "not a shard of hpcllm"), ("notes.txt", "cut short or damaged")):
        with pytest.raises(HpcllmError, match=f"{name}: .*{message}"):
            inspect_text(tmp_path / name)
    for path in (tmp_path, tmp_path / "nothing.h5"):
        with pytest.raises(UserError, match="give a run directory or a shard"):
            verify_path(path)


def test_another_tokenizer_than_the_runs_is_refused(text_run: Run) -> None:
    spec = frozen_job(text_run).data.tokenizer.model_copy(update={"kind": "bpe"})
    Tokenizer.learn(spec, ["a b c"]).save(text_run.tokenizer_json)

    with pytest.raises(HpcllmError, match="the shards are of another tokenizer"):
        Shards.open(text_run, "train")


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"format": 1}', '{"format": 2}', '{"format": 1, "parts": {"train": 3}}']
)
def test_a_damaged_index_is_named(text_run: Run, content: str) -> None:
    text_run.index_json.write_text(content)

    with pytest.raises(HpcllmError, match=r"index\.json: .*run the shard stage again"):
        Shards.open(text_run, "train")


def test_inspect_shows_what_is_in_a_run_and_in_a_shard(text_run: Run) -> None:
    of_run, of_shard = inspect_text(text_run.root), inspect_text(text_run.shards / "test-00000-00.h5")

    total = Shards.open(text_run, "train").streams["text"].num_tokens
    assert f"{total:,}" in of_run
    assert "test part" in of_shard
    assert "uint16" in of_shard
