#!/usr/bin/env bash
# demo, stage 30-train on somewhere: train the model.
# By hand: bash '/scratch/runs/first run/scripts/30-train.sh', after shard
# Written by hpcllm 0.1.0. Behind a line stands the key of the profile or the job that it comes from.

set -eo pipefail
RUN='/scratch/runs/first run'
cd -- "$RUN"
mkdir -p -- "$RUN/logs" "$RUN/state"
attempt=1
while [[ -e "$RUN/logs/30-train.$attempt.log" ]]; do attempt=$((attempt + 1)); done
log=$RUN/logs/30-train.$attempt.log
exec > >(tee -i -- "$log") 2>&1
# USR2 comes before the time limit, TERM when the job is stopped; both go to the ranks, which save.
child='' again='' warned='' code=0
trap 'warned=1 again=1; [[ -z $child ]] || kill -s "$signal" "$child" 2>/dev/null || true' USR2 TERM

# ---- software
set -u  # not before: sites' own scripts read variables that are not set

# ---- environment
PYTHON=/opt/hpcllm/bin/python  # software.python
export PYTHONPATH=$RUN/env/code${PYTHONPATH:+:$PYTHONPATH}  # the frozen hpcllm
export OMP_NUM_THREADS=4    # nodes.cpu.cores: a thread for each core of a rank
export OMP_PROC_BIND=false  # nodes.cpu.cores: a pinned thread would pin its data loaders too

# ---- launcher
launch=(  # software.mpi.launcher
  mpirun -n 1
)
signal=TERM

# ---- launch
[[ -z $again ]] || code=75  # told to stop before it began
if ((code == 0)); then
  "${launch[@]}" "$PYTHON" -uP -m hpcllm stage train "$RUN" &
  child=$!
  wait "$child" || code=$?
  while [[ -n $again ]]; do
    again='' code=0
    wait "$child" || code=$?
  done
fi

# ---- afterwards: 75 means interrupted, with everything saved
if ((code > 128)) && [[ -n $warned ]]; then code=75; fi  # warned before its ranks could hear it
exit "$code"
