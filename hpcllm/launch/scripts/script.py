"""Settings into text: the one builder of every script, for Slurm and for a machine without a scheduler.

A script reads in order: what it is, directives, software, environment, launcher, checks, launch. What is the same in
all of them (logs, signals, records, requeues) is bash that they source: `lifecycle.bash`, of which the run has a copy.
`sbatch FILE` runs a script again by hand. Every value is quoted, so what a user or an admin wrote stays data; only
`software.setup` of a profile is code, and is meant to be.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from hpcllm import __version__
from hpcllm.cluster.profile import Profile
from hpcllm.derive.setting import SETUP, Container, Packed, Setting, Settings
from hpcllm.errors import ExitCode, UserError
from hpcllm.job.spec import AnyJob, CommandJob
from hpcllm.launch.array import array_size, indexes
from hpcllm.launch.freeze import Code
from hpcllm.launch.pipeline import Stage
from hpcllm.launch.scripts.container import BY_SRUN, Inside
from hpcllm.launch.scripts.lifecycle import as_ranks, begin
from hpcllm.launch.scripts.shell import NAME, TAKEN, directive_word, expanding, one_line, quoted, wrapped
from hpcllm.launch.submission.chain import can_chain
from hpcllm.run_directory import Run

ARRAY_KEYS = {"shard": "data.shard_jobs", "evaluate": "evaluate.checkpoints"}  # what makes an array of a stage
INTERRUPTED = int(ExitCode.INTERRUPTED)
COMMENT_COLUMN = 60  # comments of a block stand under each other, but no further right than this


@dataclass(frozen=True)
class Script:
    """What one script is rendered from."""

    run: Run
    stage: Stage
    job: AnyJob
    profile: Profile
    settings: Settings
    cwd: str
    """Where a user's program starts; ours start in the run directory."""
    code: Code | None = None
    """The code of a user's program."""
    key: str | None = None
    """Of a user's program that is done but once (launch/key.py)."""

    @property
    def for_slurm(self) -> bool:
        """Whether sbatch runs it."""
        return self.profile.scheduler.kind == "slurm"

    @property
    def is_command(self) -> bool:
        """Whether it runs the user's own program, not one of ours."""
        return isinstance(self.job, CommandJob)

    @property
    def path(self) -> Path:
        """Where it stands in the run directory."""
        name = self.stage.id
        return self.run.script(name) if self.for_slurm else self.run.local_script(name)

    @property
    def inside(self) -> Inside | None:
        """The image that its ranks run in."""
        container = self.settings.inside
        if not isinstance(container, Container):
            return None
        root, cwd = str(self.run.root), self.cwd if self.is_command else str(self.run.root)
        folders = [root, *([cwd] if not Path(cwd).is_relative_to(root) else [])]
        if self.code and self.code.root and not any(Path(f).is_relative_to(self.code.root) for f in folders[1:]):
            folders.append(str(self.code.root))
        variables = tuple(setting.name for setting in self.settings.environment if not setting.needs)
        return Inside(container, tuple(folders), cwd, variables)

    def text(self) -> str:
        """The script. Raises UserError for a value that no script can hold."""
        sections = (
            _header(self),
            _directives(self) if self.for_slurm else "",
            _start(self),
            _software(self),
            _environment(self),
            _rendezvous(self) if self.is_command else "",
            _prepare(self) if self.settings.prepare and not self.stage.after else "",
            _launcher(self),
            _inside(self.inside) if self.inside else "",
            _preflight(self) if _needs_preflight(self) else "",
            _launch(self),
        )
        text = "\n\n".join(section for section in sections if section) + "\n"
        text = text.replace("\r\n", "\r''\n")  # sbatch refuses a script that holds DOS line breaks, in quotes too
        wrong = re.search(r"[\0\ud800-\udfff]", text)
        if wrong:
            what = "a NUL character, which no program can be given" if wrong[0] == "\0" else "bytes that are no UTF-8"
            raise UserError(f"{self.run.job_yaml}: a value holds {what}")
        return text


# ---- the sections, in the order of the script ------------------------------------------------------------------------


def _header(script: Script) -> str:
    stage, path = script.stage, shlex.quote(str(script.path))
    after = f", after {' and '.join(stage.after)}" if stage.after else ""
    by_hand = f"{'sbatch' if script.for_slurm else 'bash'} {path}"
    lines = [
        f"{script.job.name}, stage {stage.id} on {script.profile.name}: {stage.purpose}.",
        f"By hand: {by_hand}{after}",
        f"Inside an allocation (salloc): HPCLLM_FOREGROUND=1 bash {path}" if script.for_slurm else "",
        f"A part of it alone: {f'sbatch --array=0 {path}' if script.for_slurm else f'bash {path} 0'}"
        if _array(script)
        else "",
        script.code.said() if script.code else "",
        f"Written by hpcllm {__version__}. Behind a line stands the key of the profile or the job that it comes from.",
    ]
    return "\n".join(["#!/usr/bin/env bash", *(f"# {one_line(line)}" for line in lines if line)])


