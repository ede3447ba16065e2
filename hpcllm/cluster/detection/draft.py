"""A profile as a commented file: each line says whether it was detected or assumed, and the head says what to check."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import date

COMMENT_COLUMN = 58


@dataclass
class Draft:
    """Lines of a YAML file and the list of what to check."""

    title: str
    rows: list[tuple[str, str]] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)

    def gap(self, comment: str = "") -> None:
        """An empty line, with a comment of its own below where there is one."""
        self.rows.append(("", ""))
        if comment:
            self.rows.append((f"# {comment}", ""))

    def said(self, line: str, by: str) -> None:
        """A line that a command said."""
        self.rows.append((line, f"detected: {by}"))

    def assumed(self, line: str, why: str, check: str = "") -> None:
        """A line that nobody said, and what to do about it."""
        self.rows.append((line, f"assumed: {why}"))
        if check:
            self.checks.append(check)

    def plain(self, line: str) -> None:
        """A line that opens a block."""
        self.rows.append((line, ""))

    def text(self) -> str:
        """The file."""
        head = [f"# {self.title}", "# Behind each line stands whether it was detected, and by what, or assumed."]
        if self.checks:
            head += ["#", "# Check before anybody relies on it:", *(f"#   [ ] {check}" for check in self.checks)]
        body = [f"{line:<{COMMENT_COLUMN}}  # {note}" if note else line for line, note in self.rows]
        return "\n".join([*head, "", *body]) + "\n"


def scalar(value: str) -> str:
    """Text as YAML reads it back: bare where nothing can be mistaken, else in quotes."""
    bare = re.fullmatch(r"[A-Za-z/$_][\w./$+-]*", value) and value.lower() not in WORDS
    return value if bare else json.dumps(value, ensure_ascii=False)


WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null", "unknown")


def flow(values: tuple[str, ...]) -> str:
    """A list on one line."""
    return "[" + ", ".join(map(scalar, values)) + "]"


def today() -> str:
    """As profiles write dates."""
    return date.today().isoformat()
