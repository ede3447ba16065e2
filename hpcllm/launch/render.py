"""A profile, a job and a plan into a run directory: what was asked, what was derived, the frozen software, the scripts.

Nothing here asks the scheduler or the network, and nothing imports torch. A run directory is there complete or not at
all; rendering the same job into it again renews its scripts and its software, and leaves what the stages made.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from hpcllm.cluster.profile import Profile
from hpcllm.cluster.user import User, load_user
from hpcllm.derive.layout import layout
from hpcllm.derive.setting import Settings
from hpcllm.derive.settings import settings
from hpcllm.derive.software import environment_of
from hpcllm.errors import UserError
from hpcllm.job.spec import AnyJob, CommandJob
from hpcllm.launch.architecture import check_architecture
from hpcllm.launch.freeze import Code, code_of, write_code
from hpcllm.launch.key import key_of
from hpcllm.launch.pipeline import Stage, job_of, own_stage, stages
from hpcllm.launch.scripts.dag_scripts import run_local_sh, submit_sh
from hpcllm.launch.scripts.lifecycle import LIFECYCLE
from hpcllm.launch.scripts.script import Script
from hpcllm.launch.software import copy_code, software
from hpcllm.launch.submission.chain import chain_length
from hpcllm.plan.plan import Plan
from hpcllm.run_directory import FORMAT, Run, atomic_path, read_json, write_text
from hpcllm.source import Record, read_text


def render(
    profile: Profile,
    profile_path: Path | None,
    job: AnyJob,
    job_path: Path | None,
    plan: Plan | None,
    out: Path,
    *,
    user: User | None = None,
    oversubscribe: bool = False,
    cwd: Path | None = None,
    beside: Run | None = None,
) -> Run:
    """Write the run directory `out`. The plan of a command is None; `cwd` is where a command starts (here, left out).
    `beside` is a run rendered just now, whose frozen hpcllm this one is linked to.

    Raises UserError when `out` holds something else, or the user's code in another state, and what `derive.layout` and
    `derive.settings` raise.
    """
    run = Run(out.absolute())
    _check_path(run.root)
    resolved = {"format": FORMAT, "root": str(run.root), "profile": _plain(profile), "job": _plain(job)}
    _check_free(run, resolved)
    has_own = job.stages or isinstance(job, CommandJob)
    code = code_of(cwd or Path.cwd(), run.root, job.freeze) if has_own else None
    frozen = code.record() if code else {}  # it reads every file that is copied
    _check_code(run, frozen)
    ours = read_json(beside.software_json) if beside else software()  # the same, and it takes a tenth of a second
    built = {**ours, **({"command": frozen} if code else {})}
    given = {
        run.profile_yaml: read_text(profile_path) if profile_path else _yaml(profile),
        run.job_yaml: read_text(job_path) if job_path else _yaml(job),
        run.resolved_json: _json(resolved),
        run.software_json: _json(built),
        **({run.plan_json: _json(plan.to_json())} if plan else {}),
    }
    user = load_user() if user is None else user
    scripts = []
    for stage in stages(job):
        meant, own = job_of(job, stage), own_stage(job, stage)
        place = layout(profile, meant, None if own else plan, stage, user, oversubscribe=oversubscribe)
        derived = settings(profile, meant, place, user)
        _check_built(profile, meant, place.partition)
        script = _script(run, stage, meant, profile, derived, code)
        scripts.append(replace(script, key=key_of(resolved["job"], built, job, stage)) if own else script)
    lengths = {stage.name: chain_length(profile, job, plan, stage) for stage in stages(job)}
    _write(run, {**given, **_scripts(run, scripts, lengths)}, code, beside)
    return run


def _script(run: Run, stage: Stage, job: AnyJob, profile: Profile, derived: Settings, code: Code | None) -> Script:
    if code is None or not isinstance(job, CommandJob):
        return Script(run, stage, job, profile, derived, str(run.root))
    moved = job.model_copy(update={"command": tuple(code.moved(word, run) for word in job.command)})
    return Script(run, stage, moved, profile, derived, str(code.start(run)), code)


def _scripts(run: Run, scripts: list[Script], lengths: dict[str, int]) -> dict[Path, str]:
    """The text of every script by its path, and of those that drive them."""
    texts = {script.path: script.text() for script in scripts}
    texts[run.lifecycle] = LIFECYCLE.read_text(encoding="utf-8")
    edf = scripts[0].inside.edf() if scripts[0].inside else None
    if edf:
        texts[run.environment_toml] = edf
    texts[run.run_local_sh] = run_local_sh(run, [script.path.name for script in scripts])
    if scripts[0].for_slurm:
        texts[run.submit_sh] = submit_sh(run, [script.stage for script in scripts], lengths)
    return texts


def _plain(record: Record, **options: Any) -> Any:
    return json.loads(record.model_dump_json(by_alias=True, **options))


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _yaml(record: Record) -> str:
    """A record that came from no file, as the file that it could have come from."""
    return yaml.safe_dump(_plain(record, exclude_defaults=True), sort_keys=False, allow_unicode=True)


def _check_path(root: Path) -> None:
    """Slurm's directives are lines, a backslash in --output turns its % symbols off, and PYTHONPATH ends at a colon."""
    if not str(root).isprintable() or set("\\:") & set(str(root)):
        raise UserError(
            f"--out: found {str(root)!r}; expected a path without control characters, backslashes and colons"
        )


