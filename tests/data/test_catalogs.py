"""Gettext catalogs, compiled and as written; the compiled ones are made here, byte by byte."""

from __future__ import annotations

import gettext
import struct
from pathlib import Path

import pytest

from hpcllm.data.catalogs import read_catalog
from hpcllm.data.locator import find_files
from hpcllm.errors import UserError

HEADER = "Content-Type: text/plain; charset=UTF-8\n"


def compiled(messages: dict[str, str], order: str = "<") -> bytes:
    """A .mo file: magic, version, count, two tables of (length, offset), strings that end with NUL."""
    entries = sorted((source.encode(), target.encode()) for source, target in messages.items())
    count, at = len(entries), 28 + 16 * len(entries)
    tables, strings = [b"", b""], b""
    for side in (0, 1):
        for entry in entries:
            tables[side] += struct.pack(f"{order}2I", len(entry[side]), at + len(strings))
            strings += entry[side] + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0)
    return head + tables[0] + tables[1] + strings


def read(path: Path, content: bytes | str) -> list[tuple[str, str]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_catalog(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_compiled_catalog_gives_its_messages_without_header_and_context(tmp_path: Path, order: str) -> None:
    messages = {"": HEADER, "Open file": "打开文件", "menu\x04Save file": "保存文件", "untranslated": ""}

    found = read(tmp_path / "a.mo", compiled(messages, order))

    assert sorted(found) == [("Open file", "打开文件"), ("Save file", "保存文件")]


def test_a_plural_gives_a_pair_of_each_form(tmp_path: Path) -> None:
    found = read(tmp_path / "a.mo", compiled({"%d file\0%d files": "%d fichier\0%d fichiers"}))

    assert found == [("%d file", "%d fichier"), ("%d files", "%d fichiers")]


def test_a_language_without_plural_uses_its_one_form_twice(tmp_path: Path) -> None:
    assert read(tmp_path / "a.mo", compiled({"%d file\0%d files": "%d 个文件"})) == [
        ("%d file", "%d 个文件"),
        ("%d files", "%d 个文件"),
    ]


PO = r"""
# A translator's remark.
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\n"

#: file.c:12
msgctxt "menu"
msgid "Open the "
"\"last\" file\n"
msgstr "打开"
"“上一个”文件\n"
#, fuzzy
#| msgid "Before"
msgid "Not looked at"
msgstr "没看过"

#, c-format
msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d fichier"
msgstr[1] "%d fichiers"

#, fuzzy
#~ msgid "Gone"
#~ msgstr "没了"

msgid "Not translated"
msgstr ""

msgid "Last\tone"
msgstr "最后"
"""


def test_a_written_catalog_gives_what_a_translator_has_finished(tmp_path: Path) -> None:
    assert read(tmp_path / "a.po", PO) == [
        ('Open the "last" file\n', "打开“上一个”文件\n"),
        ("%d file", "%d fichier"),
        ("%d files", "%d fichiers"),
        ("Last\tone", "最后"),
    ]


def test_a_line_that_is_not_gettext_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.po: not a gettext catalog.*line 2: found 'hello'"):
        read(tmp_path / "a.po", 'msgid "a"\nhello\n')


@pytest.mark.parametrize("content", [b"", b"not a catalog at all", compiled({"a b": "c"})[:-4]])
def test_a_damaged_catalog_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"a\.mo: not a gettext catalog"):
        read(tmp_path / "a.mo", content)


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found '\.txt'.*allowed are \.mo and \.po"):
        read(tmp_path / "a.txt", "")


def test_both_readers_agree_on_every_message_of_a_language_pack() -> None:
    pytest.importorskip("jupyterlab_language_pack_fr_FR")
    compared = 0
    for file in find_files(["package:jupyterlab_language_pack_fr_FR/**/*.mo"]):
        with file.path.open("rb") as opened:
            catalog = gettext.GNUTranslations(opened)._catalog  # type: ignore[attr-defined]
        ours = set(read_catalog(file.path))
        for key, target in catalog.items():
            source = (key[0] if isinstance(key, tuple) else key).rpartition("\x04")[2]
            if source and target and not isinstance(key, tuple):
                assert (source, target) in ours
                compared += 1
    assert compared > 2000
