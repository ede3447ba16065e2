"""300 hostile strings in every place a value can come from: scripts are rendered and run, and nothing else runs.

Each of 300 cases puts another string into every place at once, turned by some places, so that every place meets every
string. Where a record refuses one, something plain stands there. The programs around a script are stand-ins that note
their words and their environment. On a real Slurm: tests/slurm/test_hostile_on_slurm.py.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hostile import COUNT, file_name, hostile
from pydantic import ValidationError
from shipped_jobs import demo

from hpcllm.cluster.profile import Profile
from hpcllm.cluster.user import User
from hpcllm.derive.layout import layout
from hpcllm.derive.setting import Setting, Settings
from hpcllm.derive.settings import settings
from hpcllm.derive.striping import striping
from hpcllm.errors import UserError
from hpcllm.job.spec import CommandJob
from hpcllm.launch.pipeline import COMMAND
from hpcllm.launch.scripts.dag_scripts import run_local_sh, submit_sh
from hpcllm.launch.scripts.lifecycle import LIFECYCLE
from hpcllm.launch.scripts.script import Script
from hpcllm.launch.scripts.shell import TAKEN
from hpcllm.run_directory import Run, read_json

STRINGS = hostile()
# Places whose records take no white space, or one line, or a name of few letters; the others take every string.
REFUSING = {
    ("name",),
    *(("slurm", key) for key in ("account", "qos", "mail")),
    *(("clusters", "somewhere", key) for key in ("account", "qos", "mail")),
    ("slurm", "directives", "wckey"),
    ("scheduler", "directives", "comment"),
    ("scheduler", "partitions", "batch", "qos"),
    ("scheduler", "partitions", "batch", "directives", "reservation"),
    ("nodes", "gpu", "gpus", "gres_type"),
}
KINDS = ("", "venv", "conda", "packed", "apptainer", "podman-hpc", "shifter")
FABRICS = ("infiniband", "roce", "ethernet", "slingshot", "efa", "omni-path", "tcpx", "tcpxo")
TIMEOUT_S = 60


def turned(case: int, places: int) -> str:
    """The string of a case at a place: another one at each."""
    return STRINGS[(case + 7 * places) % COUNT]


# ---- records that hold one -------------------------------------------------------------------------------------------

Place = tuple[str, ...]
_PARTITION = ("scheduler", "partitions", "batch")
_NODE = ("nodes", "gpu")

# Every text of a profile that reaches a script, or stands in a comment of one. Lists have one word.
PROFILE_PLACES: tuple[Place, ...] = (
    ("description",),
    ("scheduler", "cluster_name"),
    ("scheduler", "directives", "comment"),
    *((*_PARTITION, key) for key in ("constraint", "qos", "account_suffix", "description")),
    (*_PARTITION, "directives", "reservation"),
    (*_NODE, "cpu"),
    (*_NODE, "modules", "0"),
    (*_NODE, "gpus", "model"),
    (*_NODE, "gpus", "gres_type"),
    *(("fabric", key, "0") for key in ("interfaces", "gpu_interfaces", "hcas")),
    ("filesystems", "scratch", "path"),
    ("filesystems", "scratch", "pool"),
    ("software", "module_paths", "0"),
    ("software", "modules", "0"),
    ("software", "mpi", "launcher", "1"),
    ("internet", "proxy", "https_proxy"),
    ("environment", "OF_SITE"),
)
USER_PLACES: tuple[Place, ...] = tuple(("clusters", "somewhere", key) for key in ("account", "qos", "mail"))
JOB_PLACES: tuple[Place, ...] = (
    ("name",),
    ("description",),
    *(("slurm", key) for key in ("account", "qos", "mail")),
    ("slurm", "directives", "wckey"),
    ("environment", "OF_JOB"),
    ("environment", "LD_HINT"),
    ("software", "modules", "0"),
    ("command", "1"),
    ("command", "2"),
)
MOUNT: Place = ("software", "environment", "mounts", "0")


def plain_profile(case: int) -> dict[str, Any]:
    """A cluster on which everything that can be derived is."""
    return {
        "name": "somewhere",
        "verified": {"how": "example", "date": "2026-11-24"},
        "scheduler": {
            "kind": "slurm",
            "partitions": {"batch": {"node_type": "gpu"}},
            "gpu_request": ("gres", "gpus-per-node", "gpus")[case % 3],
            "memory_request": "node",
        },
        "nodes": {"gpu": {"cores": 8, "memory": "64GiB", "gpus": {"model": "A100", "count": 2}}},
        "fabric": {"kind": FABRICS[case % len(FABRICS)]},
        "filesystems": {"scratch": {"kind": "lustre", "path": "/", "locking": False}},
        "software": {"mpi": {"flavour": ("openmpi", "mpich")[case % 2], "launcher": ["srun", "--mpi=none"]}},
    }


def put(data: Any, place: Place, value: str) -> None:
    """Set the value at a place, making the maps and lists on the way. A number is an index of a list."""
    for key, following in zip(place, [*place[1:], ""], strict=True):
        if isinstance(data, list):
            index = int(key)
            data.extend([""] * (index + 1 - len(data)))
            if not following:
                data[index] = value
            data = data[index]
        elif not following:
            data[key] = value
        else:
            data = data.setdefault(key, [] if following.isdigit() else {})


def filled(
    model: Any, plain: dict[str, Any], places: tuple[Place, ...], case: int, first: int
) -> tuple[Any, set[Place]]:
    """A record with a string at every place that can hold it, and the places that refused theirs."""
    data, refused = plain, set()
    for number, place in enumerate(places, first):
        with_it = _copy(data)
        put(with_it, place, turned(case, number))
        try:
            model.model_validate(with_it)
        except ValidationError:
            refused.add(place)
        else:
            data = with_it
    return model.model_validate(data), refused


def _copy(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _copy(value) for key, value in data.items()}
    return list(map(_copy, data)) if isinstance(data, list) else data


# ---- the places on disk, and the programs around a script ------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """Where a script runs: folders and programs of hostile names, and stand-ins that note what they are given."""

    folder: Path
    bin: Path

    @property
    def canary(self) -> Path:
        """There when something ran that must not."""
        return self.folder / "canary"

    def program(self, at: Path, body: str) -> Path:
        """A stand-in."""
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(f"#!/bin/bash\n{body}\n")
        at.chmod(0o755)
        return at

    def noted(self, name: str) -> list[str]:
        """The words that a stand-in was given."""
        return (self.folder / f"{name}.noted").read_bytes().decode().split("\0")[:-1]

    def run(self, script: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """A script by bash, with nothing but the stand-ins and the system's own programs."""
        env = {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": "/", "NOTES": str(self.folder), "LC_ALL": "C.UTF-8"}
        return subprocess.run(
            ["bash", script],
            env={**env, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )


def noting(name: str, then: str = "") -> str:
    """The body of a stand-in that notes its words, each ended by a NUL."""
    return f'printf "%s\\0" "$@" >"$NOTES/{name}.noted"\n{then}'


# A launcher's own words end where the program begins, which runs once.
# As in srun's and Hydra's, a word `:` would begin another program.
PROGRAM = """\
until [[ $1 == bash || $1 == rm || $1 == "$THE_PYTHON" ]]; do shift; done
for word; do [[ $word != : ]] || exit 9; done
exec "$@\""""
PYTHON = "[[ $1 != -c ]] || echo 4242"
TRAINER = noting("argv", 'printf "%s\\0" "$PWD" >"$NOTES/cwd.noted"\nenv -0 >"$NOTES/env.noted"')


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("hostile")
    place = Stage(folder, folder / "bin")
    place.program(place.bin / "owned", f'echo "$0 $*" >>{shlex.quote(str(place.canary))}')
    place.program(place.bin / "module", 'printf "%s\\0" "$@" >>"$NOTES/module.noted"')
    place.program(place.bin / "squeue", "echo RUNNING")
    place.program(place.bin / "scontrol", "echo n1")
    place.program(place.bin / "scancel", ":")
    place.program(place.bin / "sbcast", 'exec cp -- "${@:2}"')
    place.program(place.bin / "srun", PROGRAM)
    place.program(place.bin / "python3", PYTHON)
    for runtime in ("apptainer", "podman-hpc", "shifter"):
        place.program(place.bin / runtime, noting("image", PROGRAM))
    place.program(place.bin / "sbatch", noting("sbatch", "echo 7"))
    return place


@dataclass(frozen=True)
class Case:
    """One case: its records, its paths, its script."""

    profile: Profile
    job: CommandJob
    settings: Settings
    script: Script
    refused: set[Place] = field(default_factory=set)


def made(place: Stage, number: int) -> Case:
    """The records and the paths of a case, and the script that is made of them."""
    names = [file_name(turned(number, 60 + i)) for i in range(6)]
    root = place.folder / str(number)
    srun = place.program(root / "srun" / names[0] / "srun", noting("srun", PROGRAM))
    python = place.program(root / "python" / f"{names[1]}.", PYTHON)  # $(command -v …) takes a line break off its end
    trainer = place.program(root / "trainer" / names[2], TRAINER)
    on_path = [name.replace(":", "_") for name in names[4:]]  # PATH is parted at colons, and nothing quotes one
    cwd, disk, prefix = root / "cwd" / names[3], root / "disk" / on_path[0], root / "env" / on_path[1]
    place.program(prefix / "bin" / "python", PYTHON)
    for folder in (cwd, disk):
        folder.mkdir(parents=True, exist_ok=True)
    plain = plain_profile(number)
    plain["software"] |= {
        "python": str(python),
        "mpi": {**plain["software"]["mpi"], "launcher": [str(srun), "--mpi=x"]},
    }
    plain["nodes"]["gpu"]["local_scratch"] = {"path": str(disk)}
    profile, refused = filled(Profile, plain, PROFILE_PLACES, number, 0)
    user, of_user = filled(User, {}, USER_PLACES, number, 50)
    kind = KINDS[number % len(KINDS)]
    places = (*JOB_PLACES, *((MOUNT,) if kind else ()))
    job, of_job = filled(CommandJob, plain_job(trainer, kind, prefix), places, number, len(PROFILE_PLACES))
    if number % 2:  # then the person's own facts are in the script
        slurm = job.slurm.model_copy(update={"account": None, "qos": None, "mail": None})
        job = job.model_copy(update={"slurm": slurm})
    derived = settings(profile, job, layout(profile, job, None, COMMAND, user), user)
    run = Run(root / "run" / run_name(turned(number, 70)))
    script = Script(run, COMMAND, job, profile, derived, str(cwd))
    return Case(profile, job, derived, script, refused | of_user | of_job)


def plain_job(trainer: Path, kind: str, prefix: Path) -> dict[str, Any]:
    """A command on two nodes, in an environment of that kind."""
    environment = {"environment": {"kind": kind, "path": str(prefix)}} if kind else {}
    return {
        "name": "plain",
        "command": [str(trainer)],
        "resources": {"nodes": 2, "ranks_per_node": 1},
        "software": environment,
    }


def run_name(text: str) -> str:
    """What a run directory may be called: `render` refuses the rest, as a test below says."""
    return "".join(c for c in file_name(text) if c.isprintable() and c not in "\\:") or "run"


# ---- what is held against every case ---------------------------------------------------------------------------------


IMAGES = ("apptainer", "podman-hpc", "shifter")
IN_A_JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}


def python_of(case: Case) -> str:
    """Where the script's interpreter is when it runs."""
    environment, disk = case.job.software.environment, case.profile.nodes["gpu"].local_scratch
    if environment and environment.kind == "packed" and disk:
        return f"{with_variables(disk.path)}/hpcllm-env-7/bin/python"
    return case.settings.python


def check_directives(case: Case, text: str) -> None:
    """As many directives as were derived, each with its value, read as sbatch does: up to the first command."""
    comments = itertools.takewhile(lambda line: not line.strip() or line.startswith("#"), text.split("\n"))
    lines = [line for line in comments if line.startswith("#SBATCH")]
    found = [shlex.split(line.removeprefix("#SBATCH"), comments=True) for line in lines]
    wanted = {s.name: "".join(" " if ord(c) < 32 else c for c in s.value) for s in case.settings.directives}
    assert all(len(words) == 1 for words in found), lines
    given = dict(words[0].removeprefix("--").partition("=")[::2] for words in found)
    assert {name: given[name] for name in wanted} == wanted
    assert set(given) - set(wanted) == {"output"}
    assert given["output"].replace("%%", "%") == str(case.script.run.slurm_log("30-command"))


def check_words(case: Case, place: Stage) -> None:
    """The launcher's and the program's words, byte for byte, and where the program runs."""
    launcher = case.settings.launcher[1:]
    assert place.noted("srun")[: len(launcher)] == list(launcher)
    assert place.noted("argv") == list(case.job.command[1:])
    assert place.noted("cwd") == [case.script.cwd]
    software, node = case.profile.software, case.profile.nodes["gpu"]
    modules = [*node.modules, *software.modules, *case.job.software.modules]
    assert place.noted("module") == [
        *(["purge"] if modules else []),
        *(["use", *software.module_paths] if software.module_paths else []),
        *(["load", *modules] if modules else []),
    ]
    environment = case.job.software.environment
    if environment and environment.kind in IMAGES:
        assert any(word.endswith(environment.path) for word in place.noted("image"))


def check_environment(case: Case, place: Stage) -> None:
    """Every variable as it was derived."""
    env = dict(entry.partition("=")[::2] for entry in place.noted("env"))
    for s in case.settings.environment:
        wanted = with_variables(s.value) if s.needs else s.value
        assert env.get(s.name) == (wanted if not s.needs or os.access(with_variables(s.needs), os.W_OK) else None), s
    assert (env["RANK"], env["WORLD_SIZE"], env["MASTER_PORT"]) == ("0", "2", "4242")


def with_variables(text: str) -> str:
    """A place on a node: plain variables in it are bash's, and those that are not set are empty."""
    known = {"HOME": "/", "IFS": " \t\n", "UID": str(os.getuid())}
    return re.sub(
        r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", lambda m: known.get(m[1] or m[2], ""), text, flags=re.ASCII
    )


def rendered(place: Stage, number: int) -> tuple[Case, str]:
    """The case, and its script written where it belongs. What cannot be mounted into an image runs without one."""
    case = made(place, number)
    try:
        text = case.script.text()
    except UserError as error:
        assert "mount" in str(error)
        job = case.job.model_copy(update={"software": case.job.software.model_copy(update={"environment": None})})
        derived = settings(case.profile, job, case.settings.layout)
        case = replace(case, job=job, settings=derived, script=replace(case.script, job=job, settings=derived))
        text = case.script.text()
    case.script.path.parent.mkdir(parents=True, exist_ok=True)
    case.script.path.write_text(text)
    case.script.run.env.mkdir(exist_ok=True)
    shutil.copy(LIFECYCLE, case.script.run.lifecycle)
    return case, text


def test_no_string_runs_anywhere_and_every_one_arrives_as_it_was_given(place: Stage) -> None:
    refused: set[Place] = set()
    for number in range(COUNT):
        case, text = rendered(place, number)
        (place.folder / "module.noted").write_bytes(b"")
        assert "\r\n" not in text  # sbatch refuses it
        checked = subprocess.run(["bash", "-n", case.script.path], capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, ""), text

        ended = place.run(case.script.path, **IN_A_JOB, THE_PYTHON=python_of(case))

        said = f"case {number}\n{text}\n{ended.stdout}\n{ended.stderr}"
        assert not place.canary.exists(), said
        assert ended.returncode == 0, said + case.script.run.log("30-command", 1).read_text()
        check_directives(case, text)
        check_words(case, place)
        check_environment(case, place)
        refused |= case.refused

    assert refused <= REFUSING


# ---- refused, and never half written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["$(owned)", "A B", "A=owned", "", "1A", "é", "A\nowned"])
def test_a_name_that_is_none_of_a_variable_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="expected the name of an environment variable"):
        CommandJob.model_validate({"name": "x", "command": ["true"], "environment": {name: "1"}})


