#!/usr/bin/env bash
# demo, stage 30-train on somewhere: train the model.
# By hand: bash '/scratch/runs/first run/scripts/30-train.sh', after shard
# Written by hpcllm 0.1.0. Behind a line stands the key of the profile or the job that it comes from.

set -euo pipefail  # the first command that fails ends the script
RUN='/scratch/runs/first run'
# What all scripts have in common, explained there: log, signals, record, the way back into the queue.
# shellcheck disable=SC1091  # a run may lie elsewhere where this is checked
source "$RUN/env/lifecycle.bash"
begin stage=30-train ranks=1 ranks_per_node=1 interrupted_above=128 scheduler=none mpirun_signal=TERM
cd -- "$RUN"

# ---- environment
PYTHON=/opt/hpcllm/bin/python  # software.python
export PYTHONPATH=$RUN/env/code${PYTHONPATH:+:$PYTHONPATH}  # the frozen hpcllm
export OMP_NUM_THREADS=4    # nodes.cpu.cores: a thread for each core of a rank
export OMP_PROC_BIND=false  # nodes.cpu.cores: a pinned thread would pin its data loaders too

# ---- launcher
launch=(  # software.mpi.launcher
  mpirun -n 1
)

# ---- launch
start_ranks "${launch[@]}" "$PYTHON" -uP -m hpcllm stage train "$RUN"
conclude "$PYTHON"  # the exit code; 75, interrupted, goes back into the queue
