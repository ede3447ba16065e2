"""Settings into text: the one builder of every script, for Slurm and for a machine without a scheduler.

A script reads in order: what it is, directives, software, environment, checks, one launcher line, afterwards. It stands
alone: `sbatch FILE` runs it again by hand. Every value is quoted, so what a user or an admin wrote stays data; only
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
from hpcllm.launch.freeze import Code
from hpcllm.launch.pipeline import Stage
from hpcllm.launch.scripts.afterwards import Afterwards
from hpcllm.launch.scripts.container import BY_SRUN, Inside
from hpcllm.launch.scripts.own_program import OwnProgram
from hpcllm.launch.scripts.packed import PYTHON as PACKED_PYTHON
from hpcllm.launch.scripts.packed import lines as packed_lines
from hpcllm.launch.scripts.packed import removal
from hpcllm.launch.scripts.shell import NAME, TAKEN, directive_word, expanding, one_line, quoted, wrapped
from hpcllm.launch.submission.chain import LINK, can_chain
from hpcllm.run_directory import Run

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
    def own(self) -> OwnProgram | None:
        """The user's own program, with its ranks."""
        if not isinstance(self.job, CommandJob):
            return None
        layout, stage = self.settings.layout, self.stage
        ranks = (layout.world_size, layout.ranks_per_node)
        return OwnProgram(self.job.command, stage.id, stage.name, self.key, *ranks, self.for_slurm, self.job.tf_config)

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
            _chain(self) if can_chain(self.profile, self.stage) else "",
            _software(self),
            _environment(self),
            _rendezvous(self, self.own) if self.own else "",
            _prepare(self) if self.settings.prepare and not self.stage.after else "",
            _launcher(self),
            _inside(self.inside) if self.inside else "",
            _record(self.own) if self.own else "",
            _workers(self.own) if self.own and self.own.tf_config else "",
            _preflight(self) if _needs_preflight(self) else "",
            _launch(self),
            _afterwards(self),
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
        script.code.said() if script.code else "",
        f"Written by hpcllm {__version__}. Behind a line stands the key of the profile or the job that it comes from.",
    ]
    return "\n".join(["#!/usr/bin/env bash", *(f"# {one_line(line)}" for line in lines if line)])


def _directives(script: Script) -> str:
    """Slurm takes `# …` behind a directive for a comment, as bash does, and knows quotes (sbatch's get_argument)."""
    log = str(script.run.slurm_log(script.stage.id)).replace("%", "%%")
    own = Setting("output", log, "run", "Slurm's own words; the program's are in ATTEMPT.log beside it")
    derived = script.settings.directives
    settings = derived if any(s.name == "output" for s in derived) else (*derived, own)
    _check_names(settings, r"[a-z][a-z-]*", "the long name of an sbatch option, without --")
    lines = [(f"#SBATCH --{s.name}" + (f"={directive_word(s.value)}" if s.value else ""), s) for s in settings]
    return _block("directives", _commented(lines))


def _start(script: Script) -> str:
    """Where it runs, where its lines go, and what a signal does."""
    log = f"$RUN/logs/{script.stage.id}.$attempt.log"
    tee = 'exec > >(tee -i -- "$log") 2>&1'
    output = f'if [[ -n ${{HPCLLM_FOREGROUND:-}} ]]; then {tee}; else exec >"$log" 2>&1; fi'
    forward = '[[ -z $child ]] || kill -s "$signal" "$child" 2>/dev/null || true'
    return "\n".join(
        [
            "set -eo pipefail",
            f"RUN={shlex.quote(str(script.run.root))}",
            "cd -- " + (shlex.quote(script.cwd) if script.is_command else '"$RUN"'),
            'mkdir -p -- "$RUN/logs" "$RUN/state"',
            "attempt=1",
            f'while [[ -e "{log}" ]]; do attempt=$((attempt + 1)); done',
            f"log={log}",
            output if script.for_slurm else tee,
            "# USR2 comes before the time limit, TERM when the job is stopped; both go to the ranks, which save.",
            "child='' again='' warned='' code=0",
            f"trap 'warned=1 again=1; {forward}' USR2 TERM",
        ]
    )


def _chain(script: Script) -> str:
    """Of several jobs of one stage, each begins after one that ended without success."""
    title = "chain: this is job $1 of $2, each after one that was interrupted  # scheduler.requeue"
    return _block(title, [LINK.replace("@ID@", script.stage.id)])


def _software(script: Script) -> str:
    """No comment behind a line of the site's own, which may be of any kind."""
    until = "set -u  # not before: sites' own scripts read variables that are not set"
    lines = list[str]()
    for key, settings in groupby(script.settings.software, lambda setting: setting.key == SETUP):
        found = list(settings)
        lines += [f"# {SETUP}: the site's own lines", *(s.value for s in found)] if key else _of_software(found)
    packed = script.settings.inside
    if isinstance(packed, Packed):
        lines += packed_lines(packed, script.settings.layout.nodes)
    return _block("software", [*lines, until])


def _of_software(settings: list[Setting]) -> list[str]:
    lines = _commented([(setting.value, setting) for setting in settings])
    sources = "# shellcheck disable=SC1090  # what packages of conda set"
    return [
        line for s, text in zip(settings, lines, strict=True) for line in ([sources] * (s.name == "hooks") + [text])
    ]