@pytest.mark.parametrize("name", ["RUN", "again", "BASH_ENV", "PS4", "UID", "SHELLOPTS", "IFS", "RANDOM"])
def test_a_variable_that_bash_or_the_script_owns_is_refused_with_the_way_to_give_it(place: Stage, name: str) -> None:
    case = made(place, 1)
    derived = replace(case.settings, environment=(Setting(name, "$(owned)", f"job.environment.{name}", ""),))

    with pytest.raises(UserError, match=f"job.environment.{name}: .*env {name}=… PROGRAM"):
        replace(case.script, settings=derived).text()


def test_every_variable_that_a_script_sets_for_itself_is_one_that_nobody_else_may_give(place: Stage) -> None:
    _, text = rendered(place, 5)
    text += LIFECYCLE.read_text()
    of_functions = set(re.findall(r"\w+", " ".join(re.findall(r"^ *local (.*)", text, re.MULTILINE))))
    # what stands in words and in comments
    without = r"(?m) # .*$|^#.*$|'[^']*'|^.*\b(?:export|local) .*$|scontrol update .*$"

    own = set(re.findall(r"(?:^|[ ;(])([A-Za-z_]\w*)=", re.sub(without, "", text), re.MULTILINE))

    taken = set().union(*TAKEN.values())
    assert own - taken - of_functions - RENDEZVOUS == set()