def _check_free(run: Run, resolved: dict[str, Any]) -> None:
    """The directory is new, empty, or holds a run of the same job on the same cluster."""
    if not run.root.exists():
        return
    if not run.root.is_dir():
        raise UserError(f"--out: {run.root} is a file; give the path of a new directory")
    if not run.resolved_json.exists():
        if any(run.root.iterdir()):
            raise UserError(f"--out: {run.root} holds something else than a run; give the path of a new directory")
        return
    before = Run.open(run.root).resolved()
    differing = _difference(before["job"], resolved["job"])
    if before["profile"]["name"] != resolved["profile"]["name"]:
        differing.insert(0, "cluster")
    if differing:
        raise UserError(
            f"--out: {run.root} holds a run of another job ({', '.join(differing[:3])} differ); "
            f"give a new directory, or go on with the old one: hpcllm run {shlex.quote(str(run.root))}"
        )


def _check_built(profile: Profile, job: AnyJob, partition: str | None) -> None:
    """What the programs run in starts on these nodes."""
    environment, _ = environment_of(profile, job)
    if environment:
        check_architecture(environment, profile.node_type(partition), profile.node_type_name(partition))


def _check_code(run: Run, frozen: dict[str, Any]) -> None:
    """A run's frozen code stays what it was, since what the program wrote may lie beside it."""
    if not frozen or not run.software_json.exists():
        return
    before = read_json(run.software_json).get("command") or {}
    if before.get("sha256") != frozen["sha256"]:
        raise UserError(
            f"--out: {run.root} holds the code as it was when that was rendered, and it has changed since; "
            f"give a new directory, or go on with the old code: hpcllm submit {shlex.quote(str(run.root))}"
        )


def _difference(before: Any, after: Any, at: str = "") -> list[str]:
    """Names of the keys whose values are not the same."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [name for key in keys for name in _difference(before.get(key), after.get(key), f"{at}.{key}")]
    return [] if before == after else [at.removeprefix(".")]


def _write(run: Run, files: dict[Path, str], code: Code | None, beside: Run | None) -> None:
    if run.resolved_json.exists():
        _renew(run, files)
        return
    with atomic_path(run.root, durable=False) as new:
        for path, text in files.items():
            target = new / path.relative_to(run.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            _mark_executable(target)
        frozen = new / run.code.relative_to(run.root)
        if beside:
            frozen.symlink_to(os.path.relpath(beside.code, run.env))
        else:
            copy_code(frozen)
        if code:
            write_code(code, Run(new))
        (new / run.logs.relative_to(run.root)).mkdir()  # Slurm opens a job's log before the script could make it


def _renew(run: Run, files: dict[Path, str]) -> None:
    """The same run once more. Code that did not change is left alone, since a running stage may be reading it."""
    run.logs.mkdir(exist_ok=True)
    before = read_json(run.software_json)["code_sha256"] if run.code.exists() else None
    for path, text in files.items():
        write_text(path, text, executable=path.parent == run.scripts)
    if read_json(run.software_json)["code_sha256"] != before:
        with atomic_path(run.code, durable=False) as new:
            copy_code(new)


def _mark_executable(path: Path) -> None:
    if path.parent.name == "scripts":
        path.chmod(0o755)
