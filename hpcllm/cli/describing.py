"""Profiles and jobs as files: show, lint, detect, schema."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hpcllm.cli.words import command, group, json_option, print_json, profile_of
from hpcllm.errors import UserError


def add(commands: Any) -> None:
    """The commands of this file."""
    profile = group(commands, "profile", "for admins: describe a cluster")
    show = command(
        profile, "show", _profile_show, "a profile, and what it leads to", "profile show slurm-lab --derived"
    )
    show.add_argument("cluster", nargs="?", metavar="CLUSTER")
    show.add_argument("--derived", action="store_true", help="every derived line with its key and reason")
    json_option(show)
    lint = command(profile, "lint", _profile_lint, "every mistake of a profile", "profile lint mycluster.yaml")
    lint.add_argument("path", type=Path, metavar="FILE")
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
    command(profile, "schema", _profile_schema, "JSON schema, for editors", "profile schema > profile.schema.json")

    job = group(commands, "job", "for researchers: describe a job")
    lint = command(job, "lint", _job_lint, "every mistake of a job", "job lint jobs/demo.yaml")
    lint.add_argument("path", type=Path, metavar="FILE")
    command(job, "schema", _job_schema, "JSON schema, for editors", "job schema > job.schema.json")


def _profile_show(arguments: argparse.Namespace) -> None:
    profile, path = profile_of(arguments)
    if arguments.derived:
        from hpcllm.derive.show import derived_text

        print(derived_text(profile))
    elif arguments.json:
        print(profile.model_dump_json(by_alias=True, indent=2))
    elif path is None:
        from hpcllm.cluster.detect import detected_yaml

        print(detected_yaml(), end="")
    else:
        print(path.read_text(encoding="utf-8"), end="")


def _profile_lint(arguments: argparse.Namespace) -> None:
    from hpcllm.cluster.profile import load_profile

    print(f"{arguments.path}: fine, describes {load_profile(arguments.path).name}")


def _profile_detect(arguments: argparse.Namespace) -> None:
    from hpcllm.cluster.detection import Ask, detected
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
    from hpcllm.cluster.detection import has_slurm

    if not (sys.stdin.isatty() and sys.stderr.isatty() and has_slurm()):
        return False
    print("Look at a compute node by a job of one node, 5 minutes at most? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _profile_schema(arguments: argparse.Namespace) -> None:
    from hpcllm.cluster.profile import Profile

    print_json(Profile.model_json_schema())


def _job_lint(arguments: argparse.Namespace) -> None:
    from hpcllm.job.spec import load_job

    print(f"{arguments.path}: fine, describes {load_job(arguments.path).name}")


def _job_schema(arguments: argparse.Namespace) -> None:
    from hpcllm.job.spec import Job

    print_json(Job.model_json_schema())