def _environment(script: Script) -> str:
    frozen = (
        "" if script.is_command else "export PYTHONPATH=$RUN/env/code${PYTHONPATH:+:$PYTHONPATH}  # the frozen hpcllm"
    )
    _check_names(script.settings.environment, NAME, "the name of a variable")
    _check_free(script.settings.environment)
    lines = [(_export(setting), setting) for setting in script.settings.environment]
    derived = script.settings
    found = f'"{PACKED_PYTHON}"' if isinstance(derived.inside, Packed) else shlex.quote(derived.python)
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


def _rendezvous(script: Script, own: OwnProgram) -> str:
    return _block(
        "rendezvous: this host, where rank 0 starts, and a port that its kernel says is free",
        own.rendezvous(_python_here(script)),
    )


def _prepare(script: Script) -> str:
    return _block("folders", [f"{s.value}  # {_comment(s)}" for s in script.settings.prepare])


def _launcher(script: Script) -> str:
    """The launcher, and the signal by which it tells its ranks to save: Hydra dies of USR2, and hands on TERM."""
    launcher, here = script.settings.launcher, ("mpirun", "-n", str(script.settings.layout.world_size))
    lines = ["launch=(  # software.mpi.launcher", *(f"  {line}" for line in wrapped(map(quoted, launcher))), ")"]
    lines.append(f"signal={_signal(launcher, script.profile)}")
    if script.for_slurm:
        otherwise = f"launch=({shlex.join(here)}) signal={_signal(here, script.profile)}"
        lines.append(f"[[ -n ${{SLURM_JOB_ID:-}} ]] || {otherwise}  # without an allocation, on this machine")
    return _block("launcher", lines)


def _inside(inside: Inside) -> str:
    lines = ["inside=(", *(f"  {line}" for line in wrapped(inside.words())), ")", 'launch+=("${inside[@]}")']
    runtime = inside.container.runtime
    if runtime in BY_SRUN:
        said = f"{runtime} is a part of srun: run this inside an allocation, by sbatch or salloc"
        lines.insert(0, f'[[ -n ${{SLURM_JOB_ID:-}} ]] || {{ echo "{said}"; exit 2; }}')
    return _block(f"image: each rank runs in it  # {inside.container.key}", lines)


def _record(own: OwnProgram) -> str:
    return _block(f"state/{own.stage_id}.json, which status and report read: complete or absent", own.record())


def _workers(own: OwnProgram) -> str:
    return _block("workers of TensorFlow: one a rank, in the order of the ranks  # tf_config", own.workers())


def _preflight(script: Script) -> str:
    code = "PYTHONPATH=$RUN/env/code${PYTHONPATH:+:$PYTHONPATH} " if script.is_command else ""
    layout = script.settings.layout
    ranks = f" --ranks {layout.world_size} --nodes {layout.nodes}" if script.key else ""  # not those of the job
    check = f'{code}"${{launch[@]}}" "$PYTHON" -uP -m hpcllm preflight --run "$RUN"{ranks} || code=$?'
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
    """The launcher runs behind and bash waits for it, because bash runs a trap only between two commands."""
    told = [f"[[ -z $again ]] || code={INTERRUPTED}  # told to stop before it began", "if ((code == 0)); then"]
    if script.own:
        told.append("  # shellcheck disable=SC2016  # the ranks expand it")
        program = script.own.words()
    else:
        program = f'"$PYTHON" -uP -m hpcllm stage {script.stage.name} "$RUN"'
    return _block("launch", [*told, f'  "${{launch[@]}}" {program} &', _WAIT, "fi"])


def _afterwards(script: Script) -> str:
    requeue = script.profile.scheduler.requeue
    end = Afterwards(
        script.stage.id,
        script.settings.layout.ranks_per_node,
        script.for_slurm,
        script.is_command,
        script.stage.name == "train",
        script.job.slurm.max_requeues if requeue else 0,
        "job.slurm.max_requeues" if requeue else "scheduler.requeue",
        _python_here(script),
        by_pmi2=script.for_slurm and "--mpi=pmi2" in script.settings.launcher,
        is_chained=can_chain(script.profile, script.stage),
    )
    lines = [removal()] if isinstance(script.settings.inside, Packed) else []
    return _block(f"afterwards: {INTERRUPTED} means interrupted, with everything saved", [*lines, *end.lines()])


# ---- the pieces of bash ----------------------------------------------------------------------------------------------

# A signal ends the wait early; then bash waits again, for the launcher's own exit code.
_WAIT = """\
  child=$!
  wait "$child" || code=$?
  while [[ -n $again ]]; do
    again='' code=0
    wait "$child" || code=$?
  done"""


# ---- words -----------------------------------------------------------------------------------------------------------


def _needs_preflight(script: Script) -> bool:
    return (script.stage.name == "train" or script.is_command) and script.settings.layout.world_size > 1


def _signal(launcher: tuple[str, ...], profile: Profile) -> str:
    by_hydra = launcher[0].rsplit("/", 1)[-1] != "srun" and profile.software.mpi.flavour != "openmpi"
    return "TERM" if by_hydra else "USR2"


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
