"""Stage 10: learn the vocabulary from the training part (nothing of what is held out may shape it)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from hpcllm.data import corpus
from hpcllm.data.tokenizer import Tokenizer
from hpcllm.errors import UserError
from hpcllm.job.spec import Data, frozen_job
from hpcllm.launch.pipeline import Stage
from hpcllm.parallel.world import World
from hpcllm.progress import ProgressLines
from hpcllm.run_directory import Run

_MEASURED_TEXTS = 200  # to say how many bytes a token stands for


def main(run: Run, stage: Stage, world: World) -> None:
    """Write data/tokenizer.json. Raises UserError when there is nothing to train on."""
    data = frozen_job(run).data
    total = _count(data)
    progress = ProgressLines(stage.name, total, quiet=world.rank > 0)
    tokenizer = Tokenizer.learn(data.tokenizer, _texts(data, progress))
    tokenizer.save(run.tokenizer_json)
    progress(total, "learned")
    print(
        f"{stage.id}: {data.tokenizer.kind}, vocabulary {tokenizer.vocabulary_size}, "
        f"{_bytes_per_token(data, tokenizer):.2f} bytes per token",
        flush=True,
    )


def _count(data: Data) -> int:
    count = len(corpus.pairs(data, "train") if data.pairs else corpus.document_files(data, "train"))
    if not count:
        raise UserError(
            "data: nothing fell into the training part; give more documents or pairs, or make data.split smaller"
        )
    return count


def _texts(data: Data, progress: ProgressLines | None = None) -> Iterator[str]:
    """Every text of the training part; both sides of a pair, because they share one vocabulary."""
    texts = _of_pairs(data) if data.pairs else _of_documents(data)
    for number, of_one in enumerate(texts):
        if progress:
            progress(number, "read")
        yield from of_one


def _of_pairs(data: Data) -> Iterator[tuple[str, ...]]:
    return ((pair.source, pair.target) for pair in corpus.pairs(data, "train"))


def _of_documents(data: Data) -> Iterator[tuple[str, ...]]:
    return ((document.text,) for document in corpus.documents(data, "train"))


def _bytes_per_token(data: Data, tokenizer: Tokenizer) -> float:
    texts = list(islice(_texts(data), _MEASURED_TEXTS))
    num_tokens = sum(map(len, tokenizer.encode_many(texts)))
    return sum(len(text.encode()) for text in texts) / max(1, num_tokens)
