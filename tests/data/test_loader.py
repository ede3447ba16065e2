"""Batches: the same samples at any number of ranks, and no token twice where it is counted."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcllm.data.loader import IGNORED, Batch, StepBatches, evaluation_batches, num_train_samples, train_batches
from hpcllm.data.prefetch import prefetch
from hpcllm.data.shards import Shards, TokenStream
from hpcllm.data.tokenizer import BEGIN, END, PADDING
from hpcllm.errors import UserError
from hpcllm.job.spec import Job

CONTEXT = 5
MODEL = {"layers": 1, "width": 8, "heads": 1, "feed_forward": 8, "context": CONTEXT}


def text_job(steps: int = 4, global_batch: int = 6) -> Job:
    train = {"steps": steps, "global_batch": global_batch}
    return Job.model_validate({"name": "j", "data": {"text": {"files": ["x"]}}, "model": MODEL, "train": train})


def pair_job(steps: int = 4, global_batch: int = 6, context: int = MODEL["context"]) -> Job:
    pairs = {"target_language": "zh", "source_file": "s", "target_file": "t"}
    model, train = (
        {**MODEL, "architecture": "seq2seq", "context": context},
        {"steps": steps, "global_batch": global_batch},
    )
    return Job.model_validate({"name": "j", "data": {"pairs": pairs}, "model": model, "train": train})


def stream(lengths: list[int], first: int = 10, cut: int = 2) -> TokenStream:
    """Documents of these lengths and an END each, in shards of `cut` documents; every token is another number."""
    documents, number = [], first
    for length in lengths:
        documents.append(np.array([*range(number, number + length), END], np.uint16))
        number += length
    pieces = [documents[i : i + cut] for i in range(0, len(documents), cut)]
    return TokenStream(
        tuple(np.concatenate(piece) for piece in pieces),
        tuple(np.cumsum([0, *map(len, piece)]) for piece in pieces),
    )


def text_shards(lengths: list[int]) -> Shards:
    return Shards("train", {"text": stream(lengths)}, {"text": 0}, 10_000)


def pair_shards(lengths: list[tuple[int, int]]) -> Shards:
    sides = {"source": stream([s for s, _ in lengths], 10), "target": stream([t for _, t in lengths], 5000)}
    return Shards("train", sides, {"source": 0, "target": 0}, 10_000)


PAIRS = pair_shards([(n % 7, (3 * n) % 11) for n in range(20)])
TEXT = text_shards([7, 30, 1, 0, 45, 60, 22])


def rows(batch: Batch) -> list[tuple[tuple[int, ...], ...]]:
    """Each sample of a batch without its padding, so that samples of different batches can be compared."""
    *inputs, targets = [t.tolist() for t in (*batch.inputs, batch.targets)]
    cut = [[tuple(i for i in row if i != PADDING) for row in tensor] for tensor in inputs]
    return list(zip(*cut, [tuple(i for i in row if i != IGNORED) for row in targets], strict=True))


def steps_of(
    shards: Shards, job: Job, world_size: int, micro_batch: int, first_step: int = 0
) -> list[list[StepBatches]]:
    """[rank][step]"""
    return [list(train_batches(shards, job, r, world_size, first_step, micro_batch)) for r in range(world_size)]


# ---- one sample ------------------------------------------------------------------------------------------------------


def test_a_text_sample_predicts_each_next_token() -> None:
    batch = next(train_batches(TEXT, text_job(), 0, 1, 0, 6)).micro_batches[0]
    joined = TEXT.streams["text"].tokens(0, TEXT.streams["text"].num_tokens).tolist()

    for tokens, target in zip(batch.inputs[0].tolist(), batch.targets.tolist(), strict=True):
        at = next(i for i in range(len(joined)) if joined[i : i + CONTEXT] == tokens)
        assert target == joined[at + 1 : at + 1 + CONTEXT]
    assert batch.inputs[0].dtype == batch.targets.dtype == torch.int64


def test_a_pair_is_padded_and_its_padding_does_not_count() -> None:
    batch = next(evaluation_batches(pair_shards([(2, 1), (3, 0), (9, 9)]), pair_job(), 0, 1, 2))

    # To a multiple of 8, but never beyond the context, which is 5 here.
    assert batch.inputs[0].tolist() == [[10, 11, END, PADDING, PADDING], [12, 13, 14, END, PADDING]]
    assert batch.inputs[1].tolist() == [[BEGIN, 5000, *[PADDING] * 3], [BEGIN, *[PADDING] * 4]]
    assert batch.targets.tolist() == [[5000, END, *[IGNORED] * 3], [END, *[IGNORED] * 4]]


def test_batches_of_pairs_have_few_different_widths() -> None:
    pairs = [(length, length) for length in range(1, 40)]
    job = pair_job(context=64)

    widths = {batch.targets.shape[1] for batch in evaluation_batches(pair_shards(pairs), job, 0, 1, 1)}

    assert widths == {8, 16, 24, 32, 40}


def test_a_long_pair_is_cut_to_the_context() -> None:
    batch = next(evaluation_batches(pair_shards([(9, 9)]), pair_job(), 0, 1, 2))

    assert batch.inputs[0].tolist() == [[10, 11, 12, 13, 14]]
    assert batch.inputs[1].tolist() == [[BEGIN, 5000, 5001, 5002, 5003]]
    assert batch.targets.tolist() == [[5000, 5001, 5002, 5003, 5004]]


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shards", "job"), [(TEXT, text_job()), (PAIRS, pair_job())], ids=["text", "pairs"])
@pytest.mark.parametrize(("world_size", "micro_batch"), [(2, 3), (3, 1), (4, 2), (6, 9)])
def test_a_step_has_the_same_samples_at_any_number_of_ranks(
    shards: Shards, job: Job, world_size: int, micro_batch: int
) -> None:
    alone, together = steps_of(shards, job, 1, 4), steps_of(shards, job, world_size, micro_batch)

    for step in range(job.train.steps):
        of_ranks = [of_rank[step] for of_rank in together]
        found = [row for one in of_ranks for batch in one.micro_batches for row in rows(batch)]
        assert sorted(found) == sorted(row for batch in alone[0][step].micro_batches for row in rows(batch))
        assert len(found) == job.train.global_batch
        assert {one.global_targets for one in of_ranks} == {sum(len(row[-1]) for row in found)}


def test_no_micro_batch_is_larger_than_allowed() -> None:
    sizes = {len(b.targets) for step in steps_of(TEXT, text_job(), 1, 4)[0] for b in step.micro_batches}

    assert sizes == {4, 2}


def test_training_goes_on_at_any_step() -> None:
    whole, later = steps_of(PAIRS, pair_job(), 2, 3)[1], steps_of(PAIRS, pair_job(), 2, 3, first_step=2)[1]

    assert [[rows(b) for b in s.micro_batches] for s in later] == [
        [rows(b) for b in s.micro_batches] for s in whole[2:]
    ]


def test_an_epoch_trains_on_every_sample_once() -> None:
    shards, job = TEXT, text_job(steps=num_train_samples(TEXT, text_job()), global_batch=1)

    found = [row for step in steps_of(shards, job, 1, 1)[0] for batch in step.micro_batches for row in rows(batch)]

    assert len(set(found)) == len(found) == (shards.streams["text"].num_tokens - 1) // CONTEXT


def test_too_little_text_for_one_step_says_what_to_change() -> None:
    with pytest.raises(
        UserError, match=r"train\.global_batch: found 500 sequences; the training part has 34 of context 5"
    ):
        train_batches(TEXT, text_job(global_batch=500), 0, 1, 0, 4)


def test_more_ranks_than_sequences_are_refused() -> None:
    with pytest.raises(UserError, match="6 sequences for 7 ranks"):
        train_batches(TEXT, text_job(), 0, 7, 0, 4)


# ---- evaluation ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 20), max_size=8), world_size=st.integers(1, 5), batch_size=st.integers(1, 4))
def test_every_held_out_token_is_predicted_once_from_the_one_before_it(
    lengths: list[int], world_size: int, batch_size: int
) -> None:
    shards = text_shards(lengths)
    found = []

    for rank in range(world_size):
        for batch in evaluation_batches(shards, text_job(), rank, world_size, batch_size):
            counted = batch.targets != IGNORED
            found += list(zip(batch.inputs[0][counted].tolist(), batch.targets[counted].tolist(), strict=True))

    joined = shards.streams["text"].tokens(0, shards.streams["text"].num_tokens).tolist()
    assert sorted(found) == sorted(zip([END, *joined], joined, strict=False))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=9),
    world_size=st.integers(1, 5),
    batch_size=st.integers(1, 4),
)
def test_every_held_out_pair_is_read_once(lengths: list[tuple[int, int]], world_size: int, batch_size: int) -> None:
    batches = [
        batch
        for rank in range(world_size)
        for batch in evaluation_batches(pair_shards(lengths), pair_job(), rank, world_size, batch_size)
    ]

    assert sum(len(batch.targets) for batch in batches) == len(lengths)
    assert sum(int((b.targets != IGNORED).sum()) for b in batches) == sum(min(t + 1, CONTEXT) for _, t in lengths)


# ---- working ahead ---------------------------------------------------------------------------------------------------


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    batches = train_batches(TEXT, text_job(steps=10**9), 0, 1, 0, 4)
    next(batches)
    assert threading.active_count() == before + 1

    batches.close()

    assert threading.active_count() == before


def test_it_works_so_far_ahead_and_no_further() -> None:
    made, enough = [], threading.Event()

    def items() -> object:
        for number in range(100):
            made.append(number)
            if number == 4:
                enough.set()
            yield number

    ahead = prefetch(items(), 3)
    assert next(ahead) == 0
    assert enough.wait(timeout=10)

    assert max(made) == 4  # one taken, three waiting, one that waits for a place
    ahead.close()


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_asked_for(tmp_path: Path) -> None:
    def items() -> object:
        yield 1
        raise UserError("the file is gone")

    ahead = prefetch(items(), 2)

    assert next(ahead) == 1
    with pytest.raises(UserError, match="the file is gone"):
        next(ahead)
