"""The command line: parse, then one call per command. Each command imports what it needs when it is called.

hpcllm plan jobs/gpt2-124m.yaml --cluster ib-lustre-a100     does it fit, how fast, what limits it
hpcllm submit jobs/demo.yaml --cluster mycluster             the whole pipeline on Slurm
hpcllm submit --nodes 4 -- python train.py                   your own trainer on Slurm
hpcllm run jobs/demo.yaml --ranks 2                          the same on this machine
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hpcllm import __version__
from hpcllm.errors import ExitCode, HpcllmError, UserError

if TYPE_CHECKING:
    from hpcllm.cluster.profile import Profile
    from hpcllm.job.spec import CommandJob, Job
    from hpcllm.plan.plan import Plan
    from hpcllm.run_directory import Run

AnyJobT = TypeVar("AnyJobT", "Job", "CommandJob")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code (errors.py); a mistake is one message on stderr, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    words, command = _split_command(words)
    arguments = _parser().parse_args(words)
    arguments.command = command
    try:
        call: Callable[[argparse.Namespace], int | None] = arguments.call
        return int(call(arguments) or ExitCode.DONE)
    except HpcllmError as error:
        print(f"hpcllm: {error}", file=sys.stderr, flush=True)
        return int(error.exit_code)
    except OSError as error:  # the disk is full, the path cannot be written
        if error.filename is None:
            raise
        place = re.sub(r"/\.([^/]+)\.\d+\.tmp", r"/\1", str(error.filename))  # atomic_path's name for it
        print(f"hpcllm: {place}: {error.strerror}", file=sys.stderr, flush=True)
        return int(ExitCode.FAILED if words[:1] == ["stage"] else ExitCode.USER_MISTAKE)
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        sys.stderr.close()
        return int(ExitCode.FAILED)
    except KeyboardInterrupt:
        return 130


# ---- the words -------------------------------------------------------------------------------------------------------


def _split_command(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands behind ` -- ` is a program of the user's, word by word."""
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    _, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="hpcllm",
        description=f"Train language models on HPC clusters.\n\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hpcllm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    plan = _command(
        commands, "plan", _plan, "does a job fit, how fast, what limits it", "plan jobs/demo.yaml --explain"
    )
    plan.add_argument("job", type=Path, metavar="JOB")
    _cluster(plan)
    _resources(plan)
    plan.add_argument("--explain", action="store_true", help="every figure with its formula, inputs and source")
    _json(plan)

    render = _command(
        commands, "render", _render, "write the run directory, submit nothing", "render jobs/demo.yaml --out RUN"
    )
    _job_or_command(render)

    submit = _command(commands, "submit", _submit, "render and submit to Slurm", "submit --nodes 4 -- python train.py")
    _job_or_command(submit)
    submit.add_argument("--dry-run", action="store_true", help="print what would be submitted")

    run = _command(commands, "run", _run, "run here, in the foreground", "run jobs/demo.yaml --ranks 2")
    run.usage = f"{run.prog} [JOB] [options] [-- COMMAND ...]"
    run.add_argument("job", type=Path, nargs="?", metavar="JOB", help="a job file, or a run directory to go on with")
    run.add_argument("--ranks", type=_positive, help="MPI ranks (default: the profile's)")
    run.add_argument("--oversubscribe", action="store_true", help="allow more ranks than cores")
    run.add_argument("--out", type=Path, metavar="RUN", help="run directory (default: runs/NAME-TIME)")

    preflight = _command(
        commands,
        "preflight",
        _preflight,
        "check ranks, hosts, binding and all-reduce",
        "preflight  (under srun or mpirun)",
    )
    preflight.add_argument("--ranks", type=_positive, help="ranks there should be (default: as the launcher says)")
    preflight.add_argument("--nodes", type=_positive, help="nodes there should be")
    preflight.add_argument("--run", type=Path, metavar="RUN", help="hold the figures against this run's profile")
    _json(preflight)

    status = _command(commands, "status", _status, "what became of each stage", "status runs/demo")
    _run_directory(status)
    _json(status)
    watch = _command(commands, "watch", _watch, "status, again and again until the end", "watch runs/demo")
    _run_directory(watch)
    logs = _command(commands, "logs", _logs, "the log of a stage", "logs runs/demo train")
    _run_directory(logs)
    logs.add_argument("stage", nargs="?", metavar="STAGE", help="default: the one that runs or ran last")
    cancel = _command(commands, "cancel", _cancel, "cancel what is queued or running", "cancel runs/demo")
    _run_directory(cancel)

    report = _command(commands, "report", _report, "one run, or many compared", "report runs/demo runs/translate")
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    report.add_argument("--out", type=Path, metavar="FILE", help="default: report.html of the run, or beside the runs")
    report.add_argument("--open", action="store_true", help="show it in a browser")
    _json(report)

    generate = _command(
        commands, "generate", _generate, "text from a trained model", "generate runs/demo --prompt 'def read('"
    )
    _run_directory(generate)
    generate.add_argument("--prompt", default="", help="beginning of the text, or the sentence to translate")
    generate.add_argument("--tokens", type=_positive, default=120)
    generate.add_argument("--temperature", type=float, default=0.8)

    data = _group(commands, "data", "look at shards")
    inspect = _command(
        data, "inspect", _data_inspect, "what is in a shard", "data inspect runs/demo/data/shards/FILE.h5"
    )
    inspect.add_argument("path", type=Path, metavar="FILE|RUN")
    verify = _command(data, "verify", _data_verify, "check every checksum", "data verify runs/demo")
    verify.add_argument("path", type=Path, metavar="FILE|RUN")

    profile = _group(commands, "profile", "for admins: describe a cluster")
    show = _command(
        profile, "show", _profile_show, "a profile, and what it leads to", "profile show slurm-lab --derived"
    )
    show.add_argument("cluster", nargs="?", metavar="CLUSTER")
    show.add_argument("--derived", action="store_true", help="every derived line with its key and reason")
    _json(show)
    lint = _command(profile, "lint", _profile_lint, "every mistake of a profile", "profile lint mycluster.yaml")
    lint.add_argument("path", type=Path, metavar="FILE")
    _command(profile, "detect", _profile_detect, "describe this machine", "profile detect > mycluster.yaml")
    _command(profile, "schema", _profile_schema, "JSON schema, for editors", "profile schema > profile.schema.json")

    job = _group(commands, "job", "for researchers: describe a job")
    lint = _command(job, "lint", _job_lint, "every mistake of a job", "job lint jobs/demo.yaml")
    lint.add_argument("path", type=Path, metavar="FILE")
    _command(job, "schema", _job_schema, "JSON schema, for editors", "job schema > job.schema.json")

    stage = _command(commands, "stage", _stage, "what the scripts call", "stage train runs/demo")
    stage.add_argument("name", metavar="NAME")
    _run_directory(stage)
    return parser


