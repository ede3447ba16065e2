"""A doubt about a value of a profile: what lint's checks yield."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpcllm.source import FieldPath

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Doubt:
    """What is doubtful, and where."""

    path: FieldPath
    found: str
    severity: Severity


def error(path: FieldPath, found: str) -> Doubt:
    """It cannot be so."""
    return Doubt(path, found, "error")


def warning(path: FieldPath, found: str) -> Doubt:
    """It can be so, but hardly ever is."""
    return Doubt(path, found, "warning")


def note(path: FieldPath, found: str) -> Doubt:
    """Something to know."""
    return Doubt(path, found, "note")
