"""Names and lines that reach Slurm and the shell, checked where they are read.

Word           an account, a partition, a path: no white space
Directives     options of sbatch by their long name, each one line
Environment    variables by a name that a shell accepts
Argument       a word of a command: any text that a program can be given
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


def _passable(text: str) -> str:
    if "\0" in text:
        raise ValueError("found a NUL character; no program can be given one")
    if re.search(r"[\ud800-\udfff]", text):  # what Python makes of other bytes
        raise ValueError(f"found {text!r}; expected UTF-8")
    return text


Word = Annotated[str, AfterValidator(_word)]
Directives = dict[Annotated[str, AfterValidator(_option)], Annotated[str, AfterValidator(_one_line)]]
Environment = dict[Annotated[str, AfterValidator(_variable)], Annotated[str, AfterValidator(_passable)]]
Argument = Annotated[str, AfterValidator(_passable)]
