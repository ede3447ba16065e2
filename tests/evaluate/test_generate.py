"""Decoding, by models whose every answer is known."""

import re

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from hpcllm.data.tokenizer import BEGIN, END, PADDING, Tokenizer
from hpcllm.errors import UserError
from hpcllm.evaluate.generate import continue_text, generate_for_cli, length_limit, source_ids, translate
from hpcllm.job.spec import TokenizerSpec
from hpcllm.train.checkpoint import trained_model

VOCABULARY = 20


class Counter(nn.Module):
    """After n comes n + 1; after the last of the vocabulary comes END."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, tokens_BT):
        self.seen.append(tokens_BT.tolist()[0])
        following = torch.where(tokens_BT + 1 < VOCABULARY, tokens_BT + 1, END)
        return one_hot(following, VOCABULARY).float()


class Copier:
    """Translates a sentence to itself: its "memory" is the source, and place t gives the t-th token of it."""

    def __init__(self):
        self.encoded = 0

    def encode(self, source_BS):
        self.encoded += 1
        return source_BS

    def decode(self, target_BT, memory_BS, source_BS):
        places = torch.arange(target_BT.shape[1]).clamp(max=memory_BS.shape[1] - 1)
        assert (target_BT[:, 0] == BEGIN).all()
        return one_hot(memory_BS[:, places], VOCABULARY).float()


class Babbler(Copier):
    """Never says END."""

    def decode(self, target_BT, memory_BS, source_BS):
        return one_hot(torch.full_like(target_BT, 7), VOCABULARY).float()


def test_text_is_continued_one_token_after_the_other():
    assert continue_text(Counter(), [4, 5], new_tokens=3, context=8) == [6, 7, 8]


def test_text_stops_where_the_model_ends_it():
    assert continue_text(Counter(), [17], new_tokens=10, context=8) == [18, 19]


def test_the_model_sees_no_more_than_its_context():
    model = Counter()

    continue_text(model, [4, 5, 6, 7, 8], new_tokens=2, context=3)

    assert model.seen == [[6, 7, 8], [7, 8, 9]]


def test_without_a_prompt_a_document_begins_after_the_end_of_another():
    model = Counter()

    continue_text(model, [], new_tokens=1, context=3)

    assert model.seen == [[END]]


def test_a_temperature_near_zero_takes_the_likeliest_and_a_high_one_does_not():
    def drawn(temperature):
        return continue_text(Counter(), [4], 10, 8, temperature, torch.Generator().manual_seed(1))

    assert drawn(1e-6) == list(range(5, 15))
    assert drawn(100.0) != list(range(5, 15))


def test_the_same_seed_draws_the_same_text():
    def drawn(seed):
        return continue_text(Counter(), [4], 10, 8, 5.0, torch.Generator().manual_seed(seed))

    assert drawn(3) == drawn(3)


def test_a_model_that_copies_translates_every_sentence_to_itself():
    sentences = [[5 + i % 9, *[4] * (i % 7), 6] for i in range(75)]

    translations = translate(Copier(), [[*sentence, END] for sentence in sentences], max_tokens=50)

    assert translations == sentences


def test_a_batch_is_encoded_once():
    model = Copier()

    translate(model, [[5, 6, END]] * 10, max_tokens=50)

    assert model.encoded == 1


def test_a_sentence_that_has_ended_stays_ended_while_others_go_on():
    translations = translate(Copier(), [[5, END], [6, 7, 8, 9, END]], max_tokens=50)

    assert translations == [[5], [6, 7, 8, 9]]


def test_a_model_that_never_ends_is_stopped():
    (long,) = translate(Babbler(), [[5, END]], max_tokens=1000)
    (short,) = translate(Babbler(), [[5, END]], max_tokens=3)

    assert len(long) == length_limit(2)
    assert short == [7, 7, 7]


def test_no_sentences_have_no_translations():
    assert translate(Copier(), [], max_tokens=5) == []


def test_a_batch_translates_as_each_sentence_alone_would(run_with_model):
    model = trained_model(run_with_model("seq2seq"))
    sources = [[10, 20, 30, END], [40, END], [50] * 20 + [END]]

    together = translate(model, sources, max_tokens=12)

    alone = [translate(model, [source], max_tokens=12)[0] for source in sources]
    # Alone, a short sentence has a lower limit; as far as both go they agree.
    assert all(a == b[: len(a)] for a, b in zip(alone, together, strict=True))


def test_a_source_ends_with_end_and_fits_the_context():
    tokenizer = Tokenizer.learn(TokenizerSpec(kind="byte"), [])

    assert [len(ids) for ids in source_ids(tokenizer, ["ab", "abcdefgh"], context=5)] == [3, 5]
    assert source_ids(tokenizer, ["ab"], context=5)[0][-1] == END
    assert PADDING not in source_ids(tokenizer, ["ab"], context=5)[0]


def test_generate_gives_the_prompt_and_what_follows(run_with_model):
    run = run_with_model("decoder")

    text = generate_for_cli(run, "words", new_tokens=5, temperature=0)

    assert text.startswith("words")
    assert text == generate_for_cli(run, "words", new_tokens=5, temperature=0)


def test_generate_of_a_model_of_pairs_translates(run_with_model):
    run = run_with_model("seq2seq")

    assert isinstance(generate_for_cli(run, "open 3 files", new_tokens=5, temperature=0.8), str)


@pytest.mark.parametrize(("prompt", "temperature", "said"), [
    ("words", -1.0, "--temperature: found -1.0"),
    ("words", float("nan"), "--temperature: found nan"),
    ("", 0.8, "--prompt: found 0 tokens"),
    ("x" * 40, 0.8, "--prompt: found 40 tokens; this model translates a sentence of 1 to 31"),
])  # fmt: skip
def test_generate_names_what_it_cannot_take(run_with_model, prompt, temperature, said):
    run = run_with_model("seq2seq")

    with pytest.raises(UserError, match=re.escape(said)):
        generate_for_cli(run, prompt, new_tokens=5, temperature=temperature)
