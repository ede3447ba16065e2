"""Words for bash: whatever a user or an admin wrote stays data."""

from __future__ import annotations

import re
import shlex


def one_line(text: str) -> str:
    """Text of others as a comment: no line break ends it, whatever unicode calls a line break."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def quoted(word: str) -> str:
    """One word for bash. In quotes too where bash would not need them, but a reader of bash would wonder."""
    plain = re.fullmatch(r"[\w@%+:./-][\w@%+:./=-]*", word, re.ASCII)
    return word if plain else f"'{word}'" if shlex.quote(word) == word else shlex.quote(word)


def expanding(text: str) -> str:
    """Text in double quotes in which nothing but plain variables is read by bash; those that are not set are empty."""
    parts = re.split(r"(\$\w+|\$\{\w+\})", text)
    plain = [re.sub(r'([\\"`$])', r"\\\1", part) for part in parts[::2]]
    variables = ["${" + part.strip("${}") + "-}" for part in parts[1::2]]
    return '"' + "".join(a + b for a, b in zip(plain, [*variables, ""], strict=True)) + '"'
