"""Profiles and jobs as files: show, lint, detect, schema."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcllm.cli import probing
from hpcllm.cli.words import command, group, json_option, print_json, profile_of
from hpcllm.errors import ExitCode, UserError
from hpcllm.schema import schema

if TYPE_CHECKING:
    from hpcllm.cluster.lint import Linted


def add(commands: Any) -> None:
    """The commands of this file."""
    profile = group(commands, "profile", "for admins: describe a cluster")
    show = command(
        profile, "show", _profile_show, "a profile, and what it leads to", "profile show slurm-lab --derived"
    )
    show.add_argument("cluster", nargs="?", metavar="CLUSTER")
    show.add_argument("--derived", action="store_true", help="every derived line with its key and reason")
    json_option(show)
    lint = command(
        profile,
        "lint",
        _profile_lint,
        "every mistake of a profile, and what is doubtful",
        "profile lint mycluster.yaml",
    )
    lint.add_argument("names", nargs="+", metavar="FILE|NAME")
    json_option(lint)
    detect = command(
        profile,
        "detect",
        _profile_detect,
        "describe this cluster, or this machine",
        "profile detect --job --out C.yaml",
    )
    detect.add_argument("--job", action="store_true", help="look at a compute node by a job of one node")
    for option in ("--partition", "--account", "--qos"):
        detect.add_argument(option, help="of that job")
    detect.add_argument("--out", type=Path, metavar="FILE", help="default: printed")
    probing.add(profile)
    command(profile, "schema", _profile_schema, "JSON schema, for editors", "profile schema > profile.schema.json")

    job = group(commands, "job", "for researchers: describe a job")
    lint = command(job, "lint", _job_lint, "every mistake of a job", "job lint jobs/demo.yaml")
    lint.add_argument("names", nargs="+", metavar="FILE")
    json_option(lint)
    command(job, "schema", _job_schema, "JSON schema, for editors", "job schema > job.schema.json")


def _profile_show(arguments: argparse.Namespace) -> None:
    profile, path = profile_of(arguments)
    if arguments.derived:
        from hpcllm.derive.show import derived_text

        print(derived_text(profile))
    elif arguments.json:
        print(profile.model_dump_json(by_alias=True, indent=2))
    elif path is None:
        from hpcllm.cluster.detection.here import detected_yaml

        print(detected_yaml(), end="")
    else:
        print(path.read_text(encoding="utf-8"), end="")
        if profile.extends:
            print(f"# What it takes over: hpcllm profile show {profile.extends}. The whole: --json")


def _profile_lint(arguments: argparse.Namespace) -> ExitCode:
    from hpcllm.cluster.find import profile_file
    from hpcllm.cluster.lint import lint_file

    files = [profile_file(name) for name in arguments.names]
    today = datetime.now(UTC).date()
    return _told({path: lint_file(path, today) for path in files}, arguments.json)


def _told(linted: dict[Path, Linted], as_json: bool) -> ExitCode:
    """Every finding, and a line for each file; or one JSON document. An error is a mistake of the user."""
    if as_json:
        print_json({str(path): _findings(one) for path, one in linted.items()})
    for path, one in linted.items() if not as_json else ():
        for finding in one.findings:
            print(finding)
        print(f"{path}: {one.verdict}")
    return ExitCode.DONE if all(one.name for one in linted.values()) else ExitCode.USER_MISTAKE


def _findings(linted: Linted) -> dict[str, Any]:
    rows = [{"severity": finding.severity, **asdict(finding.problem)} for finding in linted.findings]
    return {"name": linted.name, "findings": rows}


def _profile_detect(arguments: argparse.Namespace) -> None:
    from hpcllm.cluster.detection.ask import Ask, detected
    from hpcllm.run_directory import write_text

    if arguments.out and arguments.out.exists():
        raise UserError(f"--out: {arguments.out} exists; give the path of a new file")
    job = arguments.job or _agreed()
    text = detected(Ask(job, arguments.partition, arguments.account, arguments.qos))
    if arguments.out is None:
        print(text, end="")
        return
    write_text(arguments.out, text)
    print(f"wrote {arguments.out}; read what it says to check, then: hpcllm profile lint {arguments.out}")


def _agreed() -> bool:
    """Whether somebody at a terminal lets a job look at a compute node."""
    from hpcllm.cluster.detection.ask import has_slurm

    if not (sys.stdin.isatty() and sys.stderr.isatty() and has_slurm()):
        return False
    print("Look at a compute node by a job of one node, 5 minutes at most? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _profile_schema(arguments: argparse.Namespace) -> None:
    from hpcllm.cluster.profile import Profile

    print_json(schema(Profile))


def _job_lint(arguments: argparse.Namespace) -> ExitCode:
    from hpcllm.cluster.lint import lint_record
    from hpcllm.job.spec import kind_of_file
    from hpcllm.job.sweep import points

    files = [Path(name) for name in arguments.names]
    code = _told({path: lint_record(path, kind_of_file(path)) for path in files}, arguments.json)
    for path in files if code is ExitCode.DONE else ():
        points(path)
    return code


def _job_schema(arguments: argparse.Namespace) -> None:
    from hpcllm.job.job_schema import job_schema

    print_json(job_schema())
