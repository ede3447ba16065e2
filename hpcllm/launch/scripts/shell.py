"""Words for bash: whatever a user or an admin wrote stays data."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from itertools import takewhile

LINE_WIDTH = 110
NAME = r"[A-Za-z_][A-Za-z0-9_]*"

# Variables that a script cannot export with somebody else's value, by the reason (man bash, "Shell Variables").
_OWN = "RUN PYTHON SITE_PYTHON PACKED AS_RANK launch inside"
_OWN += " stage ranks ranks_per_node max_requeues interrupted_above mpirun_signal scheduler record key tf_config"
_OWN += " job foreground chained number of attempt log child again warned signal code start hosts job_id alive"
_OWN += " own_place own_tf_config once unpack PART array part"  # of lifecycle.bash
_READ_ONLY = "BASHOPTS BASH_VERSINFO EUID PPID SHELLOPTS UID"
_CHANGING = (
    "_ BASHPID BASH_ARGV0 BASH_COMMAND BASH_SUBSHELL DIRSTACK EPOCHREALTIME EPOCHSECONDS FUNCNAME GROUPS HISTCMD LINENO"
    " OLDPWD OPTARG OPTIND PWD RANDOM SECONDS SHLVL SRANDOM"
)
_CODE = "BASH_ENV ENV IFS PROMPT_COMMAND PS4"
TAKEN = {
    "the script has a variable of this name": frozenset(_OWN.split()),
    "bash lets nobody set it": frozenset(_READ_ONLY.split()),
    "bash sets it by itself": frozenset(_CHANGING.split()),
    "bash runs what it holds, or reads code by it": frozenset(_CODE.split()),
}


def one_line(text: str) -> str:
    """Text of others as a comment: no line break ends it, whatever unicode calls a line break."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def quoted(word: str) -> str:
    """One word for bash. In quotes too where bash would not need them, but a reader of bash would wonder."""
    plain = re.fullmatch(r"[\w@%+:./-][\w@%+:./=-]*", word, re.ASCII)
    return word if plain else f"'{word}'" if shlex.quote(word) == word else shlex.quote(word)


def in_double_quotes(text: str) -> str:
    """Text in double quotes in which bash reads nothing."""
    return '"' + re.sub(r'([\\"`$])', r"\\\1", text) + '"'


def expanding(text: str) -> str:
    """Text in double quotes in which nothing but plain variables is read by bash; those that are not set are empty."""
    parts = re.split(rf"(\${NAME}|\$\{{{NAME}\}})", text)
    plain = [in_double_quotes(part)[1:-1] for part in parts[::2]]
    variables = ["${" + part.strip("${}") + "-}" for part in parts[1::2]]
    text = "".join(a + b for a, b in zip(plain, [*variables, ""], strict=True))
    return '"' + text.replace("\r\n", '\r""\n') + '"'  # no DOS line break in a script: see Script.text


def directive_word(value: str) -> str:
    """As sbatch's parser reads it: one line, in double quotes where it holds more than plain characters."""
    value = "".join(" " if ord(c) < 32 else c for c in value)
    if re.fullmatch(r"[\w@%+=:,./\[\]^*-]+", value, re.ASCII):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def directives_in(script: str) -> list[str]:
    """The lines that sbatch reads: before the first command, so nothing that stands in the words behind it."""
    head = takewhile(lambda line: not line.strip() or line.startswith("#"), script.split("\n"))
    return [line for line in head if line.startswith("#SBATCH ")]


def wrapped(words: Iterable[str]) -> list[str]:
    """Words in lines of at most LINE_WIDTH, where they fit. No word is cut: spaces and line breaks inside one stay."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > LINE_WIDTH:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines
