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


def _option(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z-]*", name):
        raise ValueError(f"found {name!r}; expected the long name of an sbatch option, without --")
    return name


def _one_line(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise ValueError(f"found {text!r}; a directive is one line")
    return text


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"found {name!r}; expected the name of an environment variable")
    return name


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("found a NUL character; an environment cannot hold one")
    return text


Word = Annotated[str, AfterValidator(_word)]
Directives = dict[Annotated[str, AfterValidator(_option)], Annotated[str, AfterValidator(_one_line)]]
Environment = dict[Annotated[str, AfterValidator(_variable)], Annotated[str, AfterValidator(_without_nul)]]
