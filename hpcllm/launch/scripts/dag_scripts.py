"""The DAG as a script: `submit.sh` hands every stage to Slurm, `run-local.sh` runs one after the other."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.array import indexes, jobs_of_array, missing_jobs
from hpcllm.launch.bad_nodes import bad_nodes, excluded
from hpcllm.launch.pipeline import Stage
from hpcllm.launch.scripts.shell import directives_in
from hpcllm.launch.submission.chain import ALONE, SEPARATOR, Link, dependency
from hpcllm.run_directory import Run


def sbatch_tokens(
    run: Run, stage: Stage, after: Sequence[str] = (), test_only: bool = False, link: Link = ALONE
) -> list[str]:
    """The one command that hands a stage to Slurm, whoever gives it. `after`: ids of jobs that must succeed before.

    Nodes that an earlier attempt found bad are left out, beside those that the script itself leaves out.
    A job whose dependency can no longer come true is cancelled, instead of waiting in the queue for ever.
    """
    needed = dependency(after, link)
    waits = [f"--dependency={needed}", "--kill-on-invalid-dep=yes"] if needed else []
    mode = ["--test-only"] if test_only else ["--parsable", *waits]
    exclude = [f"--exclude={excluded(run, _left_out(run.script(stage.id)))}"] if bad_nodes(run) else []
    return ["sbatch", *mode, *_of_array(run, stage), *exclude, str(run.script(stage.id)), *link.arguments]


def _of_array(run: Run, stage: Stage) -> list[str]:
    """The jobs of an array that have something to do, where these are not all."""
    if not stage.array or not run.state.exists():
        return []
    job, size = frozen_any_job(run), jobs_of_array(run, stage)
    missing = missing_jobs(run, stage, size)
    return [f"--array={indexes(size, job.slurm.at_a_time, missing)}"] if len(missing) < size else []


def _left_out(script: Path) -> str:
    """What a script's own directive leaves out, which the command line would replace."""
    head = "\n".join(directives_in(script.read_text(encoding="utf-8")))
    found = re.search(r'^#SBATCH --exclude="?([^"\s]+)', head, re.MULTILINE)
    return found[1] if found else ""


def trial_tokens(directives: Sequence[str]) -> list[str]:
    """The command that asks Slurm when a job with these directives would start; nothing is submitted."""
    return ["sbatch", "--test-only", *directives, "--wrap=true"]


def submit_sh(run: Run, stages: Iterable[Stage], lengths: Mapping[str, int] | None = None) -> str:
    """Plain sbatch calls for a fresh run directory; they say what they submitted in jobs.json, as `hpcllm submit`.

    `lengths`: how many jobs a stage is, one after another, where it is not one.
    """
    rows = list(stages)
    variables = {stage.name: _variables(stage.name, (lengths or {}).get(stage.name, 1)) for stage in rows}
    lines = [_submission(run, stage, variables) for stage in rows]
    record = ", ".join(f'"{stage.name}": ["%s"]' for stage in rows)
    ids = " ".join(f'"{SEPARATOR.join(f"${variable}" for variable in variables[stage.name])}"' for stage in rows)
    return f"""\
#!/usr/bin/env bash
# Submits every stage of this run to Slurm, each after those that it needs. By hand: bash THIS
set -euo pipefail
RUN={shlex.quote(str(run.root))}
if [[ -e $RUN/jobs.json ]]; then
  echo "$RUN was submitted already (jobs.json); this adds what is missing: hpcllm submit RUN" >&2
  exit 2
fi
mkdir -p -- "$RUN/logs"
jobs=()
trap '[[ ${{#jobs[@]}} == 0 ]] || scancel "${{jobs[@]}}"' ERR  # all of the DAG or none of it

{"".join(lines)}
printf '{{{record}}}\\n' {ids} >"$RUN/jobs.json"
"""


def run_local_sh(run: Run, scripts: Iterable[str]) -> str:
    """The same DAG in the foreground, on this machine or inside an allocation."""
    names = " ".join(map(shlex.quote, scripts))
    return f"""\
#!/usr/bin/env bash
# Runs every stage of this run here, one after the other: by mpirun, or inside an allocation by its srun.
# By hand: bash THIS. It stops at the first stage that fails; run again, it goes on where it stopped.
set -euo pipefail
export HPCLLM_FOREGROUND=1
scripts=({names})
for script in "${{scripts[@]}}"; do
  echo "---- $script"
  bash {shlex.quote(str(run.scripts))}/"$script"
done
"""


def _submission(run: Run, stage: Stage, variables: Mapping[str, Sequence[str]]) -> str:
    """An assignment for each of its jobs: the tokens of `sbatch_tokens`, with shell variables in place of ids."""
    after = [SEPARATOR.join(f"@{variable}@" for variable in variables[name]) for name in stage.after]
    own, lines = variables[stage.name], ""
    for i, variable in enumerate(own):
        link = Link(i + 1, len(own), tuple(f"@{before}@" for before in own[:i]))
        words = [_expanding(word) for word in sbatch_tokens(run, stage, after, link=link)]
        # --parsable says `ID` or `ID;CLUSTER`
        lines += f'{variable}=$({" ".join(words)})\n{variable}=${{{variable}%%;*}} jobs+=("${variable}")\n'
    return lines


def _expanding(word: str) -> str:
    """A word for bash, in which `@name@` of a dependency is a variable."""
    if not word.startswith("--dependency"):
        return shlex.quote(word)
    return re.sub(r"@(\w+)@", r'"$\1"', word).replace("?", '"?"')


def _variables(name: str, length: int) -> list[str]:
    """Names for the ids of a stage's jobs: `train`, or `train_1`, `train_2`, … for a chain."""
    variable = name.replace("-", "_")
    return [variable] if length == 1 else [f"{variable}_{i + 1}" for i in range(length)]
