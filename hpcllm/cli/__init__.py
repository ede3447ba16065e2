"""The command line: parse, then one call per command. Each command imports what it needs when it is called.

hpcllm plan jobs/gpt2-124m.yaml --cluster ib-lustre-a100     does it fit, how fast, what limits it
hpcllm submit jobs/demo.yaml --cluster mycluster             the whole pipeline on Slurm
hpcllm submit --nodes 4 -- python train.py                   your own trainer on Slurm
hpcllm run jobs/demo.yaml --ranks 2                          the same on this machine
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence

from hpcllm import __version__
from hpcllm.cli import describing, launching, looking
from hpcllm.errors import ExitCode, HpcllmError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code (errors.py); a mistake is one message on stderr, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    words, command = _split_command(words)
    parser = _parser()
    arguments, left = parser.parse_known_args(words)
    arguments.command = command
    try:
        launching.check_dashes(words, left, arguments)
        if left:
            parser.error(f"unrecognized arguments: {' '.join(left)}")
        call: Callable[[argparse.Namespace], int | None] = arguments.call
        return int(call(arguments) or ExitCode.DONE)
    except HpcllmError as error:
        print(f"hpcllm: {error}", file=sys.stderr, flush=True)
        return int(error.exit_code)
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        sys.stderr.close()
        return int(ExitCode.FAILED)
    except OSError as error:  # the disk is full, the path cannot be written
        if error.filename is None:
            raise
        place = re.sub(r"/\.([^/]+)\.\d+\.tmp", r"/\1", str(error.filename))  # atomic_path's name for it
        print(f"hpcllm: {place}: {error.strerror}", file=sys.stderr, flush=True)
        return int(ExitCode.FAILED if words[:1] == ["stage"] else ExitCode.USER_MISTAKE)
    except KeyboardInterrupt:
        return 130


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
    for part in (launching, looking, describing):
        part.add(commands)
    return parser
