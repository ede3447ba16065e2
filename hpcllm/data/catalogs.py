"""Gettext catalogs: messages of a program and their translations, compiled (.mo) or as translators write them (.po).

Formats: GNU gettext manual, "The Format of GNU MO Files" and "The Format of PO Files". The standard library reads .mo
files too, but keeps no plural of the source; a test holds that both readers agree.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hpcllm.errors import UserError

_CONTEXT_END = "\x04"
_MO_MAGIC = 0x950412DE
_PO_LINE = re.compile(r'(?:(msgctxt|msgid_plural|msgid|msgstr(?:\[\d+\])?)\s*)?"((?:[^"\\]|\\.)*)"')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


@dataclass
class Entry:
    """One message: its source, its plural (or None) and a translation for each form."""

    source: str = ""
    plural: str | None = None
    targets: list[str] = field(default_factory=list)
    fuzzy: bool = False

    def pairs(self) -> Iterator[tuple[str, str]]:
        """(source, translation), and the same of the plural, whose translation is the last form."""
        yield self.source, self.targets[0]
        if self.plural is not None:
            yield self.plural, self.targets[-1]


def read_catalog(path: Path) -> list[tuple[str, str]]:
    """All translated messages of a .mo or .po file, without the header. Raises UserError for a file that is neither."""
    if path.suffix not in _READERS:
        raise UserError(f"data.pairs.gettext: {path}: found {path.suffix or 'no ending'!r}; allowed are .mo and .po")
    try:
        entries = _READERS[path.suffix](path.read_bytes())
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise UserError(f"{path}: not a gettext catalog in UTF-8: {error}; exclude it or compile it again") from None
    translated = [entry for entry in entries if entry.source and any(entry.targets)]
    return [pair for entry in translated for pair in entry.pairs()]


def _read_mo(data: bytes) -> list[Entry]:
    order = "<" if data[:4] == struct.pack("<I", _MO_MAGIC) else ">"
    magic, version, count, sources_at, targets_at = struct.unpack_from(f"{order}5I", data)
    if magic != _MO_MAGIC or version >> 16 > 1:
        raise ValueError("the magic number at its start is another one")
    sources = _mo_strings(data, order, count, sources_at)
    return [_mo_entry(*both) for both in zip(sources, _mo_strings(data, order, count, targets_at), strict=True)]


def _mo_strings(data: bytes, order: str, count: int, at: int) -> list[str]:
    table = struct.unpack_from(f"{order}{2 * count}I", data, at)
    strings = []
    for length, start in zip(table[::2], table[1::2], strict=True):
        if start + length > len(data):
            raise ValueError(f"a string ends at byte {start + length} of {len(data)}: cut short")
        strings.append(data[start : start + length].decode())
    return strings


def _mo_entry(source: str, target: str) -> Entry:
    singular, separator, plural = source.rpartition(_CONTEXT_END)[2].partition("\0")
    return Entry(singular, plural if separator else None, target.split("\0"))


def _read_po(data: bytes) -> list[Entry]:
    """Entries in order, without fuzzy ones (no translator has looked at them) and obsolete ones (`#~`)."""
    entries, keyword = [Entry()], ""
    for number, line in enumerate(map(str.strip, data.decode("utf-8-sig").splitlines()), start=1):
        found = _PO_LINE.fullmatch(line)
        if line and not line.startswith("#") and not found:
            raise ValueError(f'line {number}: found {line[:40]!r}; expected msgid, msgstr or a string in "…"')
        # An entry ends where a translation is followed by a comment or by the next source.
        begins = line.startswith("#") or (found and found[1] in ("msgctxt", "msgid"))
        if line.startswith("#~") or (begins and keyword.startswith("msgstr")):
            entries.append(Entry())
            keyword = ""
        if line.startswith("#,"):
            entries[-1].fuzzy |= "fuzzy" in line
        elif found:
            keyword = found[1] or keyword
            _extend(entries[-1], keyword, bool(found[1]), _unescape(found[2]))
    return [entry for entry in entries if not entry.fuzzy]


def _extend(entry: Entry, keyword: str, is_first: bool, text: str) -> None:
    """Add one string of a .po file to the part of the entry that the keyword names."""
    if keyword == "msgid":
        entry.source += text
    elif keyword == "msgid_plural":
        entry.plural = (entry.plural or "") + text
    elif keyword.startswith("msgstr"):
        if is_first:
            entry.targets.append("")
        entry.targets[-1] += text


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text)


_READERS: dict[str, Callable[[bytes], list[Entry]]] = {".mo": _read_mo, ".po": _read_po}
