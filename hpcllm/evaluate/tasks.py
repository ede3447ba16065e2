"""What is measured of a model: a table of tasks, each of which writes its results. Ranks share the work.

`perplexity` and `bleu` of the trained model bring their yardsticks with them: what xz makes of the same text, the
source copied as its own translation, and a model that was never trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from hpcllm.data import corpus, loader
from hpcllm.data.shards import Shards
from hpcllm.data.tokenizer import Tokenizer
from hpcllm.errors import HpcllmError
from hpcllm.evaluate import bleu as scorer
from hpcllm.evaluate import perplexity as measured
from hpcllm.evaluate.generate import continue_text, source_ids, translate
from hpcllm.evaluate.result import Result, signature, write_result
from hpcllm.job.spec import Bleu, Job
from hpcllm.launch.pipeline import Stage
from hpcllm.model.build import Model
from hpcllm.model.seq2seq import Seq2Seq
from hpcllm.parallel.world import World
from hpcllm.progress import ProgressLines
from hpcllm.run_directory import Run
from hpcllm.train.checkpoint import untrained_model

PROMPT_CHARACTERS = 80  # of a held-out document, when the job names no prompts


@dataclass(frozen=True)
class Evaluated:
    """A model and where it stands: what every task is given."""

    run: Run
    stage: Stage
    world: World
    job: Job
    tokenizer: Tokenizer
    model: Model
    name: str
    """`trained`, `compressed`, or another checkpoint's: `step-400`."""
    step: int
    """After so many steps of training."""


def evaluate(evaluated: Evaluated, tasks: Iterable[str]) -> None:
    """Run these tasks, in the order of the table."""
    wanted = set(tasks)
    for name, task in TASKS.items():
        if name in wanted:
            task(evaluated)


