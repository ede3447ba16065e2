"""How long work says how far it came: one plain line, readable in a log, from which a terminal draws a bar.

    [train 120/1000] loss 3.214  lr 6.0e-04  5210 tokens/s

Only rank 0 prints. `hpcllm run` and `hpcllm watch` read the lines back; there is no second channel.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

_LINE = re.compile(r"\[(?P<name>[\w-]+) (?P<done>\d+)/(?P<total>\d+)\] ?(?P<text>.*)$")


@dataclass(frozen=True)
class Progress:
    """One line of progress: `done` of `total` units of the work called `name`."""

    name: str
    done: int
    total: int
    text: str = ""

    def __str__(self) -> str:
        return f"[{self.name} {self.done}/{self.total}] {self.text}".rstrip()

    @classmethod
    def parse(cls, line: str) -> Progress | None:
        """The progress in a line of a log (a rank label before it is passed over), or None."""
        found = _LINE.search(line.rstrip())
        return cls(found["name"], int(found["done"]), int(found["total"]), found["text"]) if found else None


class ProgressLines:
    """Prints progress at most every few seconds, and always the last of it."""

    def __init__(self, name: str, total: int, quiet: bool = False, every_s: float = 2.0) -> None:
        self._name, self._total, self._quiet, self._every_s = name, total, quiet, every_s
        self._last_s = 0.0

    def __call__(self, done: int, text: str = "") -> None:
        """Say how far the work is; `quiet` (every rank but 0) says nothing."""
        now_s = time.monotonic()
        if self._quiet or (done < self._total and now_s - self._last_s < self._every_s):
            return
        self._last_s = now_s
        print(Progress(self._name, done, self._total, text), flush=True)
