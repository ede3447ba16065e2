"""Batches: the samples of a step, which are the same at any number of ranks, shared among them.

Shapes: B sequences of a batch, T target positions, S source positions.

A text sample is context + 1 neighbouring tokens of all documents joined (each closed by END): the first `context` are
the input, the last `context` the targets. A pair sample is a sentence and its translation, padded to the longest of its
batch; the decoder is given BEGIN and the translation, and predicts the translation and END.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hpcllm.data.order import sample_numbers, samples_per_block
from hpcllm.data.prefetch import prefetch
from hpcllm.data.shards import Shards, TokenStream
from hpcllm.data.tokenizer import BEGIN, END, PADDING
from hpcllm.errors import UserError
from hpcllm.job.spec import Job

IGNORED = -100
"""A target that does not count, as torch's cross-entropy has it."""

_WIDTH_MULTIPLE = 8  # of a batch of pairs
_STEPS_AHEAD = 2

Row = NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """What a model is given, and what it shall predict: `model(*inputs)` are the logits of `targets`."""

    inputs: tuple[torch.Tensor, ...]
    """Text: tokens_BT. Pairs: source_BS, target_BT. int64, padded with PADDING."""
    targets: torch.Tensor
    """int64 [B, T]; IGNORED where nothing is to be predicted."""


@dataclass(frozen=True)
class StepBatches:
    """What one rank does in one optimizer step."""

    micro_batches: list[Batch]
    global_targets: int
    """Targets that count in the whole global batch, over all ranks: what the summed loss is divided by."""


