"""Names and lines that reach Slurm and the shell, checked where they are read.

Word           an account, a partition, a path: no white space
Directives     options of sbatch by their long name, each one line
Environment    variables by a name that a shell accepts
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator


def _word(text: str) -> str:
    if not re.fullmatch(r"\S+", text):
        raise ValueError(f"found {text!r}; expected a name without white space")
    return text


def _directives(directives: dict[str, str]) -> dict[str, str]:
    for name, text in directives.items():
        if not re.fullmatch(r"[a-z][a-z-]*", name):
            raise ValueError(f"found {name!r}; expected the long name of an sbatch option, without --")
        if any(ord(character) < 32 for character in text):
            raise ValueError(f"{name}: found {text!r}; a directive is one line")
    return directives


def _environment(variables: dict[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"found {name!r}; expected the name of an environment variable")
        if "\0" in value:
            raise ValueError(f"{name}: found a NUL character; an environment cannot hold one")
    return variables


Word = Annotated[str, AfterValidator(_word)]
Directives = Annotated[dict[str, str], AfterValidator(_directives)]
Environment = Annotated[dict[str, str], AfterValidator(_environment)]
