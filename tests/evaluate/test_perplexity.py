"""Perplexity, bits per byte and the xz yardstick, against values known by hand."""

import lzma
import math

import pytest
import torch
from torch import nn

from hpcllm.data import loader
from hpcllm.data.loader import IGNORED, Batch
from hpcllm.data.shards import Shards
from hpcllm.evaluate import perplexity
from hpcllm.job.spec import frozen_job
from hpcllm.parallel.world import World
from hpcllm.train.checkpoint import trained_model

VOCABULARY = 50


class Uniform(nn.Module):
    """Every token is as likely as any other."""

    def forward(self, tokens_BT):
        return torch.zeros(*tokens_BT.shape, VOCABULARY)


class Sure(nn.Module):
    """Expects each token to come again, with all of its probability."""

    def forward(self, tokens_BT):
        return 1000.0 * nn.functional.one_hot(tokens_BT, VOCABULARY)


def batch(tokens, targets):
    return Batch((torch.tensor(tokens),), torch.tensor(targets))


def test_the_perplexity_of_a_model_that_knows_nothing_is_the_size_of_its_vocabulary():
    batches = [batch([[1, 2, 3]], [[2, 3, 4]]), batch([[5, 6]], [[6, 7]])]

    nats, num_targets = perplexity.measure(Uniform(), batches, World.alone())

    assert num_targets == 5
    assert perplexity.perplexity(nats, num_targets) == pytest.approx(VOCABULARY, rel=1e-6)


def test_the_perplexity_of_a_model_that_knows_everything_is_one():
    nats, num_targets = perplexity.measure(Sure(), [batch([[7, 7]], [[7, 7]])], World.alone())

    assert perplexity.perplexity(nats, num_targets) == 1.0


def test_padding_is_not_counted():
    nats, num_targets = perplexity.measure(Uniform(), [batch([[1, 0, 0]], [[2, IGNORED, IGNORED]])], World.alone())

    assert num_targets == 1
    assert nats == pytest.approx(math.log(VOCABULARY))


def test_tokens_weigh_the_same_whatever_batch_they_are_in():
    short, long = batch([[7]], [[7]]), batch([[1, 1, 1]], [[2, 2, 2]])

    nats, num_targets = perplexity.measure(Sure(), [short, long], World.alone())

    assert nats / num_targets == pytest.approx(3 * 1000 / 4)


def test_a_perplexity_beyond_all_numbers_is_infinite_and_not_an_error():
    assert perplexity.perplexity(1e6, 1) == math.inf


def test_bits_per_byte_by_hand():
    # Two tokens of probability 1/16 are 8 bits; the text is 4 bytes.
    assert perplexity.bits_per_byte(2 * math.log(16), 4) == pytest.approx(2.0)


def test_xz_sees_the_texts_joined():
    texts = ["the same ", "words ", "again, größer"] * 50

    before, after = perplexity.xz_bytes(texts)

    whole = "".join(texts).encode()
    assert (before, after) == (len(whole), len(lzma.compress(whole, preset=9)))


@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_sums_of_any_number_of_ranks_are_the_sums_of_one(run_with_model, architecture, ranks):
    run = run_with_model(architecture)
    job, shards, model = frozen_job(run), Shards.open(run, "test"), trained_model(run)

    def measured(rank, size):
        return perplexity.measure(model, loader.evaluation_batches(shards, job, rank, size, 2), World.alone())

    shares = [measured(rank, ranks) for rank in range(ranks)]

    nats, num_targets = measured(0, 1)
    assert sum(share[1] for share in shares) == num_targets == shards.streams[list(shards.streams)[-1]].num_tokens
    assert sum(share[0] for share in shares) == pytest.approx(nats, rel=1e-12)


def test_a_batch_is_smaller_where_the_vocabulary_is_larger():
    assert perplexity.batch_size(256, 4096) == 32
    assert perplexity.batch_size(1024, 50304) == 1
    assert perplexity.batch_size(8, 260) == 64
