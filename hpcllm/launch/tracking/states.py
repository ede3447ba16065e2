"""What Slurm's words mean for a person: what happened, whether waiting will end, and what to do next.

Three tables: the states of a job, the reasons for which one waits, and what slurmstepd writes when it ends one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

State = Literal[
    "waiting", "pending", "stuck", "running", "done", "failed", "interrupted", "cancelled",
    "timeout", "out of memory", "node failure", "preempted", "out of date",
]  # fmt: skip

ALIVE: tuple[State, ...] = ("waiting", "pending", "stuck", "running")

# The long names under JOB STATE CODES in squeue(1) and sacct(1), 22.05 to 25.05. `stuck` is none of them: it is a
# pending job whose reason never ends.
STATES: dict[str, State] = {
    "PENDING": "pending",
    "REQUEUED": "pending",
    "REQUEUE_FED": "pending",
    "REQUEUE_HOLD": "pending",
    "SPECIAL_EXIT": "pending",
    "RESV_DEL_HOLD": "pending",
    "CONFIGURING": "running",
    "POWER_UP_NODE": "running",
    "RUNNING": "running",
    "COMPLETING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
    "STOPPED": "running",
    "SUSPENDED": "running",
    "RESIZING": "running",
    "COMPLETED": "done",
    "FAILED": "failed",
    "LAUNCH_FAILED": "node failure",
    "RECONFIG_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "NODE_FAIL": "node failure",
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "PREEMPTED": "preempted",
}

# RUN, STAGE and JOB stand for the run directory, the stage's name and Slurm's id.
_ADVICE: dict[State, str] = {
    "failed": "read hpcllm logs --errors RUN STAGE, mend it, then hpcllm submit RUN",
    "interrupted": "hpcllm submit RUN goes on where it stopped",
    "cancelled": "hpcllm submit RUN goes on where it stopped",
    "preempted": "hpcllm submit RUN goes on where it stopped",
    "out of date": "hpcllm submit RUN does it again",
    "timeout": "it had no time to save: render with a longer resources.time, or save more often",
    "out of memory": "render with a smaller train.micro_batch, or on more nodes",
    "node failure": "hpcllm submit RUN goes on; slurm.directives: {exclude: NODE} leaves a bad node out",
}
_OF_OWN: dict[State, str] = {**_ADVICE, "out of memory": "render with fewer ranks on a node, or on more nodes"}
_OF_FROZEN: dict[State, str] = {
    **_OF_OWN,
    "failed": "read hpcllm logs --errors RUN STAGE; a mended program is a new run, for hpcllm submit RUN would start "
    "the frozen one, RUN/env/command, again",
}
Program = Literal["", "own", "frozen"]
"""What a stage runs: ours, or a program of the user's, as it lies there or a copy."""


@dataclass(frozen=True)
class Wait:
    """Why a job waits."""

    reason: str
    """Pattern of Slurm's word for it (JOB REASON CODES in squeue(1); all of them are in slurm_protocol_defs.c)."""
    means: str
    ends: bool = True
    """Whether waiting helps: never for `False`, unless somebody changes something."""
    advice: str = ""


_ASK_LESS = "hpcllm cancel RUN, then render with "
_AGAIN = "hpcllm cancel RUN STAGE, mend what it says, then hpcllm submit RUN"
_RELEASE = "scontrol release JOB lets it go on; hpcllm cancel RUN STAGE gives it up"

