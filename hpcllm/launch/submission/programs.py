"""Programs that could not start: a name that nothing has, a script that is not there. Said before anything is written.

What is certain is a refusal: a file by its path from where the program starts, which is the same on every node. What a
module, an image or a node may bring, or a stage before may make, is a warning with the nearest name.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcllm.cluster.profile import Profile
from hpcllm.derive.software import PREFIXES, environment_of
from hpcllm.job.spec import AnyJob, CommandJob
from hpcllm.launch.pipeline import job_of, stages
from hpcllm.launch.submission.finding import Finding, refusal, warning

WHAT = "program"
NEAR = 0.7  # how alike a name has to be, by difflib, to be offered
PYTHON = re.compile(r"python[\d.]*")
SHELLS = ("bash", "sh", "dash", "zsh")
# Options after which an interpreter runs no file, and those that take the next word (man python, man bash).
NO_FILE = {"python": "cm", "shell": "cs"}
TAKES_NEXT = {"python": "WX", "shell": "oO"}


@dataclass(frozen=True)
class _Program:
    """One command, and what is known of where it starts."""

    key: str
    words: tuple[str, ...]
    cwd: Path
    path: str
    """PATH, as far as it is known here: with the Python environment that it runs in."""
    brings: str
    """What may have programs that are not here; empty where nothing is named."""
    is_later: bool
    """Whether stages before may make its files."""


def program_findings(profile: Profile, job: AnyJob, cwd: Path) -> list[Finding]:
    """What is wrong with the programs of a job that starts in `cwd`; a warning or a refusal each."""
    return [finding for program in _programs(profile, job, cwd) for finding in _of(program)]


def _programs(profile: Profile, job: AnyJob, cwd: Path) -> Iterator[_Program]:
    for stage in stages(job):
        meant = job_of(job, stage)
        if isinstance(meant, CommandJob):
            key = "command" if meant is job else f"stages.{stage.name}.command"
            path, brings = _surroundings(profile, meant)
            yield _Program(key, meant.command, cwd, path, brings, bool(stage.after))


def _surroundings(profile: Profile, job: CommandJob) -> tuple[str, str]:
    """PATH there, and what else may bring a program."""
    environment, _ = environment_of(profile, job)
    path = job.environment.get("PATH", os.environ.get("PATH", os.defpath))
    if environment and environment.kind not in PREFIXES:
        return path, f"{environment.kind} {environment.path}"
    path = f"{environment.path}/bin:{path}" if environment else path
    modules = (*profile.software.modules, *job.software.modules, *profile.software.setup)
    return path, "its modules" if modules else ""


def _of(program: _Program) -> Iterator[Finding]:
    first, *others = program.words
    if "/" in first:
        yield from _runnable(program, first)
    else:
        yield from _on_path(program, first)
    kind = _interpreter(first)
    if kind:
        script, is_certain = _script_of(kind, others), True
    else:  # torchrun, accelerate launch, env: what they take for the script is not certain
        loose = (word for word in others if word.endswith(".py") and not word.startswith("-"))
        script, is_certain = next(loose, None), False
    if script is not None:
        yield from _there(program, script, is_certain)


def _on_path(program: _Program, name: str) -> Iterator[Finding]:
    if shutil.which(name, path=program.path):
        return
    said = f"{program.key}: found {name}, which is no program on this machine's PATH"
    if (program.cwd / name).is_file():
        run_by = "python " if name.endswith(".py") else "./"
        yield warning(WHAT, f"{said}, where the folder itself is not; a file here is run by {run_by}{name}")
        return
    near = _near(name, (entry for folder in program.path.split(":") for entry in _entries(Path(folder))))
    yield warning(WHAT, said + near + (f" ({program.brings} may bring it)" if program.brings else ""))


def _runnable(program: _Program, word: str) -> Iterator[Finding]:
    path = program.cwd / word
    if path.is_file() and not os.access(path, os.X_OK):
        by_name = f"python {word}" if word.endswith(".py") else f"bash {word}"
        yield refusal(WHAT, f"{program.key}: {path} is not executable; chmod +x it, or name what runs it: {by_name}")
    elif path.is_dir():
        yield refusal(WHAT, f"{program.key}: {path} is a folder; expected a program")
    else:
        yield from _there(program, word)


def _there(program: _Program, word: str, is_certain: bool = True) -> Iterator[Finding]:
    """A file that has to be there. One by its whole path may lie where only the nodes or the image have it."""
    path = program.cwd / word
    if path.exists() or ("/" not in word and shutil.which(word, path=program.path)):  # bash looks there too
        return
    say = refusal if is_certain and not Path(word).is_absolute() and not program.is_later else warning
    where = "" if Path(word).is_absolute() else f" in {program.cwd}"
    folder = f"{Path(word).parent}/" if "/" in word else ""
    near = _near(path.name, _entries(path.parent), folder)
    yield say(WHAT, f"{program.key}: found {word}, and there is no such file{where}{near}")


def _interpreter(program: str) -> str:
    """`python`, `shell`, or nothing."""
    name = Path(program).name
    return "python" if PYTHON.fullmatch(name) else "shell" if name in SHELLS else ""


def _script_of(kind: str, words: Iterable[str]) -> str | None:
    """The file that an interpreter is given: train.py of `-u train.py`; None where there is none, or who knows."""
    rest = iter(words)
    for word in rest:
        if not word.startswith(("-", "+")):
            return word
        if word == "-" or word.startswith("--") or set(word) & set(NO_FILE[kind]):
            return None
        if word[-1] in TAKES_NEXT[kind]:
            next(rest, None)
    return None


def _near(name: str, names: Iterable[str], folder: str = "") -> str:
    found = difflib.get_close_matches(name, dict.fromkeys(names), n=1, cutoff=NEAR)
    return f"; did you mean {folder}{found[0]}?" if found else ""


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
