"""How fast models decode, measured side by side: in turns, so that a busy moment of the machine meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from hpcllm.data.shards import Shards
from hpcllm.evaluate.generate import continue_text, translate
from hpcllm.model.build import Model
from hpcllm.model.seq2seq import Seq2Seq

ROUNDS = 7
LIMIT_S = 20.0  # no round begins after it: on a busy machine three rounds must do
PROMPT_TOKENS, NEW_TOKENS = 32, 32  # of a decoder
SENTENCES = 16  # of an encoder-decoder, in one batch


@dataclass(frozen=True)
class Speed:
    """Of one model."""

    tokens_per_s: float
    """The median over the rounds."""
    rounds: tuple[float, ...]
    tokens: int
    """Made in a round, ENDs included."""


def measure_decoding(decode: Mapping[str, Callable[[], int]], rounds: int = ROUNDS) -> dict[str, Speed]:
    """The speed of each: a call decodes once and says how many tokens it made. One round before counting warms up."""
    end_s = time.perf_counter() + LIMIT_S
    tokens = {name: run() for name, run in decode.items()}
    speeds: dict[str, list[float]] = {name: [] for name in decode}
    for number in range(rounds):
        if number >= 3 and time.perf_counter() > end_s:
            break
        for name, run in decode.items():
            start_s = time.perf_counter()
            made = run()
            speeds[name].append(made / (time.perf_counter() - start_s))
    return {name: Speed(statistics.median(found), tuple(found), tokens[name]) for name, found in speeds.items()}


def decoding(model: Model, shards: Shards, context: int) -> tuple[Callable[[], int], str]:
    """(what decodes once, greedily; the same in words): continue the text's beginning, or translate its sentences."""
    if isinstance(model, Seq2Seq):
        num_sentences = min(SENTENCES, shards.num_documents)
        sources = [shards.streams["source"].document(i)[:context].tolist() for i in range(num_sentences)]
        return partial(_translate, model, sources, context), f"the first {num_sentences} sentences of the training part"
    prompt = shards.streams["text"].tokens(0, min(PROMPT_TOKENS, context)).tolist()
    return partial(_continue, model, prompt, context), f"{NEW_TOKENS} tokens after the first {len(prompt)} of the text"


def _translate(model: Seq2Seq, sources: list[list[int]], context: int) -> int:
    return sum(len(translation) + 1 for translation in translate(model, sources, context))


def _continue(model: Model, prompt: list[int], context: int) -> int:
    made = len(continue_text(model, prompt, NEW_TOKENS, context))
    return made + (made < NEW_TOKENS)