def _directives(script: Script) -> str:
    """Slurm takes `# …` behind a directive for a comment, as bash does, and knows quotes (sbatch's get_argument)."""
    derived, array = script.settings.directives, _array(script)
    stage_id = script.stage.id
    log = str(script.run.slurm_log(f"{stage_id}_@" if array else stage_id)).replace("%", "%%").replace("_@.", "_%a.")
    own = Setting("output", log, "run", "Slurm's own words; the program's are in ATTEMPT.log beside it")
    settings = (*derived, *array, *([] if any(s.name == "output" for s in derived) else [own]))
    _check_names(settings, r"[a-z][a-z-]*", "the long name of an sbatch option, without --")
    lines = [(f"#SBATCH --{s.name}" + (f"={directive_word(s.value)}" if s.value else ""), s) for s in settings]
    return _block("directives", _commented(lines))


def _array(script: Script) -> list[Setting]:
    """How many jobs the stage is, where it is several."""
    elements, size = len(script.stage.array), array_size(script.profile, script.job, script.stage)
    if size == 1:
        return []
    words = {"shard": "a share of the files for each job", "evaluate": "a checkpoint and a task for each job"}
    why = words[script.stage.name] if size == elements else f"{elements} in all; the site takes so many jobs"
    at_once = script.job.slurm.at_a_time
    return [Setting("array", indexes(size, at_once), ARRAY_KEYS[script.stage.name], why)]


def _start(script: Script) -> str:
    """What this script tells the bash that all of them have in common."""
    strict, bash = "-eo" if _has_software(script) else "-euo", script.run.lifecycle.relative_to(script.run.root)
    lines = [
        f"set {strict} pipefail  # the first command that fails ends the script",
        f"RUN={shlex.quote(str(script.run.root))}",
        "# What all scripts have in common, explained there: log, signals, record, the way back into the queue.",
        "# shellcheck disable=SC1091  # a run may lie elsewhere where this is checked",
        f'source "$RUN/{bash}"',
        begin(script.profile, script.job, script.stage, script.settings.layout, script.key),
    ]
    if can_chain(script.profile, script.stage):
        lines.append('chain "$@"  # this is job $1 of $2, each after one that was interrupted: scheduler.requeue')
    return "\n".join([*lines, "cd -- " + (shlex.quote(script.cwd) if script.is_command else '"$RUN"')])


def _has_software(script: Script) -> bool:
    return bool(script.settings.software) or isinstance(script.settings.inside, Packed)


def _software(script: Script) -> str:
    """No comment behind a line of the site's own, which may be of any kind."""
    if not _has_software(script):
        return ""
    lines = list[str]()
    for key, settings in groupby(script.settings.software, lambda setting: setting.key == SETUP):
        found = list(settings)
        lines += [f"# {SETUP}: the site's own lines", *(s.value for s in found)] if key else _of_software(found)
    packed = script.settings.inside
    if isinstance(packed, Packed):
        nodes = script.settings.layout.nodes
        lines.append(f"packed_environment {_disk(packed.disk)} {quoted(packed.source)} {nodes}  # {packed.key}.path")
    return _block("software", [*lines, "set -u  # not before: sites' own scripts read variables that are not set"])


def _of_software(settings: list[Setting]) -> list[str]:
    lines = _commented([(setting.value, setting) for setting in settings])
    sources = "# shellcheck disable=SC1090  # what packages of conda set"
    return [
        line for s, text in zip(settings, lines, strict=True) for line in ([sources] * (s.name == "hooks") + [text])
    ]


def _disk(path: str) -> str:
    """Of the profile: plain variables in it are the node's. Ours has a default, which `expanding` does not know."""
    return f'"{path}"' if path == "${TMPDIR:-/tmp}" else expanding(path)


def _environment(script: Script) -> str:
    frozen = (
        "" if script.is_command else "export PYTHONPATH=$RUN/env/code${PYTHONPATH:+:$PYTHONPATH}  # the frozen hpcllm"
    )
    _check_names(script.settings.environment, NAME, "the name of a variable")
    _check_free(script.settings.environment)
    lines = [(_export(setting), setting) for setting in script.settings.environment]
    derived = script.settings
    found = '"$PACKED/bin/python"' if isinstance(derived.inside, Packed) else shlex.quote(derived.python)
    python = f"PYTHON={found}  # {derived.python_key}"
    return _block("environment", [python, *filter(None, [frozen]), *_commented(lines), *_packages(script)])


def _python_here(script: Script) -> str:
    """Of the node itself, for the script's own use: the program's may be in an image, or too old."""
    return '"$SITE_PYTHON"' if script.settings.site_python else '"$PYTHON"'


def _packages(script: Script) -> list[str]:
    """After the job's own variables, of which PYTHONPATH may be one."""
    folders = ":".join(quoted(str(folder)) for folder in (script.code.packages(script.run) if script.code else ()))
    why = "# the frozen code, before an editable install"
    return [f"export PYTHONPATH={folders}${{PYTHONPATH:+:$PYTHONPATH}}  {why}"] if folders else []


