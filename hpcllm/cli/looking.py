"""What became of a run: preflight, status, logs, cancel, report, generate; and the shards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcllm.cli import sweeping
from hpcllm.cli.words import command, group, json_option, positive, print_json, print_rich, run_argument, run_of

if TYPE_CHECKING:
    from hpcllm.run_directory import Run


def add(commands: Any) -> None:
    """The commands of this file."""
    preflight = command(
        commands,
        "preflight",
        _preflight,
        "check ranks, hosts, binding and all-reduce",
        "preflight  (under srun or mpirun)",
    )
    preflight.add_argument("--ranks", type=positive, help="ranks there should be (default: as the launcher says)")
    preflight.add_argument("--nodes", type=positive, help="nodes there should be")
    preflight.add_argument("--run", type=Path, metavar="RUN", help="hold the figures against this run's profile")
    json_option(preflight)

    status = command(commands, "status", _status, "what became of each stage", "status runs/demo")
    run_argument(status)
    status.add_argument("--efficiency", action="store_true", help="what the jobs took and used, by Slurm's accounting")
    json_option(status)
    watch = command(commands, "watch", _watch, "status, again and again until the end", "watch runs/demo")
    run_argument(watch)
    logs = command(commands, "logs", _logs, "the log of a stage", "logs runs/demo train")
    run_argument(logs)
    logs.add_argument("stage", nargs="?", metavar="STAGE", help="default: that wrote last (of a sweep: a run's number)")
    how = logs.add_mutually_exclusive_group()
    how.add_argument("-f", "--follow", action="store_true", help="lines as they come, until the stage or the run ends")
    how.add_argument("--errors", action="store_true", help="only the rank that failed first, and what Slurm said")
    cancel = command(commands, "cancel", _cancel, "cancel what is queued or running", "cancel runs/demo evaluate")
    run_argument(cancel)
    cancel.add_argument("stage", nargs="?", metavar="STAGE", help="this one and what comes after it (default: all)")

    report = command(commands, "report", _report, "one run, or many compared", "report runs/demo runs/translate")
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    report.add_argument("--out", type=Path, metavar="FILE", help="default: report.html of the run, or beside the runs")
    report.add_argument("--open", action="store_true", help="show it in a browser")
    json_option(report)

    generate = command(
        commands, "generate", _generate, "text from a trained model", "generate runs/demo --prompt 'def read('"
    )
    run_argument(generate)
    generate.add_argument("--prompt", default="", help="beginning of the text, or the sentence to translate")
    generate.add_argument("--tokens", type=positive, default=120)
    generate.add_argument("--temperature", type=float, default=0.8)

    data = group(commands, "data", "look at shards")
    inspect = command(
        data, "inspect", _data_inspect, "what is in a shard", "data inspect runs/demo/data/shards/FILE.h5"
    )
    inspect.add_argument("path", type=Path, metavar="FILE|RUN")
    verify = command(data, "verify", _data_verify, "check every checksum", "data verify runs/demo")
    verify.add_argument("path", type=Path, metavar="FILE|RUN")

    stage = command(commands, "stage", _stage, "what the scripts call", "stage train runs/demo")
    stage.add_argument("name", metavar="NAME")
    run_argument(stage)
    stage.add_argument(
        "--part", metavar="I/N", help="of an array: every N-th element, from the I-th on, counted from 0"
    )


def _preflight(arguments: argparse.Namespace) -> int:
    from hpcllm.parallel.preflight import main as preflight

    return preflight(arguments.ranks, arguments.nodes, arguments.run, arguments.json)


def _status(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from hpcllm.launch.tracking.track import look
    from hpcllm.report.status_table import status_table

    if sweeping.holds_one(arguments.run):
        sweeping.status(arguments)
        return
    run = run_of(arguments)
    if arguments.efficiency:
        _efficiency(run, arguments.json)
        return
    now = look(run)
    if arguments.json:
        print_json(asdict(now))
    else:
        console = Console()
        console.print(status_table(run, now, console.width))


def _efficiency(run: Run, as_json: bool) -> None:
    from dataclasses import asdict

    from hpcllm.launch.tracking.efficiency import efficiency
    from hpcllm.report.status_table import efficiency_table

    used = efficiency(run)
    if as_json:
        print_json([asdict(use) for use in used])
    else:
        print_rich(efficiency_table(used))


def _watch(arguments: argparse.Namespace) -> None:
    from hpcllm.report.status_table import watch

    if sweeping.holds_one(arguments.run):
        sweeping.watch(arguments)
        return
    watch(run_of(arguments))


def _logs(arguments: argparse.Namespace) -> None:
    from hpcllm.launch.tracking.logs import errors, logs

    if sweeping.holds_one(arguments.run):
        sweeping.logs(arguments)
        return
    run = run_of(arguments)
    if arguments.follow:
        follow(run, arguments.stage)
    else:
        print((errors if arguments.errors else logs)(run, arguments.stage), end="")


def follow(run: Run, stage: str | None) -> None:
    """Lines as they come."""
    from hpcllm.launch.tracking.follow import follow
    from hpcllm.report.status_table import poll_s

    for line in follow(run, stage, poll_s(run)):
        print(line, flush=True)


def _cancel(arguments: argparse.Namespace) -> None:
    from hpcllm.launch.tracking.track import cancel

    if sweeping.holds_one(arguments.run):
        sweeping.cancel(arguments)
        return
    print(cancel(run_of(arguments), arguments.stage))


def _report(arguments: argparse.Namespace) -> None:
    from hpcllm.report import html, terminal
    from hpcllm.report.collect import collect_all
    from hpcllm.run_directory import Run

    runs = [Run.open(path) for given in arguments.runs for path in sweeping.runs_in(given)]
    summaries = collect_all(runs)
    grid = sweeping.grid_of(arguments.runs[0], summaries) if len(arguments.runs) == 1 else None
    if arguments.json:
        print_json(terminal.summary_json(summaries, grid))
        return
    page = arguments.out or (runs[0].report_html if len(runs) == 1 else runs[0].root.parent)
    page = page / "report.html" if page.is_dir() else page
    html.write(summaries, page, grid)
    print_rich(terminal.report_text(summaries, grid))
    print(f"report {page}")
    if arguments.open:
        import webbrowser

        webbrowser.open(page.absolute().as_uri())


def _generate(arguments: argparse.Namespace) -> None:
    from hpcllm.evaluate.generate import generate_for_cli

    print(generate_for_cli(run_of(arguments), arguments.prompt, arguments.tokens, arguments.temperature))


def _data_inspect(arguments: argparse.Namespace) -> None:
    from hpcllm.data.inspect import inspect_text

    print(inspect_text(arguments.path))


def _data_verify(arguments: argparse.Namespace) -> None:
    from hpcllm.data.inspect import verify_path

    verify_path(arguments.path)
    print(f"{arguments.path}: every checksum holds")


def _stage(arguments: argparse.Namespace) -> None:
    from hpcllm.parallel.stage import run_stage

    run_stage(run_of(arguments), arguments.name, arguments.part)
