#!/usr/bin/env bash
# Runs every stage of this run here, one after the other: by mpirun, or inside an allocation by its srun.
# By hand: bash THIS. It stops at the first stage that fails; run again, it goes on where it stopped.
set -euo pipefail
export HPCLLM_FOREGROUND=1
scripts=(10-tokenizer.sbatch 20-shard.sbatch 30-train.sbatch 40-evaluate.sbatch 50-compress.sbatch 60-evaluate-compressed.sbatch 90-gather.sbatch)
for script in "${scripts[@]}"; do
  echo "---- $script"
  bash '/scratch/runs/first run/scripts'/"$script"
done