class Samples(Protocol):
    """The samples of a part by their numbers."""

    def __len__(self) -> int: ...

    @property
    def sample_bytes(self) -> int:
        """Of one sample in the shards, about."""
        ...

    def num_targets(self, numbers: NDArray[np.int64]) -> int:
        """Of these samples together, without reading them."""
        ...

    def by_length(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """These samples, the short ones first: micro-batches of like lengths pad less."""
        ...

    def batch(self, numbers: Sequence[int]) -> Batch:
        """These samples, read and padded."""
        ...


def train_batches(
    shards: Shards, job: Job, rank: int, world_size: int, first_step: int, micro_batch: int
) -> Generator[StepBatches, None, None]:
    """This rank's batches of the optimizer steps first_step (0 is the first of a run) up to job.train.steps.

    Step s holds the samples k of s·G ≤ k < (s+1)·G of the order (G: global batch); rank r takes k ≡ r (mod world_size).
    They are made in a thread; `close()` ends it. Raises UserError when there is too little to fill one step.
    """
    check_enough(shards, job, world_size)
    samples = _training_samples(shards, job)
    return prefetch(_steps(samples, job, rank, world_size, first_step, micro_batch), _STEPS_AHEAD)


def evaluation_batches(shards: Shards, job: Job, rank: int, world_size: int, batch_size: int) -> Iterator[Batch]:
    """A part once, over all ranks together: every target token exactly once.

    Batches are the same at any number of ranks; rank r takes batch b ≡ r (mod world_size), so some ranks may have one
    more. In text the very first token is predicted from END, as the first of any other document is.
    """
    samples = _evaluation_samples(shards, job)
    starts = range(rank * batch_size, len(samples), world_size * batch_size)
    return (samples.batch(range(start, min(start + batch_size, len(samples)))) for start in starts)


def num_train_samples(shards: Shards, job: Job) -> int:
    """How many samples an epoch has."""
    return len(_training_samples(shards, job))


def check_enough(shards: Shards, job: Job, world_size: int) -> None:
    """Raise UserError when one global batch cannot be filled, or leaves a rank without work."""
    batch, num_samples = job.train.global_batch, num_train_samples(shards, job)
    if num_samples < batch:
        raise UserError(
            f"train.global_batch: found {batch} sequences; the training part has {num_samples} of context "
            f"{job.model.context}; give it more text, or make the global batch or the context smaller"
        )
    if batch < world_size:
        raise UserError(f"train.global_batch: found {batch} sequences for {world_size} ranks; give each at least one")


def _training_samples(shards: Shards, job: Job) -> Samples:
    if "text" in shards.streams:
        return _Windows(shards.streams["text"], job.model.context)
    return _Pairs(shards.streams["source"], shards.streams["target"], job.model.context)


def _evaluation_samples(shards: Shards, job: Job) -> Samples:
    if "text" in shards.streams:
        return _HeldOutWindows(shards.streams["text"], job.model.context)
    return _training_samples(shards, job)


def _steps(
    samples: Samples, job: Job, rank: int, world_size: int, first_step: int, micro_batch: int
) -> Iterator[StepBatches]:
    global_batch = job.train.global_batch
    block_samples = samples_per_block(samples.sample_bytes)
    for step in range(first_step, job.train.steps):
        ks = np.arange(step * global_batch, (step + 1) * global_batch)
        numbers = sample_numbers(ks, len(samples), job.train.seed, block_samples)
        own = samples.by_length(numbers[rank::world_size]).tolist()
        cuts = range(0, len(own), micro_batch)
        yield StepBatches([samples.batch(own[i : i + micro_batch]) for i in cuts], samples.num_targets(numbers))


@dataclass(frozen=True)
class _Windows:
    """Concatenate-and-cut: sample i is the tokens from i·T up to and including (i+1)·T."""

    stream: TokenStream
    context: int

    def __len__(self) -> int:
        return max(0, self.stream.num_tokens - 1) // self.context

    @property
    def sample_bytes(self) -> int:
        return self.context * self.stream.itemsize

    def num_targets(self, numbers: NDArray[np.int64]) -> int:
        return len(numbers) * self.context

    def by_length(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return numbers

    def batch(self, numbers: Sequence[int]) -> Batch:
        T = self.context
        tokens = np.stack([self.stream.tokens(i * T, (i + 1) * T + 1) for i in numbers]).astype(np.int64)
        return Batch((torch.from_numpy(tokens[:, :-1].copy()),), torch.from_numpy(tokens[:, 1:].copy()))


@dataclass(frozen=True)
class _HeldOutWindows:
    """Every token is a target once: window i has those from i·T up to (i+1)·T, each predicted from the one before."""

    stream: TokenStream
    context: int

    def __len__(self) -> int:
        return -(-self.stream.num_tokens // self.context)

    @property
    def sample_bytes(self) -> int:
        return self.context * self.stream.itemsize

    def num_targets(self, numbers: NDArray[np.int64]) -> int:
        starts = numbers * self.context
        return int((np.minimum(starts + self.context, self.stream.num_tokens) - starts).sum())

    def by_length(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return numbers

    def batch(self, numbers: Sequence[int]) -> Batch:
        rows = [self._row(i * self.context) for i in numbers]
        return Batch((_padded([row[:-1] for row in rows], PADDING),), _padded([row[1:] for row in rows], IGNORED))

    def _row(self, start: int) -> Row:
        tokens = self.stream.tokens(max(0, start - 1), min(start + self.context, self.stream.num_tokens))
        return tokens if start else np.concatenate([[END], tokens])


@dataclass(frozen=True)
class _Pairs:
    """Sample i is pair i; both sides are cut to the context."""

    source: TokenStream
    target: TokenStream
    context: int

    def __len__(self) -> int:
        return len(self.source.document_offsets) - 1

    @property
    def sample_bytes(self) -> int:
        num_tokens = self.source.num_tokens + self.target.num_tokens
        return num_tokens * self.source.itemsize // max(1, len(self))

    def num_targets(self, numbers: NDArray[np.int64]) -> int:
        return int(self._lengths(self.target, numbers).sum())

    def by_length(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        lengths = self._lengths(self.source, numbers) + self._lengths(self.target, numbers)
        return numbers[np.argsort(lengths, kind="stable")]

    def _lengths(self, stream: TokenStream, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        lengths: NDArray[np.int64] = stream.document_offsets[numbers + 1] - stream.document_offsets[numbers]
        return np.minimum(lengths, self.context)

    def batch(self, numbers: Sequence[int]) -> Batch:
        sources = [self.source.document(i)[: self.context] for i in numbers]
        targets = [self.target.document(i)[: self.context] for i in numbers]
        given = [np.concatenate([[BEGIN], target[:-1]]) for target in targets]
        S, T = self._width(sources), self._width(targets)
        return Batch((_padded(sources, PADDING, S), _padded(given, PADDING, T)), _padded(targets, IGNORED, T))

    def _width(self, rows: Sequence[Row]) -> int:
        """The longest, rounded up: oneDNN makes and keeps a kernel for every shape that it meets."""
        longest = max(map(len, rows))
        return min(self.context, longest + -longest % _WIDTH_MULTIPLE)


def _padded(rows: Sequence[Row], filling: int, width: int | None = None) -> torch.Tensor:
    """int64 [rows, width]; left out, as wide as the longest."""
    padded = np.full((len(rows), width or max(map(len, rows))), filling, np.int64)
    for row, tokens in zip(padded, rows, strict=True):
        row[: len(tokens)] = tokens
    return torch.from_numpy(padded)