# The first row that matches holds.
WAITS = (
    Wait("None|Priority", "jobs with a higher priority come first"),
    Wait("Resources", "next in line, waits for nodes that are busy"),
    Wait("Dependency", "a job before it has not ended"),
    Wait("DependencyNeverSatisfied", "a job that it needs did not end well", False, _AGAIN),
    Wait("BeginTime", "may not begin yet: it was put back into the queue just now, or asks for a later begin"),
    Wait("Cleaning", "its last start is being cleaned up"),
    Wait("JobArrayTaskLimit", "as many tasks of its array run as may at a time"),
    Wait("Licenses", "waits for a licence"),
    Wait("Reservation", "waits for its reservation to begin"),
    Wait(
        "ReqNodeNotAvail", "nodes that it could have are down, drained, or reserved for maintenance", True,
        "a shorter resources.time may begin before a maintenance: scontrol show reservation",
    ),
    Wait("NodeDown|FrontEndDown|Power.*", "a node that it needs is down"),
    Wait("BurstBuffer.*", "waits for its burst buffer"),
    Wait("SchedDefer", "the scheduler is busy"),
    Wait("PartitionDown|PartitionInactive", "its partition starts no jobs now", True, "sinfo -s shows the others"),
    Wait(
        "PartitionTimeLimit", "asks for more time than its partition allows", False,
        _ASK_LESS + "a shorter resources.time, or another --partition",
    ),
    Wait(
        "PartitionNodeLimit|PartitionConfig", "asks for other nodes than its partition allows or has up", False,
        _ASK_LESS + "other --nodes, or another --partition",
    ),
    Wait(
        "(QOS|Assoc)MaxWallDurationPerJob.*|QOSTimeLimit|AssociationTimeLimit",
        "asks for more time than its QOS or account allows one job", False,
        _ASK_LESS + "a shorter resources.time, or another --qos",
    ),
    Wait(
        "(QOS|Assoc)Max.*Per(Job|Node).*|MaxMemPerLimit", "asks for more than its QOS or account allows one job", False,
        _ASK_LESS + "fewer --nodes, or another --qos",
    ),
    Wait("QOSMin.*", "asks for less than its QOS wants of a job", False, _ASK_LESS + "more --nodes, or another --qos"),
    Wait("(QOS|Assoc)Grp.*RunMinutes.*", "what its account runs now holds all the hours that may be held at a time"),
    Wait(
        "(QOS|Assoc)Grp(.*Minutes|Wall).*", "the hours of its account are used up", False,
        _ASK_LESS + "another --account, or ask for more hours",
    ),
    Wait("(QOS|Assoc)Grp.*|AssociationResourceLimit|QOSResourceLimit", "its account has all that it may at a time"),
    Wait(
        "(QOS|Assoc)Max.*|Max.*PerAccount|AssociationJobLimit|QOSJobLimit",
        "as much runs or is queued as one user or account may have at a time",
    ),
    Wait("QOSUsageThreshold", "its account is used more than its QOS allows now"),
    Wait(
        "AccountNotAllowed|InvalidAccount", "its account is not valid, or not allowed in its partition", False,
        _ASK_LESS + "another --account (sacctmgr show associations user=$USER lists yours)",
    ),
    Wait(
        "QOSNotAllowed|InvalidQOS", "its QOS is not valid, or not allowed in its partition or for its account", False,
        _ASK_LESS + "another --qos (sacctmgr show associations user=$USER format=account,qos lists yours)",
    ),
    Wait("BadConstraints", "no node has all that it asks for", False, _ASK_LESS + "less, or correct the profile"),
    Wait("DeadLine", "can no longer end before its deadline", False, _AGAIN),
    Wait("JobHeldUser", "held by its user", False, _RELEASE),
    Wait("JobHeldAdmin", "held by an administrator", False, "ask the site's support why"),
    Wait("JobHoldMaxRequeue", "put back into the queue as often as Slurm allows, then held", False, _AGAIN),
    Wait("launch.failed.requeued.held", "could not be started on its node, and was held", False, _RELEASE),
    Wait("job.requeued.in.held.state|user.env.retrieval.failed.*", "put back into the queue and held", False, _RELEASE),
    Wait("ReservationDeleted|.*[Rr]eservation.*deleted.*", "its reservation is gone, and it is held", False, _RELEASE),
)  # fmt: skip

# What slurmd and slurmstepd write into a job's log; where nobody knows a job any more, its log still does.
_LAST_WORDS: tuple[tuple[State, re.Pattern[str]], ...] = (
    ("out of memory", re.compile(r"oom[-_ ]kill|out of memory|exceeded .*memory limit", re.IGNORECASE)),
    ("timeout", re.compile(r"CANCELLED AT \S+ DUE TO TIME LIMIT")),
    ("preempted", re.compile(r"CANCELLED AT \S+ DUE TO PREEMPTION")),
    ("node failure", re.compile(r"CANCELLED AT \S+ DUE TO NODE FAILURE")),
    ("cancelled", re.compile(r"JOB \d+ ON \S+ CANCELLED AT \S+ \*\*\*")),
)


@cache
def wait_of(reason: str) -> Wait | None:
    """The row of a reason such as `ReqNodeNotAvail, UnavailableNodes:n2`; None for one that the table has not."""
    word = reason.split(",")[0].split("(")[0].strip()
    return next((row for row in WAITS if re.fullmatch(row.reason, word)), None)


def advice(state: State, reason: str = "", program: Program = "") -> str:
    """What to do next, where there is something: by the state, or by Slurm's reason while a job waits."""
    row = wait_of(reason) if state in ("pending", "stuck") else None
    return row.advice if row else {"": _ADVICE, "own": _OF_OWN, "frozen": _OF_FROZEN}[program].get(state, "")


def state_in(log: str) -> State | None:
    """What slurmstepd says became of a job, by the last such line of its log; being out of memory goes before all."""
    memory, *others = _LAST_WORDS
    if memory[1].search(log):
        return memory[0]
    found = [(match.start(), state) for state, pattern in others for match in pattern.finditer(log)]
    return max(found)[1] if found else None