def _command(
    commands: Any, name: str, call: Callable[..., int | None], does: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=does, description=does, epilog=f"example: hpcllm {example}", allow_abbrev=False
    )
    parser.set_defaults(call=call)
    return parser


def _group(commands: Any, name: str, does: str) -> Any:
    return commands.add_parser(name, help=does, description=does).add_subparsers(metavar="COMMAND", required=True)


def _cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster", metavar="C", help="profile: a file or a name (default: this Slurm's, else this machine)"
    )


def _resources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=_positive)
    parser.add_argument("--ranks-per-node", type=_positive, help="default: one per GPU, or as the profile says")
    parser.add_argument("--gpus", type=_not_negative, help="GPUs per node (default: all of them)")
    parser.add_argument("--time", help="wall-clock limit, such as 4h or 12:30:00")
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument("--qos")


def _job_or_command(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"{parser.prog} [JOB] [options] [-- COMMAND ...]"
    parser.add_argument("job", type=Path, nargs="?", metavar="JOB", help="a job file (submit: or a run directory)")
    _cluster(parser)
    _resources(parser)
    parser.add_argument("--name", help="of the job, for a COMMAND (default: its program)")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run directory (default: runs/NAME-TIME)")


def _run_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a number from 1")
    return int(text)


def _not_negative(text: str) -> int:
    return 0 if text == "0" else _positive(text)


# ---- plan, render, submit, run ---------------------------------------------------------------------------------------


def _plan(arguments: argparse.Namespace) -> int:
    from hpcllm.job.spec import load_job
    from hpcllm.plan.search import search
    from hpcllm.report.plan_table import plan_text

    profile, _ = _profile(arguments)
    job = _with_resources(load_job(arguments.job), arguments)
    plan = search(profile, job)
    if arguments.json:
        _print_json(plan.to_json())
    else:
        _print_rich(plan_text(plan, profile, job, arguments.explain))
    return int(ExitCode.DONE if plan.fits else ExitCode.DOES_NOT_FIT)


def _render(arguments: argparse.Namespace) -> None:
    profile, path = _profile(arguments)
    run = _rendered(arguments, (profile, path))
    local = profile.scheduler.kind == "local"
    start = "start   " if local else "submit  "
    script = shlex.quote(str(run.run_local_sh if local else run.submit_sh))
    print(f"rendered {run.root}\nread    {run.scripts}/\n{start}bash {script}")


def _submit(arguments: argparse.Namespace) -> None:
    from hpcllm.launch.submit import submit

    run = _again(arguments) or _rendered(arguments, _profile(arguments))
    submitted = submit(run, dry_run=arguments.dry_run)
    for stage, job_id in submitted.items():
        print(f"{stage:24} {job_id}")
    if not arguments.dry_run:
        print(f"follow  hpcllm watch {shlex.quote(str(run.root))}")


def _run(arguments: argparse.Namespace) -> None:
    from hpcllm.cluster.detect import local_profile, measured
    from hpcllm.launch.local import run_local

    run = _again(arguments)
    if run is None:
        ranks = {"nodes": 1, "ranks_per_node": arguments.ranks}
        arguments = argparse.Namespace(**{**_NO_RESOURCES, **vars(arguments), **ranks})
        profile = local_profile() if arguments.command else measured(local_profile(), Path.cwd())
        run = _rendered(arguments, (profile, None), arguments.oversubscribe)
    run_local(run)


_NO_RESOURCES: dict[str, None] = dict.fromkeys(
    ("nodes", "ranks_per_node", "gpus", "time", "partition", "account", "qos", "name")
)


def _again(arguments: argparse.Namespace) -> Run | None:
    """The run directory given in place of a job file, to go on with as it was rendered. None: it is a job file."""
    from hpcllm.run_directory import Run

    if arguments.job is None or not arguments.job.is_dir():
        return None
    kept = ("job", "call", "command", "dry_run")
    given = [f"--{name.replace('_', '-')}" for name, value in vars(arguments).items() if value and name not in kept]
    if given or arguments.command:
        raise UserError(f"{arguments.job}: goes on as it was rendered; leave out {', '.join(given) or 'the command'}")
    run = Run.open(arguments.job)
    if Path(run.resolved()["root"]) != run.root:
        raise UserError(
            f"{run.root}: was rendered at {run.resolved()['root']}, and its scripts work there; "
            f"move it back, or render the job into a new directory"
        )
    return run


def _profile(arguments: argparse.Namespace) -> tuple[Profile, Path | None]:
    from hpcllm.cluster.find import find_profile

    return find_profile(arguments.cluster)


def _rendered(arguments: argparse.Namespace, found: tuple[Profile, Path | None], oversubscribe: bool = False) -> Run:
    """The run directory of the job file, or of the command, that the arguments name."""
    from hpcllm.errors import DoesNotFit
    from hpcllm.job.spec import Job, absolute
    from hpcllm.launch.render import render
    from hpcllm.plan.search import search

    profile, profile_path = found
    job: Job | CommandJob = _job(arguments)
    plan: Plan | None = None
    if isinstance(job, Job):
        job = absolute(job, arguments.job.absolute().parent)
        plan = search(profile, job, oversubscribe)
        if not plan.fits:
            raise DoesNotFit(f"{arguments.job}: does not fit {profile.name}: " + "; ".join(plan.limits))
    folder = re.sub(r"[^\w.-]+", "-", job.name)
    out = arguments.out or Path("runs") / f"{folder}-{datetime.now():%Y%m%d-%H%M%S}"
    return render(profile, profile_path, job, arguments.job, plan, out, oversubscribe=oversubscribe)


def _job(arguments: argparse.Namespace) -> Job | CommandJob:
    from hpcllm.job.spec import CommandJob, load_job

    if (arguments.job is None) == (not arguments.command):
        raise UserError("expected a job file, or a program behind --, such as: -- python train.py")
    if arguments.job is not None:
        return _with_resources(load_job(arguments.job), arguments)
    command = tuple(arguments.command)
    script = next((word for word in command if Path(word).is_file()), command[0])  # train.py, rather than python
    name = arguments.name or Path(script).stem or "command"
    return _with_resources(CommandJob(name=name[:100], command=command), arguments)


def _with_resources(job: AnyJobT, arguments: argparse.Namespace) -> AnyJobT:
    """The job with what the command line says of nodes, time and queue."""
    from hpcllm.units import parse_seconds

    try:
        time_s = None if arguments.time is None else parse_seconds(arguments.time)
    except ValueError as error:
        raise UserError(f"--time: {error}") from None
    resources = {
        "nodes": arguments.nodes,
        "ranks_per_node": arguments.ranks_per_node,
        "gpus_per_node": arguments.gpus,
        "time_s": time_s,
    }
    slurm = {"partition": arguments.partition, "account": arguments.account, "qos": arguments.qos}
    return job.model_copy(
        update={
            "resources": job.resources.model_copy(update=_given(resources)),
            "slurm": job.slurm.model_copy(update=_given(slurm)),
        }
    )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


# ---- what became of it -----------------------------------------------------------------------------------------------


def _preflight(arguments: argparse.Namespace) -> int:
    from hpcllm.parallel.preflight import main as preflight

    return preflight(arguments.ranks, arguments.nodes, arguments.run, arguments.json)


def _status(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from hpcllm.launch.track import status
    from hpcllm.report.status_table import status_table

    run = _open(arguments)
    found = status(run)
    if arguments.json:
        _print_json([asdict(stage) for stage in found])
    else:
        _print_rich(status_table(run, found))


def _watch(arguments: argparse.Namespace) -> None:
    from hpcllm.report.status_table import watch

    watch(_open(arguments))


def _logs(arguments: argparse.Namespace) -> None:
    from hpcllm.launch.track import logs

    print(logs(_open(arguments), arguments.stage), end="")


def _cancel(arguments: argparse.Namespace) -> None:
    from hpcllm.launch.track import cancel

    print(cancel(_open(arguments)))


def _report(arguments: argparse.Namespace) -> None:
    from hpcllm.report import html, terminal
    from hpcllm.run_directory import Run

    runs = [Run.open(path) for path in arguments.runs]
    if arguments.json:
        _print_json(terminal.summary_json(runs))
        return
    page = arguments.out or (runs[0].report_html if len(runs) == 1 else runs[0].root.parent)
    page = page / "report.html" if page.is_dir() else page
    html.write(runs, page)
    _print_rich(terminal.report_text(runs))
    print(f"report {page}")
    if arguments.open:
        import webbrowser

        webbrowser.open(page.absolute().as_uri())


def _generate(arguments: argparse.Namespace) -> None:
    from hpcllm.evaluate.generate import generate_for_cli

    print(generate_for_cli(_open(arguments), arguments.prompt, arguments.tokens, arguments.temperature))


def _open(arguments: argparse.Namespace) -> Run:
    from hpcllm.run_directory import Run

    return Run.open(arguments.run)


# ---- data, profiles, jobs, stages ------------------------------------------------------------------------------------


def _data_inspect(arguments: argparse.Namespace) -> None:
    from hpcllm.data.inspect import inspect_text

    print(inspect_text(arguments.path))


def _data_verify(arguments: argparse.Namespace) -> None:
    from hpcllm.data.inspect import verify_path

    verify_path(arguments.path)
    print(f"{arguments.path}: every checksum holds")


def _profile_show(arguments: argparse.Namespace) -> None:
    profile, path = _profile(arguments)
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
    from hpcllm.cluster.detect import detected_yaml

    print(detected_yaml(), end="")


def _profile_schema(arguments: argparse.Namespace) -> None:
    from hpcllm.cluster.profile import Profile

    _print_json(Profile.model_json_schema())


def _job_lint(arguments: argparse.Namespace) -> None:
    from hpcllm.job.spec import load_job

    print(f"{arguments.path}: fine, describes {load_job(arguments.path).name}")


def _job_schema(arguments: argparse.Namespace) -> None:
    from hpcllm.job.spec import Job

    _print_json(Job.model_json_schema())


def _stage(arguments: argparse.Namespace) -> None:
    from hpcllm.parallel.stage import run_stage

    run_stage(_open(arguments), arguments.name)


# ---- output ----------------------------------------------------------------------------------------------------------


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _print_rich(renderable: Any) -> None:
    from rich.console import Console

    Console().print(renderable)