# What the rendezvous says to the ranks wins over a job's own, by design; PYTHONPATH is only added to.
RENDEZVOUS = {"MASTER_ADDR", "MASTER_PORT", "TF_WORKERS", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHON"}


@pytest.mark.parametrize("word", ["a\0owned", "\udcff"])
def test_what_no_program_can_be_given_is_refused(place: Stage, word: str) -> None:
    case = made(place, 2)
    job = case.job.model_copy(update={"command": ("echo", word)})

    with pytest.raises(UserError, match="a value holds"):
        replace(case.script, job=job).text()


# ---- the scripts that drive the others -------------------------------------------------------------------------------


def test_the_whole_dag_is_submitted_and_run_from_a_folder_of_any_name(place: Stage) -> None:
    for number in range(COUNT):
        run = Run(place.folder / "dag" / str(number) / run_name(STRINGS[number]))
        run.scripts.mkdir(parents=True)
        (run.scripts / "a b.sh").write_text('pwd >"$NOTES/ran.noted"')
        for path, text in (
            (run.submit_sh, submit_sh(run, (COMMAND,))),
            (run.run_local_sh, run_local_sh(run, ["a b.sh"])),
        ):
            path.write_text(text)

            ended = place.run(path)

            assert (ended.returncode, ended.stderr, place.canary.exists()) == (0, "", False), text
        assert place.noted("sbatch") == ["--parsable", str(run.script(COMMAND.id))]
        assert read_json(run.jobs_json) == {"command": ["7"]}
        assert (place.folder / "ran.noted").exists()


def test_storage_pools_of_any_name_reach_lustre(place: Stage) -> None:
    """One script holds the lines of all strings; they stand in it as they do in a run's first script."""
    place.program(place.bin / "lfs", 'printf "%s\\0" "$@" >>"$NOTES/lfs.noted"')
    pools = [text for text in STRINGS if text]
    lines = []
    for pool in pools:
        profile = Profile.model_validate(plain_profile(0))
        scratch = profile.scratch().model_copy(update={"pool": pool, "striping": "manual"})
        job = demo().model_copy(update={"data": demo().data.model_copy(update={"shard_tokens": 10**10})})
        lines += [s.value for s in striping(profile.model_copy(update={"filesystems": {"scratch": scratch}}), job)][:1]
    script = place.folder / "stripes.sh"
    script.write_text("set -e\n" + "\n".join(lines))

    ended = place.run(script)

    assert (ended.returncode, ended.stderr, place.canary.exists()) == (0, "", False)
    words = place.noted("lfs")
    assert [after for word, after in itertools.pairwise(words) if word == "--pool"] == pools


# ---- the command line ------------------------------------------------------------------------------------------------


def hpcllm(*words: str | bytes, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hpcllm", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S)


def test_a_command_line_of_300_words_reaches_the_program_as_it_was_typed(place: Stage, tmp_path: Path) -> None:
    trainer = place.program(tmp_path / "$(owned) it's" / "train er.sh", TRAINER)
    run = Run(tmp_path / "a run $(owned)")
    rendered = hpcllm(
        "render", "--cluster", "slurm-lab", "--out", str(run.root), "--", str(trainer), *STRINGS, cwd=tmp_path
    )
    assert rendered.returncode == 0, rendered.stderr

    ended = place.run(run.script(COMMAND.id), **IN_A_JOB, THE_PYTHON=sys.executable)

    assert (ended.returncode, place.canary.exists()) == (0, False)
    assert place.noted("argv") == STRINGS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--name", "a\nb", "--", "true"), "name: found 'a\\\\nb'; expected a name in one line"),
        (("--account", "a b", "--", "true"), "account: found 'a b'; expected a name without white space"),
        (("--qos", "\nowned", "--", "true"), "qos: found"),
        (("--partition", "$(owned)", "--", "true"), "partition"),
        (("--out", "a\nb", "--", "true"), "expected a path without control characters"),
        (("--out", "a:b", "--", "true"), "expected a path without control characters"),
        (("--", "echo", b"\xff"), "expected UTF-8"),
    ],
)
def test_what_cannot_be_is_one_clear_error_and_leaves_nothing(
    words: tuple[str | bytes, ...], message: str, tmp_path: Path
) -> None:
    given = words if "--out" in words else ("--out", "run", *words)

    ended = hpcllm("render", "--cluster", "slurm-lab", *given, cwd=tmp_path)

    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert re.search(message, ended.stderr)
    assert list(tmp_path.iterdir()) == []
