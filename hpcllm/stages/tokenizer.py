"""Stage 10: learn the vocabulary from the training part (nothing of what is held out may shape it)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hpcllm.data import corpus
from hpcllm.data.tokenizer import Tokenizer
from hpcllm.errors import UserError
from hpcllm.job.spec import frozen_job
from hpcllm.launch.pipeline import Stage
from hpcllm.parallel.world import World
from hpcllm.progress import ProgressLines
from hpcllm.run_directory import Run

_MEASURED_ITEMS = 200  # to say how many bytes a token stands for


def main(run: Run, stage: Stage, world: World) -> None:
    """Write data/tokenizer.json. Raises UserError when there is nothing to train on."""
    data = frozen_job(run).data
    items = corpus.items(data)["train"]
    if not items:
        raise UserError(
            "data: nothing fell into the training part; give more documents or pairs, or make data.split smaller"
        )
    progress = ProgressLines(stage.name, len(items), quiet=world.rank > 0)
    tokenizer = Tokenizer.learn(data.tokenizer, _texts(items, progress))
    tokenizer.save(run.tokenizer_json)
    progress(len(items), "learned")
    print(
        f"{stage.id}: {data.tokenizer.kind}, vocabulary {tokenizer.vocabulary_size}, "
        f"{_bytes_per_token(items[:_MEASURED_ITEMS], tokenizer):.2f} bytes per token",
        flush=True,
    )


def _texts(items: Sequence[corpus.Item], progress: Callable[[int, str], None]) -> Iterator[str]:
    """Every text; both sides of a pair, because they share one vocabulary."""
    for number, item in enumerate(items):
        progress(number, "read")
        yield from corpus.texts(item).values()


def _bytes_per_token(items: Sequence[corpus.Item], tokenizer: Tokenizer) -> float:
    texts = [text for item in items for text in corpus.texts(item).values()]
    num_tokens = sum(map(len, tokenizer.encode_many(texts)))
    return sum(len(text.encode()) for text in texts) / max(1, num_tokens)
