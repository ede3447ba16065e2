"""The DAG as a script: `submit.sh` hands every stage to Slurm, `run-local.sh` runs one after the other."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from hpcllm.launch.pipeline import Stage
from hpcllm.run_directory import Run


def sbatch_tokens(run: Run, stage: Stage, after: Sequence[str] = (), test_only: bool = False) -> list[str]:
    """The one command that hands a stage to Slurm, whoever gives it. `after`: ids of jobs that must succeed before.

    A job whose dependency can no longer come true is cancelled, instead of waiting in the queue for ever.
    """
    dependency = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    mode = ["--test-only"] if test_only else ["--parsable", *dependency]
    return ["sbatch", *mode, str(run.script(stage.id))]


def submit_sh(run: Run, stages: Iterable[Stage]) -> str:
    """Plain sbatch calls for a fresh run directory; they say what they submitted in jobs.json, as `hpcllm submit`."""
    rows = list(stages)
    lines = [_submission(run, stage) for stage in rows]
    record = ", ".join(f'"{stage.name}": ["%s"]' for stage in rows)
    ids = " ".join(f'"${_variable(stage.name)}"' for stage in rows)
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


def _submission(run: Run, stage: Stage) -> str:
    """One assignment: the tokens of `sbatch_tokens`, with shell variables where the ids of the jobs before will be."""
    variable = _variable(stage.name)
    words = sbatch_tokens(run, stage, [f"@{_variable(name)}@" for name in stage.after])
    quoted = [_with_variables(word, stage) if word.startswith("--dependency") else shlex.quote(word) for word in words]
    # --parsable says `ID` or `ID;CLUSTER`
    return f'{variable}=$({" ".join(quoted)})\n{variable}=${{{variable}%%;*}} jobs+=("${variable}")\n'


def _with_variables(word: str, stage: Stage) -> str:
    for name in map(_variable, stage.after):
        word = word.replace(f"@{name}@", f'"${name}"')
    return word


def _variable(name: str) -> str:
    return name.replace("-", "_")
