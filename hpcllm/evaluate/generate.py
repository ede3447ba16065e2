"""Text from a model: a decoder continues it, an encoder-decoder translates it.

Shape suffixes: B sentences, S source tokens, T target tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from hpcllm.data.tokenizer import BEGIN, END, PADDING, Tokenizer
from hpcllm.errors import UserError
from hpcllm.job.spec import Job, frozen_job
from hpcllm.model.seq2seq import Seq2Seq
from hpcllm.run_directory import Run
from hpcllm.train.checkpoint import trained_model

SENTENCES_PER_BATCH = 32


class Translator(Protocol):
    """What `translate` asks of an encoder-decoder."""

    def encode(self, source_BS: Tensor) -> Tensor:
        """memory_BSD."""
        ...

    def decode(self, target_BT: Tensor, memory_BSD: Tensor, source_BS: Tensor) -> Tensor:
        """logits_BTV."""
        ...


@torch.inference_mode()
def continue_text(
    model: nn.Module,
    prompt_ids: Sequence[int],
    new_tokens: int,
    context: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[int]:
    """The tokens that follow the prompt: at most `new_tokens`, fewer when END comes (which is left out).

    At temperature 0 the likeliest token is taken each time; else one is drawn from softmax(logits/temperature). The
    model sees the last `context` tokens. An empty prompt begins a document, and that is: it follows END.
    """
    ids = list(prompt_ids) or [END]
    begin = len(ids)
    while len(ids) < begin + new_tokens:
        logits_V = model(torch.tensor([ids[-context:]]))[0, -1]
        token = _choose(logits_V, temperature, generator)
        if token == END:
            break
        ids.append(token)
    return ids[begin:]


def _choose(logits_V: Tensor, temperature: float, generator: torch.Generator | None) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    # Subtracting the largest first keeps a tiny temperature finite.
    probabilities_V = ((logits_V - logits_V.max()).double() / temperature).softmax(dim=-1)
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


@torch.inference_mode()
def translate(model: Translator, sources: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """Greedy translations, in the order of the sources, each without its END.

    A source is encoded once. Sentences of like length share a batch, which stops when all of them have met END, or at
    `length_limit` of its longest source.
    """
    by_length = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    translations: dict[int, list[int]] = {}
    for start in range(0, len(by_length), SENTENCES_PER_BATCH):
        chosen = by_length[start : start + SENTENCES_PER_BATCH]
        batch = [sources[i] for i in chosen]
        limit = min(max_tokens, length_limit(max(map(len, batch))))
        translations.update(zip(chosen, _translate_batch(model, batch, limit), strict=True))
    return [translations[i] for i in range(len(sources))]


def length_limit(source_tokens: int) -> int:
    """When to give up on END: no translation of the trained kind is longer, and a poor model would never stop."""
    return 2 * source_tokens + 16


def _translate_batch(model: Translator, sources: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
    longest = max(map(len, sources))
    source_BS = torch.tensor([[*source, *[PADDING] * (longest - len(source))] for source in sources])
    memory_BSD = model.encode(source_BS)
    target_BT = torch.full((len(sources), 1), BEGIN)
    ended_B = torch.zeros(len(sources), dtype=torch.bool)
    while target_BT.shape[1] <= limit and not ended_B.all():
        next_B = model.decode(target_BT, memory_BSD, source_BS)[:, -1].argmax(dim=-1)
        target_BT = torch.cat([target_BT, next_B[:, None]], dim=1)
        ended_B |= next_B == END
    return [_until_end(row) for row in target_BT[:, 1:].tolist()]


def _until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(END)] if END in ids else ids


def source_ids(tokenizer: Tokenizer, sentences: Sequence[str], context: int) -> list[list[int]]:
    """Sentences as the encoder was trained on them: closed by END, cut to the context."""
    return [[*ids, END][:context] for ids in tokenizer.encode_many(sentences)]


def generate_for_cli(run: Run, prompt: str | None, new_tokens: int, temperature: float) -> str:
    """The prompt and its continuation; or, of a model of pairs, the translation of the prompt.

    Raises UserError for a temperature below 0, and for a sentence to translate that is missing or too long.
    """
    if not 0 <= temperature < float("inf"):
        raise UserError(f"--temperature: found {temperature}; allowed are 0 (the likeliest token each time) and above")
    job, tokenizer = frozen_job(run), Tokenizer.load(run.tokenizer_json)
    if job.data.pairs is not None:
        return _translation(run, job, tokenizer, prompt or "", new_tokens)
    generator = torch.Generator()
    generator.seed()
    ids = tokenizer.encode(prompt or "")
    new = continue_text(trained_model(run), ids, new_tokens, job.model.context, temperature, generator)
    return tokenizer.decode([*ids, *new])


def _translation(run: Run, job: Job, tokenizer: Tokenizer, sentence: str, new_tokens: int) -> str:
    num_tokens = len(tokenizer.encode(sentence))
    if not 1 <= num_tokens < job.model.context:
        raise UserError(
            f"--prompt: found {num_tokens} tokens; this model translates a sentence of 1 to {job.model.context - 1}: "
            f"hpcllm generate {run.root} --prompt 'Open a file'"
        )
    model = trained_model(run)
    assert isinstance(model, Seq2Seq)
    sources = source_ids(tokenizer, [sentence], job.model.context)
    return tokenizer.decode(translate(model, sources, min(new_tokens, job.model.context))[0])