def perplexity(evaluated: Evaluated) -> None:
    """Perplexity and bits per byte on the test part; xz's bits per byte beside the trained model's."""
    run, job, world = evaluated.run, evaluated.job, evaluated.world
    shards = Shards.open(run, "test")
    if shards.num_documents == 0:
        _say(evaluated, "nothing is held out (data.split.test), so there is no perplexity")
        return
    stream = shards.streams["target" if job.data.pairs else "text"]
    size = measured.batch_size(job.model.context, shards.vocabulary_size)
    batches = loader.evaluation_batches(shards, job, world.rank, world.size, size)
    num_windows = shards.num_documents if job.data.pairs else -(-stream.num_tokens // job.model.context)
    num_batches = -(-num_windows // size)
    progress = ProgressLines(evaluated.stage.name, num_batches, quiet=world.rank > 0)
    nats, num_targets = measured.measure(
        evaluated.model, batches, world, lambda done: progress(min(num_batches, done * world.size), "perplexity")
    )
    if not math.isfinite(nats):
        raise HpcllmError(
            f"the {evaluated.name} model's loss on the test part is {nats}: the training diverged; "
            "lower train.optimizer.learning_rate or raise train.schedule.warmup_steps, and train again"
        )
    _write_perplexity(evaluated, shards, nats, num_targets)
    if _is_lossless(evaluated, num_targets, stream.num_tokens):
        _write_bits_per_byte(evaluated, shards, nats, num_targets)


def _write_perplexity(evaluated: Evaluated, shards: Shards, nats: float, num_targets: int) -> None:
    value = measured.perplexity(nats, num_targets)
    details = {"nats": nats, "targets": num_targets, "loss": nats / num_targets}
    how = _signature(evaluated, shards, num_targets)
    result = Result("perplexity", value, "per token", _test_part(evaluated, shards), how, details)
    _write(evaluated, evaluated.name, "perplexity", result)


def _write_bits_per_byte(evaluated: Evaluated, shards: Shards, nats: float, num_targets: int) -> None:
    num_bytes = _text_bytes(shards)
    value = measured.bits_per_byte(nats, num_bytes)
    details = {"nats": nats, "targets": num_targets, "bytes": num_bytes}
    how = _signature(evaluated, shards, num_targets)
    result = Result("bits per byte", value, "bits/byte", _test_part(evaluated, shards), how, details)
    _write(evaluated, evaluated.name, "bits-per-byte", result)
    if evaluated.name == "trained" and evaluated.world.rank == 0:
        _write(evaluated, "xz", "bits-per-byte", _xz(evaluated, shards))


def _is_lossless(evaluated: Evaluated, num_targets: int, num_tokens: int) -> bool:
    """Whether the tokens that were predicted hold the whole text: only then are bits per byte what they say."""
    if evaluated.job.data.tokenizer.kind == "word":
        _say(evaluated, "no bits per byte: words that the tokenizer does not know cost less than they hold")
        return False
    if num_targets < num_tokens:
        cut = num_tokens - num_targets
        _say(evaluated, f"no bits per byte: model.context cuts {cut} tokens off the ends of the longest translations")
        return False
    return True


def _xz(evaluated: Evaluated, shards: Shards) -> Result:
    """The same text through `xz -9`. Raises HpcllmError when it is no longer the text that was sharded."""
    before, after = measured.xz_bytes(measured.predicted_texts(evaluated.job.data, "test"))
    if before != _text_bytes(shards):
        raise HpcllmError(
            f"the test part has {before} bytes now and had {_text_bytes(shards)} when it was sharded: the files of "
            "job.data changed; render the job into a new directory"
        )
    how = signature(program="xz", preset=measured.XZ_PRESET, bytes=before)
    details = {"bytes": before, "compressed_bytes": after}
    return Result("bits per byte", 8 * after / before, "bits/byte", _test_part(evaluated, shards), how, details)


def _signature(evaluated: Evaluated, shards: Shards, num_targets: int) -> str:
    context = evaluated.job.model.context
    return signature(
        tokenizer=evaluated.tokenizer.sha256[:8],
        context=context,
        stride="pair" if evaluated.job.data.pairs else context,
        precision="int8" if evaluated.name == "compressed" else "fp32",
        tokens=num_targets,
        bytes=_text_bytes(shards),
    )


def _test_part(evaluated: Evaluated, shards: Shards) -> str:
    what = "translations" if evaluated.job.data.pairs else "documents"
    return f"test part: {shards.num_documents} {what}, {_text_bytes(shards):,} bytes"


def _text_bytes(shards: Shards) -> int:
    return shards.text_bytes["target" if "target" in shards.text_bytes else "text"]


def bleu(evaluated: Evaluated) -> None:
    """BLEU of the model's translations; beside the trained model's, of an untrained one and of the source copied."""
    asked = evaluated.job.evaluate.bleu
    assert asked is not None
    pairs = corpus.pairs(evaluated.job.data, asked.split)[: asked.pairs]
    if not pairs:
        _say(evaluated, f"no pair is in the {asked.split} part (data.split), so there is no BLEU")
        return
    sources = [pair.source for pair in pairs]
    _write_bleu(evaluated, evaluated.name, asked, pairs, _translations(evaluated, evaluated.model, sources))
    if evaluated.name == "trained":
        untrained = untrained_model(evaluated.run)
        _write_bleu(evaluated, "untrained", asked, pairs, _translations(evaluated, untrained, sources))
        _write_bleu(evaluated, "copied", asked, pairs, sources)


def _translations(evaluated: Evaluated, model: nn.Module, sentences: Sequence[str]) -> list[str]:
    """Each rank translates every size-th sentence; all get all of them, in order."""
    assert isinstance(model, Seq2Seq)
    context, world, tokenizer = evaluated.job.model.context, evaluated.world, evaluated.tokenizer
    own = translate(model, source_ids(tokenizer, sentences[world.rank :: world.size], context), context)
    gathered = world.all_gather([tokenizer.decode(ids) for ids in own])
    return [gathered[i % world.size][i // world.size] for i in range(len(sentences))]


def _write_bleu(
    evaluated: Evaluated, model: str, asked: Bleu, pairs: Sequence[corpus.Pair], translations: Sequence[str]
) -> None:
    assert evaluated.job.data.pairs is not None
    language = evaluated.job.data.pairs.target_language
    value, how = scorer.score(translations, [pair.target for pair in pairs], language)
    details = {"decoding": "greedy", "pairs": len(pairs), "target_language": language}
    where = f"{asked.split} part: {len(pairs)} pairs"
    _write(evaluated, model, "bleu", Result("BLEU", value, "", where, how, details))


def samples(evaluated: Evaluated) -> None:
    """Texts to look at: prompts continued, or sentences translated with their references."""
    of_one_kind = _sample_translations if evaluated.job.data.pairs else _sample_continuations
    found, where, how = of_one_kind(evaluated)
    if not found:
        _say(evaluated, f"no samples: {where} are none")
        return
    _write(evaluated, evaluated.name, "samples", Result("samples", None, "", where, how, {"samples": found}))
    for sample in found:
        _say(evaluated, f"{sample['prompt']!r} → {sample['text']!r}")


def _sample_continuations(evaluated: Evaluated) -> tuple[list[dict[str, str]], str, str]:
    asked, seed = evaluated.job.evaluate.samples, evaluated.job.train.seed
    prompts = list(asked.prompts) or _beginnings(evaluated.job, asked.count)
    where = "the job's prompts" if asked.prompts else "beginnings of documents of the test part"
    world = evaluated.world
    own = [_continuation(evaluated, i, prompts[i]) for i in range(world.rank, len(prompts), world.size)]
    gathered = world.all_gather(own)
    texts = [gathered[i % world.size][i // world.size] for i in range(len(prompts))]
    found = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
    return found, where, signature(temperature=asked.temperature, seed=seed, tokens=asked.new_tokens)


def _continuation(evaluated: Evaluated, number: int, prompt: str) -> str:
    """Sample `number`: its random numbers are its own, so it is the same at any number of ranks."""
    asked, tokenizer = evaluated.job.evaluate.samples, evaluated.tokenizer
    generator = torch.Generator().manual_seed(evaluated.job.train.seed + number)
    new = continue_text(
        evaluated.model,
        tokenizer.encode(prompt),
        asked.new_tokens,
        evaluated.job.model.context,
        asked.temperature,
        generator,
    )
    return tokenizer.decode(new)


def _beginnings(job: Job, count: int) -> list[str]:
    found = zip(range(count), corpus.documents(job.data, "test"), strict=False)
    return [document.text[:PROMPT_CHARACTERS] for _, document in found]


def _sample_translations(evaluated: Evaluated) -> tuple[list[dict[str, str]], str, str]:
    asked, job = evaluated.job.evaluate.samples, evaluated.job
    part: corpus.Part = job.evaluate.bleu.split if job.evaluate.bleu else "test"
    pairs = [] if asked.prompts else corpus.pairs(job.data, part)[: asked.count]
    sources = list(asked.prompts) or [pair.source for pair in pairs]
    texts = _translations(evaluated, evaluated.model, sources)
    found = [{"prompt": source, "text": text} for source, text in zip(sources, texts, strict=True)]
    for sample, pair in zip(found, pairs, strict=False):
        sample["reference"] = pair.target
    return found, "the job's prompts" if asked.prompts else f"first sentences of the {part} part", "decoding:greedy"


def _write(evaluated: Evaluated, model: str, task: str, result: Result) -> None:
    if evaluated.world.rank == 0:
        if model == evaluated.name:
            result = replace(result, details={**result.details, "step": evaluated.step})
        write_result(evaluated.run, evaluated.stage, model, task, result)
        if result.value is not None:
            _say(evaluated, f"{result.metric} {result.value:.3f} {result.unit}".rstrip() + f" ({model})")


def _say(evaluated: Evaluated, text: str) -> None:
    if evaluated.world.rank == 0:
        print(f"{evaluated.stage.id}: {text}", flush=True)


TASKS: Mapping[str, Callable[[Evaluated], None]] = {"perplexity": perplexity, "bleu": bleu, "samples": samples}
