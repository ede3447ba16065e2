"""What there is to learn from: documents, or sentence pairs, each in the part that it belongs to for ever.

The part is drawn from a hash of a stable name (a document's path below its locator's root; a pair's source sentence),
never from a position or a random number: more data, another machine or another day move nothing between the parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hpcllm.data.catalogs import read_catalog
from hpcllm.data.locator import SourceFile, find_files
from hpcllm.errors import UserError
from hpcllm.job import spec

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")

Stream = Literal["text", "source", "target"]
"""What a run of tokens stands for: documents, or one side of the pairs."""


@dataclass(frozen=True)
class Document:
    """One text."""

    name: str
    text: str


@dataclass(frozen=True)
class Pair:
    """A sentence and its translation."""

    source: str
    target: str
    file: str = ""
    """Name of the file that it comes from."""

    @property
    def size_bytes(self) -> int:
        """Of both sides in UTF-8."""
        return len(self.source.encode()) + len(self.target.encode())


Item = SourceFile | Pair
"""What is counted, divided among ranks and numbered: a document (not read yet) or a pair."""


def documents(data: spec.Data, part: Part) -> Iterator[Document]:
    """The documents of one part, sorted by name; empty files are passed over.

    Raises UserError for a pattern without files, and for a file of the user's own that is not UTF-8. Files of Python
    and of packages that are not UTF-8 are left out.
    """
    assert data.text is not None, "documents are asked of a job that has pairs"
    for file in items(data)[part]:
        for text in texts(file).values():
            yield Document(_name(file), text)


def pairs(data: spec.Data, part: Part) -> list[Pair]:
    """The sentence pairs of one part, each source once, in the order of their hashes.

    Left out are pairs with an empty side, with two equal sides, and with fewer source words than `minimum_words`.
    Raises UserError for a pattern without files, files whose lines do not align, and a file that cannot be read.
    """
    assert data.pairs is not None, "pairs are asked of a job that has documents"
    return [pair for pair in items(data)[part] if isinstance(pair, Pair)]


def items(data: spec.Data) -> dict[Part, list[Item]]:
    """What there is in each part, in order: files that are not read yet, or pairs."""
    found: Sequence[Item] = _pairs(data.pairs) if data.pairs else _files(data.text)
    by_part: dict[Part, list[Item]] = {part: [] for part in PARTS}
    for item in found:
        by_part[part_of(_name(item), data.split)].append(item)
    return by_part


def texts(item: Item) -> dict[Stream, str]:
    """The text of an item by its stream; nothing for a file that is empty, or not text."""
    if isinstance(item, Pair):
        return {"source": item.source, "target": item.target}
    text = _read_text(item)
    return {"text": text} if text else {}


def part_of(name: str, split: spec.Split) -> Part:
    """Where a document of this name, or a pair of this source, belongs. Frozen: a test holds examples of it."""
    place = _number(name, 0) / 2**64
    if place < split.test:
        return "test"
    return "validation" if place < split.test + split.validation else "train"


def _number(name: str, which: int) -> int:
    """One of four independent 64-bit numbers of a name: 0 draws the part, 1 the order.

    Were they one, the first pairs of the order would all be of one part.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[8 * which : 8 * which + 8], "big")


def _name(item: Item) -> str:
    """What its part is drawn from."""
    return item.source if isinstance(item, Pair) else item.name


def _files(text: spec.TextFiles | None) -> list[SourceFile]:
    assert text is not None
    return find_files(text.files, text.exclude)


def _pairs(pairs: spec.Pairs) -> list[Pair]:
    found = _of_catalogs(pairs) if pairs.gettext else _of_aligned_files(pairs)
    first: dict[str, Pair] = {}
    for pair in sorted(found, key=lambda pair: (pair.source, pair.target, pair.file)):
        if _teaches(pair, pairs.minimum_words):
            first.setdefault(pair.source, pair)
    return sorted(first.values(), key=lambda pair: _number(pair.source, 1))[: pairs.limit]


def _teaches(pair: Pair, minimum_words: int) -> bool:
    return bool(pair.target) and pair.source != pair.target and len(pair.source.split()) >= minimum_words


def _of_catalogs(pairs: spec.Pairs) -> Iterator[Pair]:
    for file in find_files([_in_language(pattern, pairs) for pattern in pairs.gettext]):
        for source, target in read_catalog(file.path):
            yield Pair(source.strip(), target.strip(), file.name)


def _of_aligned_files(pairs: spec.Pairs) -> Iterator[Pair]:
    assert pairs.source_file is not None
    assert pairs.target_file is not None
    source_file, target_file = (_one_file(_in_language(p, pairs)) for p in (pairs.source_file, pairs.target_file))
    sources, targets = _lines(source_file), _lines(target_file)
    if len(sources) != len(targets):
        raise UserError(
            f"data.pairs: {source_file.path} has {len(sources)} lines and {target_file.path} has {len(targets)}; "
            "line n of one must be the translation of line n of the other"
        )
    for source, target in zip(sources, targets, strict=True):
        yield Pair(source.strip(), target.strip(), source_file.name)


def _in_language(pattern: str, pairs: spec.Pairs) -> str:
    return pattern.replace("{target_language}", pairs.target_language)


def _one_file(pattern: str) -> SourceFile:
    files = find_files([pattern])
    if len(files) > 1:
        raise UserError(f"data.pairs: {pattern}: matches {len(files)} files; name one")
    return files[0]


def _lines(file: SourceFile) -> list[str]:
    # Only \n ends a line: str.splitlines would also cut at form feeds and at U+2028 inside of a sentence.
    lines = (_read_text(file) or "").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _read_text(file: SourceFile) -> str | None:
    try:
        return file.path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not file.own:
            return None
        raise UserError(
            f"{file.path}: not UTF-8 (byte {error.start}: {error.reason}); convert it (iconv -t utf-8) or exclude it"
        ) from None
    except OSError as error:
        raise UserError(f"{file.path}: cannot be read: {error.strerror}") from None
