"""What a check says: one thing that is not as it should be, with its likely cause and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

SHOWN = 8  # names in one sentence


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    severity: Literal["error", "warning"]
    check: str
    what: str
    cause: str
    action: str
    nodes: tuple[str, ...] = ()
    """Those to blame, without which another start may go well."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.check}: {self.what}\n  likely cause: {self.cause}\n  what to do: {self.action}"


def error(check: str, what: str, cause: str, action: str, nodes: tuple[str, ...] = ()) -> Finding:
    """The job must not start."""
    return Finding("error", check, what, cause, action, nodes)


def warning(check: str, what: str, cause: str, action: str) -> Finding:
    """It may start."""
    return Finding("warning", check, what, cause, action)


def listed(words: Sequence[str]) -> str:
    """The first few, and how many more there are: `n1, n2 and 3 more`."""
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more


def to_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """For --json."""
    return [dict(vars(finding)) for finding in findings]