def _export(setting: Setting) -> str:
    if not setting.needs:
        return f"export {setting.name}={quoted(setting.value)}"
    return f"[[ ! -w {expanding(setting.needs)} ]] || export {setting.name}={expanding(setting.value)}"


def _rendezvous(script: Script) -> str:
    return _block("rendezvous: MASTER_ADDR and MASTER_PORT", [f"rendezvous {_python_here(script)}"])


def _prepare(script: Script) -> str:
    return _block("folders", [f"{s.value}  # {_comment(s)}" for s in script.settings.prepare])


def _launcher(script: Script) -> str:
    launcher, here = script.settings.launcher, ("mpirun", "-n", str(script.settings.layout.world_size))
    lines = ["launch=(  # software.mpi.launcher", *(f"  {line}" for line in wrapped(map(quoted, launcher))), ")"]
    if script.for_slurm:
        lines.append(f"[[ -n ${{SLURM_JOB_ID:-}} ]] || launch=({shlex.join(here)})  # no allocation: on this machine")
    return _block("launcher", lines)


def _inside(inside: Inside) -> str:
    lines = ["inside=(", *(f"  {line}" for line in wrapped(inside.words())), ")", 'launch+=("${inside[@]}")']
    runtime = inside.container.runtime
    if runtime in BY_SRUN:
        said = f"{runtime} is a part of srun: run this inside an allocation, by sbatch or salloc"
        lines.insert(0, f'[[ -n ${{SLURM_JOB_ID:-}} ]] || {{ echo "{said}"; exit 2; }}')
    return _block(f"image: each rank runs in it  # {inside.container.key}", lines)


def _preflight(script: Script) -> str:
    code = "PYTHONPATH=$RUN/env/code${PYTHONPATH:+:$PYTHONPATH} " if script.is_command else ""
    layout = script.settings.layout
    ranks = f" --ranks {layout.world_size} --nodes {layout.nodes}" if script.key else ""  # not those of the job
    check = f'{code}check "${{launch[@]}}" "$PYTHON" -uP -m hpcllm preflight --run "$RUN"{ranks}'
    title = "checks: in the same allocation, before the first step; a bad node ends the job here"
    if not script.is_command or script.settings.python_key == "software.python":
        return _block(title, [check])
    lacking = "no checks: they need hpcllm's packages and an MPI in the program's own environment (pip install hpcllm)"
    able = f'{_one_rank(script.inside)}"$PYTHON" -P "$RUN/env/code/hpcllm/parallel/can_check.py" 2>/dev/null'
    return _block(title, [f"if {able}; then", f"  {check}", "else", f'  echo "{lacking}"', "fi"])


def _one_rank(inside: Inside | None) -> str:
    """What runs a program once where the ranks will run."""
    if inside is None:
        return ""
    srun = "srun --nodes=1 --ntasks=1 " if inside.container.runtime in BY_SRUN else ""
    return f'{srun}"${{inside[@]}}" '


def _launch(script: Script) -> str:
    if isinstance(script.job, CommandJob):
        program = as_ranks(script.job.command)
        has_signs = bool(set("$`") & set("".join(script.job.command)))
    else:
        part = ' "${PART[@]}"' if _array(script) else ""
        program, has_signs = f'"$PYTHON" -uP -m hpcllm stage {script.stage.name} "$RUN"{part}', False
    start = f'start_ranks "${{launch[@]}}" {program}'
    end = f"conclude {_python_here(script)}  # the exit code; {INTERRUPTED}, interrupted, goes back into the queue"
    data = ["# shellcheck disable=SC2016  # what stands in quotes is data"] if has_signs else []
    return _block("launch", [*data, start, end])


# ---- words -----------------------------------------------------------------------------------------------------------


def _needs_preflight(script: Script) -> bool:
    return (script.stage.name == "train" or script.is_command) and script.settings.layout.world_size > 1


def _block(title: str, lines: list[str]) -> str:
    return "\n".join([f"# ---- {title}", *lines])


def _commented(lines: list[tuple[str, Setting]]) -> list[str]:
    """Each line with where it comes from behind it, all in one column."""
    column = min(COMMENT_COLUMN, max((len(text) for text, _ in lines), default=0))
    return [f"{text:{column}}  # {_comment(setting)}" for text, setting in lines]


def _comment(setting: Setting) -> str:
    return one_line(f"{setting.key}: {setting.reason}" if setting.reason else setting.key)


def _check_names(settings: tuple[Setting, ...], pattern: str, wanted: str) -> None:
    for setting in settings:
        if not re.fullmatch(pattern, setting.name):
            raise UserError(f"{setting.key}: found {setting.name!r}; expected {wanted}")


def _check_free(settings: tuple[Setting, ...]) -> None:
    """Raises UserError for a variable that a script cannot export with somebody else's value."""
    for s in settings:
        for whose, names in TAKEN.items():
            if s.name in names:
                raise UserError(f"{s.key}: {whose}; give it to the program alone: env {s.name}=… PROGRAM")
