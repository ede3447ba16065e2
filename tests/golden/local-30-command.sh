#!/usr/bin/env bash
# my trainer, stage 30-command on somewhere: the user's own program.
# By hand: bash '/scratch/runs/first run/scripts/30-command.sh'
# Written by hpcllm 0.1.0. Behind a line stands the key of the profile or the job that it comes from.

set -eo pipefail
RUN='/scratch/runs/first run'
cd -- '/home/me/my code'
mkdir -p -- "$RUN/logs" "$RUN/state"
attempt=1
while [[ -e "$RUN/logs/30-command.$attempt.log" ]]; do attempt=$((attempt + 1)); done
log=$RUN/logs/30-command.$attempt.log
exec > >(tee -i -- "$log") 2>&1
# USR2 comes before the time limit, TERM when the job is stopped; both go to the ranks, which save.
child='' again='' warned='' code=0
trap 'warned=1 again=1; [[ -z $child ]] || kill -s "$signal" "$child" 2>/dev/null || true' USR2 TERM

# ---- software
set -u  # not before: sites' own scripts read variables that are not set

# ---- environment
PYTHON=/opt/hpcllm/bin/python  # software.python
export OMP_NUM_THREADS=4                  # nodes.cpu.cores: a thread for each core of a rank
export OMP_PROC_BIND=false                # nodes.cpu.cores: a pinned thread would pin its data loaders too
export PYTHONUNBUFFERED=1                 # job.command: its lines are in the log as they are printed
export GREETING='it'"'"'s 5 o'"'"'clock'  # job.environment.GREETING: the job's own

# ---- rendezvous: this host, where rank 0 starts, and a port that its kernel says is free
MASTER_ADDR=127.0.0.1 MASTER_PORT=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export MASTER_ADDR MASTER_PORT

# ---- launcher
launch=(  # software.mpi.launcher
  mpirun -n 1
)
signal=TERM

# ---- state/30-command.json, which status and report read: complete or absent
hosts=$(hostname) job_id=null
start=$(date +%s)
record() { # OUTCOME EXIT_CODE END
  local file=$RUN/state/30-command.json
  {
    printf '{"stage": "command", "key": null, "attempt": %d, "outcome": "%s", "message": "", ' "$attempt" "$1"
    printf '"exit_code": %s, "job_id": %s, "host": "%s", "pid": %d, ' "$2" "$job_id" "$(hostname)" "$$"
    printf '"world_size": 1, "hosts": ["%s"], "start": %d, "end": %s}\n' \
      "${hosts//,/\", \"}" "$start" "$3"
  } >"$file.$$.tmp"
  mv -- "$file.$$.tmp" "$file"
}
# shellcheck disable=SC2317  # the trap calls it
ended() { # EXIT_CODE
  case $1 in
  0) record "done" 0 "$(date +%s)" ;;
  75) record interrupted 75 "$(date +%s)" ;;
  *) record failed "$1" "$(date +%s)" ;;
  esac
}
trap 'ended $?' EXIT
record running null null
# While this script lives, its record is touched: read gives 1 when its pipe ends, and over 128 when its time is up.
heartbeat() {
  while read -rt 10 || (($? > 128)) && kill -0 $$; do touch -c -- "$RUN/state/30-command.json" || true; done
}
# shellcheck disable=SC2034  # that it is open is all
exec {alive}> >(exec &>/dev/null && heartbeat)

# ---- launch
[[ -z $again ]] || code=75  # told to stop before it began
if ((code == 0)); then
  # shellcheck disable=SC2016  # the ranks expand it
  "${launch[@]}" bash -c 'export RANK=${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:-0}}} WORLD_SIZE=1
export LOCAL_RANK=${MPI_LOCALRANKID:-${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-0}}} LOCAL_WORLD_SIZE=1
export NODE_RANK=$((RANK / LOCAL_WORLD_SIZE))
exec -- "$@"' rank python train.py --data 'two words' '$(not run)' &
  child=$!
  wait "$child" || code=$?
  while [[ -n $again ]]; do
    again='' code=0
    wait "$child" || code=$?
  done
fi

# ---- afterwards: 75 means interrupted, with everything saved
if [[ $code != 0 && -n $warned ]]; then code=75; fi  # it ended after its warning
exit "$code"
