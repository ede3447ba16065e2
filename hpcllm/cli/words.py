"""What the commands share: how one is declared, options of several, and how a result is printed."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcllm.cluster.profile import Profile
    from hpcllm.run_directory import Run

RUNS = Path("runs")  # where a run goes that is given no other place


def command(
    commands: Any, name: str, call: Callable[..., int | None], does: str, example: str
) -> argparse.ArgumentParser:
    """One command: what it does, what it calls, and an example for its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=does, description=does, epilog=f"example: hpcllm {example}", allow_abbrev=False
    )
    parser.set_defaults(call=call)
    return parser


def group(commands: Any, name: str, does: str) -> Any:
    """A command that holds further ones."""
    return commands.add_parser(name, help=does, description=does).add_subparsers(metavar="COMMAND", required=True)


def cluster_option(parser: argparse.ArgumentParser) -> None:
    """--cluster."""
    parser.add_argument(
        "--cluster", metavar="C", help="profile: a file or a name (default: this Slurm's, else this machine)"
    )


def run_argument(parser: argparse.ArgumentParser) -> None:
    """The run directory."""
    parser.add_argument("run", type=Path, metavar="RUN")


def json_option(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else")


def positive(text: str) -> int:
    """A number from 1. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a number from 1")
    return int(text)


def not_negative(text: str) -> int:
    """A number from 0. Raises ArgumentTypeError."""
    return 0 if text == "0" else positive(text)


def time_of(arguments: argparse.Namespace) -> float | None:
    """--time in seconds; None where it was not given. Raises UserError."""
    from hpcllm.errors import UserError
    from hpcllm.units import parse_seconds

    try:
        return None if arguments.time is None else parse_seconds(arguments.time)
    except ValueError as error:
        raise UserError(f"--time: {error}") from None


def out_of(arguments: argparse.Namespace, name: str) -> Path:
    """--out; left out, a new folder of that name and this second."""
    folder = re.sub(r"[^\w.-]+", "-", name)
    return arguments.out or RUNS / f"{folder}-{datetime.now():%Y%m%d-%H%M%S}"


def profile_of(arguments: argparse.Namespace) -> tuple[Profile, Path | None]:
    """The profile that --cluster means, and its file."""
    from hpcllm.cluster.find import find_profile

    return find_profile(arguments.cluster)


def run_of(arguments: argparse.Namespace) -> Run:
    """The run directory that the arguments name. Raises UserError for what is none."""
    from hpcllm.errors import UserError
    from hpcllm.run_directory import Run

    if (arguments.run / "sweep.json").exists():
        raise UserError(f"{arguments.run}: is a sweep; give one of its runs, such as {arguments.run / '000'}")
    return Run.open(arguments.run)


def print_json(document: Any) -> None:
    """One JSON document, nothing else."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_rich(renderable: Any, soft_wrap: bool = False) -> None:
    """In the terminal's width and colours; `soft_wrap`: with lines that stay whole in a pipe."""
    from rich.console import Console

    Console().print(renderable, soft_wrap=soft_wrap)
