#!/usr/bin/env bash
# my trainer, stage 30-command on somewhere: the user's own program.
# By hand: bash '/scratch/runs/first run/scripts/30-command.sh'
# Written by hpcllm 0.1.0. Behind a line stands the key of the profile or the job that it comes from.

set -euo pipefail  # the first command that fails ends the script
RUN='/scratch/runs/first run'
# What all scripts have in common, explained there: log, signals, record, the way back into the queue.
# shellcheck disable=SC1091  # a run may lie elsewhere where this is checked
source "$RUN/env/lifecycle.bash"
begin stage=30-command ranks=1 ranks_per_node=1 interrupted_above=0 scheduler=none mpirun_signal=TERM \
  record=command
cd -- '/home/me/my code'

# ---- environment
PYTHON=/opt/hpcllm/bin/python  # software.python
export OMP_NUM_THREADS=4                  # nodes.cpu.cores: a thread for each core of a rank
export OMP_PROC_BIND=false                # nodes.cpu.cores: a pinned thread would pin its data loaders too
export PYTHONUNBUFFERED=1                 # job.command: its lines are in the log as they are printed
export GREETING='it'"'"'s 5 o'"'"'clock'  # job.environment.GREETING: the job's own

# ---- rendezvous: MASTER_ADDR and MASTER_PORT
rendezvous "$PYTHON"

# ---- launcher
launch=(  # software.mpi.launcher
  mpirun -n 1
)

# ---- launch
# shellcheck disable=SC2016  # what stands in quotes is data
start_ranks "${launch[@]}" bash -c "$AS_RANK" rank python train.py --data 'two words' '$(not run)'
conclude "$PYTHON"  # the exit code; 75, interrupted, goes back into the queue
