"""What can go wrong, and the exit code that tells a script what to do about it.

    HpcllmError          1   failed; trying again will not help
    ├── UserError        2   the user's mistake, in one sentence with the next step
    │   └── SourceError  2   every mistake of one file, each with its line and column
    ├── DoesNotFit       3   the job does not fit the cluster; says what would
    └── Interrupted     75   stopped on request with everything saved; requeue me

A broken invariant of our own is an assert, never one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """The whole contract between programs, scripts and schedulers. Scripts branch on 75 alone."""

    DONE = 0
    FAILED = 1
    USER_MISTAKE = 2
    DOES_NOT_FIT = 3
    INTERRUPTED = 75  # sysexits.h EX_TEMPFAIL: "the user is invited to retry"


class HpcllmError(Exception):
    """Failed for a reason that we can name. The message is one that a user can act on."""

    exit_code = ExitCode.FAILED


class UserError(HpcllmError):
    """A mistake in what the user gave: a flag, a file, a value."""

    exit_code = ExitCode.USER_MISTAKE


class DoesNotFit(HpcllmError):
    """The job cannot run on this cluster as described; the message names the nearest that would."""

    exit_code = ExitCode.DOES_NOT_FIT


class Interrupted(HpcllmError):
    """Stopped by a signal or a time limit after saving; the same command continues the work."""

    exit_code = ExitCode.INTERRUPTED


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a file. Prints as `file:line:column: field: what was found; what is allowed`."""

    file: str
    line: int
    column: int
    field: str
    found: str

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        text = f"{self.file}:{self.line}:{self.column}: {field}{self.found}"
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)  # one line, whatever the file holds


class SourceError(UserError):
    """All the mistakes of one file at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)))
