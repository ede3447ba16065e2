"""What a check before the queue found: how grave, of what, and a sentence with value, limit and next step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hpcllm.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One of them."""

    kind: Literal["good", "warning", "refusal"]
    what: str
    """`scripts`, `account`, `partition`, `limits` or `room`."""
    says: str


def good(what: str, says: str) -> Finding:
    """Nothing stands in the way."""
    return Finding("good", what, says)


def warning(what: str, says: str) -> Finding:
    """To be looked at; it may go well."""
    return Finding("warning", what, says)


def refusal(what: str, says: str) -> Finding:
    """Nothing is submitted."""
    return Finding("refusal", what, says)


def raise_refusals(findings: Iterable[Finding]) -> None:
    """Raises UserError with all refusals, a line each."""
    found = [finding.says for finding in findings if finding.kind == "refusal"]
    if found:
        raise UserError("\n".join(found))
