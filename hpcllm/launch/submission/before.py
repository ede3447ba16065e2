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
from hpcllm.launch.submission.finding import Finding, good, refusal, warning
from hpcllm.launch.submission.refusals import remedy, slurm_words
from hpcllm.launch.submission.room import room
from hpcllm.launch.submission.site_rules import account_findings, limit_findings, look_up, partition_findings
from hpcllm.launch.tracking.slurm import slurm
from hpcllm.run_directory import Run

MOST_AT_ONCE = 8  # questions to Slurm

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
        yield refusal("scripts", f"{', '.join(names)}: Slurm refuses it: {said}; {remedy(said)}")
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
