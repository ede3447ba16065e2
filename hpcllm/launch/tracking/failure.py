"""Which rank failed first, and its last words: read from a log, where the ranks that were stopped for it speak too."""

from __future__ import annotations

import re
from dataclasses import dataclass

QUOTED_LINES = 30  # at most, of one rank

# Who says which rank went first. Each names what it knows of: rank, host, code, how. The first match in a log counts,
# since launchers stop the others only after it: their lines come later.
_WITNESSES = (
    # slurmstepd, behind the label of the task: `1: slurmstepd-n4: error: StepId=44.1 exceeded memory limit (…), …`.
    # It stops the whole job for that, so the tasks that srun names then are not to blame.
    r"^\s*(?P<rank>\d+): slurmstepd-(?P<host>[^\s:]+): error: \S+ (?P<how>exceeded memory limit \([^)]*\))",
    # srun: `srun: error: Node failure on n2`; ranks on other nodes then end of what they lost with it.
    r"^srun: error: (?P<how>Node failure) on (?P<host>\S+)$",
    # srun: `srun: error: n2: tasks 1,3: Exited with exit code 3`, `…: Killed`, `…: Segmentation fault (core dumped)`
    r"^srun: error: (?P<host>[^\s:]+): tasks? (?P<rank>\d+)[\d,-]*: "
    r"(?:Exited with exit code (?P<code>\d+)|(?P<how>.+))$",
    # the stages of hpcllm: `hpcllm: 30-train: rank 1 on n2: …`
    r"^(?:\d+: )?hpcllm: [\w-]+: rank (?P<rank>\d+) on (?P<host>[^\s:]+): (?P<said>.*)$",
    # torchrun: `rank      : 3 (local_rank: 1)` below `Root Cause (first observed failure):`
    r"^(?:\d+: )?\s*rank\s+: (?P<rank>\d+) \(local_rank: \d+\)$",
    # Open MPI: `mpirun noticed that process rank 1 with PID 0 on node n2 exited on signal 9 (Killed).`, wrapped
    r"process\s+rank\s+(?P<rank>\d+)\s+with\s+PID\s+\d+\s+on\s+node\s+(?P<host>\S+)\s+exited\s+on\s+"
    r"(?P<how>signal\s+\d+.*?)\.?$",
    # Open MPI 5: `Process name: [prterun-n1-4711@1,1]` and, in the next line, `Exit code:    3`
    r"^\s*Process name: \[prterun-\S+@\d+,(?P<rank>\d+)\]\s*\n\s*Exit code:\s+(?P<code>\d+)",
    # Hydra: `Abort(3) on node 1 (rank 1 in comm 0): …`
    r"^(?:\d+: )?[Aa]bort\((?P<code>\d+)\) on node \d+ \(rank (?P<rank>\d+) in comm",
    # Hydra: `=   PID 4711 RUNNING AT n2` and, in the next line, `=   EXIT CODE: 3`
    r"^=\s+PID \d+ RUNNING AT (?P<host>\S+)\s*\n=\s+EXIT CODE: (?P<code>\d+)",
)  # fmt: skip
_WITNESS = [re.compile(pattern, re.MULTILINE) for pattern in _WITNESSES]
INTERRUPTED = "75"  # no failure: the rank saved and left

_BY_SLURM = re.compile(r"\s*(\d+: )?(srun|slurmstepd[^\s:]*): ")
_TRACEBACK = "Traceback (most recent call last):"
_ERROR = re.compile(
    r"\b(\w*(Error|Exception|Interrupt)\b|error:|fatal|abort|assert|segmentation|killed|panic|not found|no such file)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Failure:
    """The rank that went first."""

    rank: int | None
    host: str
    how: str
    """`exit code 3`, `Killed`; empty where nobody says."""
    quoted: tuple[str, ...]
    """Its last words: the traceback that it ended with, or the last line that speaks of an error, or its last line."""

    def __str__(self) -> str:
        where = " ".join(
            filter(None, [f"rank {self.rank}" if self.rank is not None else "", self.host and f"on {self.host}"])
        )
        return ": ".join(filter(None, [where, self.how, self.quoted[-1].strip() if self.quoted else ""]))


def first_failure(log: str) -> Failure | None:
    """The first failure that a log tells of; None where none does."""
    seen = next((found for pattern in _WITNESS if (found := _first(pattern, log))), {})
    rank = int(seen["rank"]) if seen.get("rank") else None
    lost = seen.get("how") == "Node failure"  # what the ranks on other nodes then say explains nothing
    quoted = () if lost else _last_words(_lines_of(rank, log)) or ((seen["said"],) if seen.get("said") else ())
    if not seen and not quoted:
        return None
    how = f"exit code {seen['code']}" if seen.get("code") else seen.get("how") or ""
    return Failure(rank, seen.get("host") or "", how, quoted)


def _first(pattern: re.Pattern[str], log: str) -> dict[str, str]:
    matches = (match.groupdict() for match in pattern.finditer(log))
    return next((found for found in matches if found.get("code") != INTERRUPTED), {})


def _lines_of(rank: int | None, log: str) -> list[str]:
    """What one rank said, without its label; a log without labels is everybody's."""
    lines = [line for line in log.splitlines() if not _BY_SLURM.match(line)]
    labelled = [line for line in lines if re.match(r"\s*\d+: ", line)]
    if rank is None or not labelled:
        return lines
    own = re.compile(rf"\s*{rank}: ?")
    return [line[match.end() :] for line in labelled if (match := own.match(line))]


def _last_words(lines: list[str]) -> tuple[str, ...]:
    """A traceback runs to its first line that is not indented: `ValueError: boom`."""
    starts = [number for number, line in enumerate(lines) if line.strip() == _TRACEBACK]
    if starts:
        at = starts[-1]
        end = next((n for n in range(at + 1, len(lines)) if not lines[n].startswith((" ", "\t"))), len(lines) - 1)
        return (lines[at], *lines[at + 1 : end + 1][-QUOTED_LINES:])
    telling = [line for line in lines if _ERROR.search(line)]
    return tuple(telling[-1:])
