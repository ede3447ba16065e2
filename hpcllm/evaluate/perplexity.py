"""How well a model predicts text that it has never seen: perplexity, bits per byte, and what xz makes of that text.

    perplexity      exp(nats / targets)               per token, so it depends on the tokenizer
    bits per byte   nats / ln 2 / bytes of the text   does not, so any two models of the same text compare

`nats` is the sum of −ln p(token | what stands before it in its window) over all tokens of the part. The windows lie
side by side (stride = context), so every token counts once, and the first of a window sees only the token before it.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn
from torch.nn import functional

from hpcllm.data.corpus import Part, documents, pairs
from hpcllm.data.loader import IGNORED, Batch
from hpcllm.job.spec import Data
from hpcllm.parallel.world import World

XZ_PRESET = 9
LOGITS_PER_BATCH = 2**25  # of 4 bytes each, while a batch is measured


@torch.inference_mode()
def measure(
    model: nn.Module, batches: Iterable[Batch], world: World, say: Callable[[int], None] = lambda done: None
) -> tuple[float, int]:
    """(nats, targets): the summed negative log-likelihood of all targets of all ranks, and how many they are.

    Each rank gives its own batches; each gets the sums. `say` is told the number of batches done.
    """
    nats, num_targets = 0.0, 0
    for done, batch in enumerate(batches, start=1):
        losses = functional.cross_entropy(
            model(*batch.inputs).flatten(0, 1).float(), batch.targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        nats += float(losses.sum(dtype=torch.float64))
        num_targets += int((batch.targets != IGNORED).sum())
        say(done)
    return float(world.all_reduce_sum(nats)), int(world.all_reduce_sum(num_targets))


def perplexity(nats: float, num_targets: int) -> float:
    """exp of the mean over tokens; infinite where that is too large for a number."""
    mean = nats / num_targets
    return math.exp(mean) if mean < 700 else math.inf


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """The length in bits of the code that the model is for this text, per byte of it."""
    return nats / math.log(2) / num_bytes


def xz_bytes(texts: Iterable[str]) -> tuple[int, int]:
    """(before, after): bytes of these texts joined, and what `xz -9` makes of them."""
    compressor, before, after = lzma.LZMACompressor(preset=XZ_PRESET), 0, 0
    for text in texts:
        data = text.encode()
        before += len(data)
        after += len(compressor.compress(data))
    return before, after + len(compressor.flush())


def predicted_texts(data: Data, part: Part) -> Iterator[str]:
    """The texts of a part that a model of this job is asked to predict: documents, or the translations."""
    if data.pairs is not None:
        return (pair.target for pair in pairs(data, part))
    return (document.text for document in documents(data, part))


def batch_size(context: int, vocabulary_size: int) -> int:
    """Sequences in a batch, so that the logits stay in memory: they are the largest thing there."""
    return max(1, min(64, LOGITS_PER_BATCH // (context * vocabulary_size)))
