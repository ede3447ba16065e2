#!/usr/bin/env bash
# Submits every stage of this run to Slurm, each after those that it needs. By hand: bash THIS
set -euo pipefail
RUN='/scratch/runs/first run'
if [[ -e $RUN/jobs.json ]]; then
  echo "$RUN was submitted already (jobs.json); this adds what is missing: hpcllm submit RUN" >&2
  exit 2
fi
mkdir -p -- "$RUN/logs"
jobs=()
trap '[[ ${#jobs[@]} == 0 ]] || scancel "${jobs[@]}"' ERR  # all of the DAG or none of it

tokenizer=$(sbatch --parsable '/scratch/runs/first run/scripts/10-tokenizer.sbatch')
tokenizer=${tokenizer%%;*} jobs+=("$tokenizer")
shard=$(sbatch --parsable --dependency=afterok:"$tokenizer" --kill-on-invalid-dep=yes '/scratch/runs/first run/scripts/20-shard.sbatch')
shard=${shard%%;*} jobs+=("$shard")
train=$(sbatch --parsable --dependency=afterok:"$shard" --kill-on-invalid-dep=yes '/scratch/runs/first run/scripts/30-train.sbatch')
train=${train%%;*} jobs+=("$train")
evaluate=$(sbatch --parsable --dependency=afterok:"$train" --kill-on-invalid-dep=yes '/scratch/runs/first run/scripts/40-evaluate.sbatch')
evaluate=${evaluate%%;*} jobs+=("$evaluate")
compress=$(sbatch --parsable --dependency=afterok:"$train" --kill-on-invalid-dep=yes '/scratch/runs/first run/scripts/50-compress.sbatch')
compress=${compress%%;*} jobs+=("$compress")
evaluate_compressed=$(sbatch --parsable --dependency=afterok:"$compress" --kill-on-invalid-dep=yes '/scratch/runs/first run/scripts/60-evaluate-compressed.sbatch')
evaluate_compressed=${evaluate_compressed%%;*} jobs+=("$evaluate_compressed")
gather=$(sbatch --parsable --dependency=afterok:"$evaluate":"$evaluate_compressed" --kill-on-invalid-dep=yes '/scratch/runs/first run/scripts/90-gather.sbatch')
gather=${gather%%;*} jobs+=("$gather")

printf '{"tokenizer": ["%s"], "shard": ["%s"], "train": ["%s"], "evaluate": ["%s"], "compress": ["%s"], "evaluate-compressed": ["%s"], "gather": ["%s"]}\n' "$tokenizer" "$shard" "$train" "$evaluate" "$compress" "$evaluate_compressed" "$gather" >"$RUN/jobs.json"
