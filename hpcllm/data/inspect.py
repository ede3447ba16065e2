"""What `hpcllm data inspect` and `hpcllm data verify` say, of a run directory or of anybody's single shard."""

from __future__ import annotations

from pathlib import Path

from hpcllm.data import shards
from hpcllm.data.shard_file import GROUPS, ShardFile
from hpcllm.errors import HpcllmError, UserError
from hpcllm.run_directory import Run
from hpcllm.units import format_bytes

_SOURCES_SHOWN = 3


def inspect_text(path: Path) -> str:
    """Lines for a person. Raises UserError for what is neither a run nor a file, HpcllmError for a damaged shard."""
    return _of_run(Run(path)) if _is_run(path) else _of_file(ShardFile.open(path))


def verify_path(path: Path) -> None:
    """Read every byte. Raises HpcllmError with a line for each shard that is not as it was written."""
    if not _is_run(path):
        ShardFile.open(path).check()
        return
    problems = shards.verify(Run(path))
    if problems:
        raise HpcllmError("\n".join(problems))


def _is_run(path: Path) -> bool:
    if path.is_dir() and not Run(path).index_json.exists():
        raise UserError(
            f"{path}: no {Run(path).index_json.relative_to(path)} in it; give a run directory or a shard (.h5)"
        )
    if not path.exists():
        raise UserError(f"{path}: no such file; give a run directory or a shard (.h5)")
    return path.is_dir()


def _of_run(run: Run) -> str:
    index = shards.read_index(run)
    lines = [
        f"{run.index_json}: vocabulary {index.vocabulary_size}, tokenizer {index.tokenizer_sha256[:12]}",
        f"{'part':<11} {'shards':>6} {'documents':>10} {'tokens':>15} {'of text':>10}",
    ]
    for part, entries in index.parts.items():
        total = shards.part_totals(entries)
        lines.append(
            f"{part:<11} {len(entries):>6} {total['documents']:>10,} {total['tokens']:>15,} "
            f"{format_bytes(total['text_bytes']):>10}"
        )
    return "\n".join(lines)


def _of_file(file: ShardFile) -> str:
    found = file.attributes
    lines = [
        f"{file.path}: format {found['format_version']}, {found['part']} part, "
        f"vocabulary {found['vocabulary_size']}, tokenizer {found['tokenizer_sha256'][:12]}"
    ]
    for stream, tokens in file.tokens.items():
        lengths = file.offsets[stream][1:] - file.offsets[stream][:-1]
        lines.append(
            f"{GROUPS[stream].rstrip('/')}/tokens: {len(tokens):,} of {tokens.dtype}, in {len(lengths):,} documents of "
            f"{lengths.min(initial=lengths.max(initial=0)):,} to {lengths.max(initial=0):,}"
        )
    sources = list(zip(found["source_files"], found["source_sizes"], strict=True))
    shown = ", ".join(f"{name} ({format_bytes(int(size))})" for name, size in sources[:_SOURCES_SHOWN])
    more = f" and {len(sources) - _SOURCES_SHOWN} more" if len(sources) > _SOURCES_SHOWN else ""
    return "\n".join([*lines, f"from {shown}{more}"])
