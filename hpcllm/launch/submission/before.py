"""Everything that a submission may run into, found before anything is in the queue and said at once.

Slurm itself is asked whether it takes each script (`sbatch --test-only`). What it accepts and then never starts, or
refuses only at the tenth job, is looked up: the partition's limits, the person's associations, how much is queued.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from hpcllm.cluster.profile import frozen_profile
from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.pipeline import Stage
from hpcllm.launch.scripts.dag_scripts import sbatch_tokens
from hpcllm.launch.submission.ahead import Ahead, Queued
from hpcllm.launch.submission.choose import slurm_words
from hpcllm.launch.submission.finding import Finding, good, refusal, warning
from hpcllm.launch.submission.room import room
from hpcllm.launch.submission.site_rules import account_findings, limit_findings, look_up, partition_findings
from hpcllm.launch.tracking.slurm import slurm
from hpcllm.run_directory import Run

MOST_AT_ONCE = 8  # questions to Slurm

# What sbatch says, and what to do about it. The words are Slurm's (slurm_errno.c).
_REMEDIES = {
    "configuration source": "this machine belongs to no Slurm cluster; go to a login node, or set SLURM_CONF",
    "account": "give another one: --account NAME (sacctmgr show associations user=$USER lists yours)",
    "qos": "give another one: --qos NAME (sacctmgr show associations user=$USER format=account,qos lists yours)",
    "time limit": "ask for less: --time, or another --partition (sinfo -o '%P %l' shows the limits)",
    "partition": "give another one: --partition NAME (sinfo -s lists them)",
    "node configuration": "ask for less on each node, or correct the profile (sinfo -N -l shows the nodes)",
    "node count": "ask for fewer --nodes (sinfo -o '%P %D' shows how many there are)",
    "memory": "ask for less memory, or correct nodes.*.memory in the profile",
    "limit": "ask for fewer nodes or less time, or another --qos",
}

_VARIABLES = {"time": "SBATCH_TIMELIMIT", "mem": "SBATCH_MEM_PER_NODE"}  # not called as the option


def findings(
    run: Run, work: Sequence[Ahead], queued: Sequence[Queued] | None, beside: Sequence[Run] = ()
) -> list[Finding]:
    """All that was found, good and bad. `queued`: what is in the queue, None where nobody knows.

    `beside`: the other runs of a sweep; `work` then holds one stage of those that ask Slurm for the same.
    """
    profile, job = frozen_profile(run), frozen_any_job(run)
    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        known = pool.submit(look_up)
        tried = list(pool.map(lambda one: _try(one.run, one.stage), work))
        site = known.result()
    return [
        *_scripts(work, tried),
        *_environment(work),
        *account_findings(work, site, refused=any(tried)),
        *partition_findings(work, site),
        *(limit_findings(work, site, profile, queued) if queued is not None else ()),
        *room(run, profile, job, beside),
    ]


# ---- what Slurm says -------------------------------------------------------------------------------------------------


def _try(run: Run, stage: Stage) -> str:
    """Why Slurm would not take a script; empty where it would. Raises UserError where there is no Slurm."""
    done = slurm(sbatch_tokens(run, stage, test_only=True))
    return slurm_words(done.stderr) if done.returncode else ""


def _scripts(work: Sequence[Ahead], tried: Sequence[str]) -> Iterator[Finding]:
    """One for all scripts that are refused in the same words."""
    refused: dict[str, list[str]] = {}
    for one, said in zip(work, tried, strict=True):
        if said:
            refused.setdefault(said, []).append(one.stage.id)
    for said, names in refused.items():
        remedy = next(
            (remedy for word, remedy in _REMEDIES.items() if word in said.lower()), "correct it, render again"
        )
        yield refusal("scripts", f"{', '.join(names)}: Slurm refuses it: {said}; {remedy}")
    if work and not refused:
        yield good("scripts", f"Slurm takes all of them ({len(work)}, by sbatch --test-only)")


def _environment(work: Sequence[Ahead]) -> Iterator[Finding]:
    """SBATCH_ACCOUNT and its like win over what stands in a script (INPUT ENVIRONMENT VARIABLES in man sbatch)."""
    for name in sorted({name for one in work for name in one.options}):
        variable = _VARIABLES.get(name, f"SBATCH_{name.upper().replace('-', '_')}")
        if variable in os.environ:
            yield warning(
                "scripts", f"{variable}={os.environ[variable]} is set, and wins over --{name} in the scripts; unset it"
            )
