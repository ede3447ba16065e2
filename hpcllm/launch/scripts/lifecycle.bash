# shellcheck shell=bash
# What every script of a run has in common: the log of an attempt, signals, the record in state/, the start of the
# ranks, and what becomes of the job at its end. A script sources this file, and calls in this order:
#
#   begin NAME=VALUE...       opens the log; from here on a signal is remembered, and handed to the ranks
#   chain "$@"                one of several jobs that wait in the queue for the same stage
#   packed_environment ...    unpacks a Python environment on each node's own disk
#   rendezvous PYTHON         where rank 0 is to be found (MASTER_ADDR, MASTER_PORT)
#   check COMMAND...          a check that fails ends the job before its first step
#   start_ranks COMMAND...    starts them and waits
#   conclude PYTHON           what their exit code means: over, or back into the queue
#
# Exit codes: 0 done; 75 interrupted with everything saved, or its nodes were to blame: it goes on, max_requeues times
# at most; all others are the end, since another start would not help. Slurm by itself starts a job again after
# preemption and after a node that it knows is lost. What it does not see is here: a job that saved before its time
# limit, one whose node died faster than the controller noticed, one whose node is slow, as the checks found.

begin() {
  stage=''              # 30-train, as logs and records are called
  ranks=1               # in all
  ranks_per_node=1      #
  max_requeues=0        # how often an interrupted job goes back into the queue
  interrupted_above=255 # a higher exit code, after a warning, is an interruption: the program saves, and can go on
  mpirun_signal=USR2    # what mpirun hands on to its ranks; Hydra (MPICH, Intel MPI) dies of USR2, and hands on TERM
  scheduler=slurm       # or none: the script runs here
  record=''             # whose end is recorded: a stage of the user's own. Ours write their records themselves
  key=''                # of what it does: done once for this key, it is not done again
  tf_config=''          # whether each rank is a worker of TensorFlow
  array=1               # how many jobs the stage is, each with a part of the work
  part=''               # which of them this is; all: the work of all of them in turn, as where there is no array
  declare -g -- "$@"

  # One task of an array is 12_3: by SLURM_JOB_ID one of its tasks has the array's own id, which means all of them.
  job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
  job=${job:-${SLURM_JOB_ID:-}} foreground=${HPCLLM_FOREGROUND:-} chained='' PACKED=''
  if [[ $scheduler == none ]]; then job='' foreground=1; fi

  PART=()
  if in_queue && ((array > 1)); then part=${part:-${SLURM_ARRAY_TASK_ID:-}}; fi
  if [[ $part == all ]]; then part=''; fi
  # shellcheck disable=SC2034  # the script hands it to its ranks
  if [[ -n $part ]]; then PART=(--part "$part/$array"); fi

  mkdir -p -- "$RUN/logs" "$RUN/state"
  log=$RUN/logs/$stage${part:+_$part} attempt=1
  while [[ -e $log.$attempt.log ]]; do attempt=$((attempt + 1)); done
  log=$log.$attempt.log
  if in_queue; then exec >"$log" 2>&1; else exec > >(tee -i -- "$log") 2>&1; fi

  # USR2 comes before the time limit, TERM when the job is stopped; both go to the ranks, which save.
  child='' again='' warned='' code=0
  trap 'warned=1 again=1; [[ -z $child ]] || kill -s "$signal" "$child" 2>/dev/null || true' USR2 TERM
  if [[ -n $record ]]; then begin_record; fi
}

# Whether sbatch started it: in the foreground of an allocation (salloc) nothing is put back into the queue.
in_queue() { [[ -n $job && -z $foreground ]]; }

# ---- a stage as several jobs, where a site starts none again  # scheduler.requeue: false

# Each begins after one that ended without success. One that its node or the time limit took leaves no mark, and the
# next goes on; one that failed leaves a mark that ends the chain.
chain() { # NUMBER OF
  chained=1 number=${1:-1} of=${2:-1}
  if ((number == 1)); then rm -f -- "$RUN/state/$stage.failed"; fi
  if [[ -e $RUN/state/$stage.failed ]]; then
    echo "a job before this one failed: there is nothing to go on with"
    exit 1
  fi
}

# ---- the record of the user's own program: state/STAGE.json, complete or absent; status and report read it

begin_record() {
  if [[ -n $key ]] && grep -qs "\"key\": \"$key\".* \"outcome\": \"done\"" "$RUN/state/$stage.json"; then
    echo "$stage: done already, nothing to do"
    exit 0
  fi
  start=$(date +%s) hosts=$(hostname) job_id=null
  if [[ -n $job ]]; then
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd ,)
    job_id=\"$job\"
  fi
  trap 'ended $?' EXIT
  write_record running null null
  # shellcheck disable=SC2034  # that it is open is all
  exec {alive}> >(exec &>/dev/null && heartbeat)
}

write_record() { # OUTCOME EXIT_CODE END
  local file=$RUN/state/$stage.json of_what=${key:+\"$key\"}
  {
    printf '{"stage": "%s", "key": %s, "attempt": %d, ' "$record" "${of_what:-null}" "$attempt"
    printf '"outcome": "%s", "message": "", "exit_code": %s, "job_id": %s, ' "$1" "$2" "$job_id"
    printf '"host": "%s", "pid": %d, "world_size": %d, ' "$(hostname)" "$$" "$ranks"
    printf '"hosts": ["%s"], "start": %d, "end": %s}\n' "${hosts//,/\", \"}" "$start" "$3"
  } >"$file.$$.tmp"
  mv -- "$file.$$.tmp" "$file"
}

ended() { # EXIT_CODE
  case $1 in
  0) write_record "done" 0 "$(date +%s)" ;;
  75) write_record interrupted 75 "$(date +%s)" ;;
  *) write_record failed "$1" "$(date +%s)" ;;
  esac
}

# While the script lives, its record is touched: read gives 1 when its pipe ends, and over 128 when its time is up.
heartbeat() {
  while read -rt 10 || (($? > 128)) && kill -0 $$; do touch -c -- "$RUN/state/$stage.json" || true; done
}

# ---- the ranks

# Rank 0 starts on this host (the shell of salloc may be elsewhere), and its kernel knows a port that is free.
rendezvous() { # PYTHON
  MASTER_ADDR=127.0.0.1
  if in_queue; then
    MASTER_ADDR=$(hostname)
  elif [[ -n $job ]]; then
    read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  fi
  MASTER_PORT=$("$1" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
  export MASTER_ADDR MASTER_PORT
  AS_RANK="export WORLD_SIZE=$ranks LOCAL_WORLD_SIZE=$ranks_per_node$own_place"
  if [[ -n $tf_config ]]; then
    TF_WORKERS=$(tf_workers)
    export TF_WORKERS=${TF_WORKERS#, }
    AS_RANK+=$own_tf_config
  fi
  # shellcheck disable=SC2016  # the rank expands it
  AS_RANK+='exec -- "$@"'
}

# Where a rank learns its place: Hydra and srun --mpi=pmi2 (PMI_RANK), Open MPI's mpirun, or plain srun, in this order,
# because ranks under mpirun inside a Slurm job also see the SLURM_PROCID of what started them.
# shellcheck disable=SC2016  # the rank expands it
own_place='
export RANK=${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:-0}}}
export LOCAL_RANK=${MPI_LOCALRANKID:-${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-0}}}
export NODE_RANK=$((RANK / LOCAL_WORLD_SIZE))
'

# https://www.tensorflow.org/guide/distributed_training, "TF_CONFIG"
# shellcheck disable=SC2016  # the rank expands it
own_tf_config='task="{\"type\": \"worker\", \"index\": $RANK}"
export TF_CONFIG="{\"cluster\": {\"worker\": [$TF_WORKERS]}, \"task\": $task}"
'

# The addresses of all ranks, in their order; nobody can know ports that are free everywhere, these likely are.
tf_workers() {
  local host port all=()
  read -ra all <<<"${hosts//,/ }"
  for host in "${all[@]}"; do
    [[ -n $job ]] || host=127.0.0.1
    for ((port = MASTER_PORT + 1; port <= MASTER_PORT + ranks / ${#all[@]}; port++)); do
      printf ', "%s:%d"' "$host" "$port"
    done
  done
}

check() { "$@" || code=$?; }

# They run behind and bash waits for them, because bash runs a trap only between two commands. A signal ends the wait
# early; then bash waits again, for the launcher's own exit code.
start_ranks() {
  if [[ -n $again ]]; then code=75; fi # told to stop before it began
  if ((code != 0)); then return 0; fi
  signal=USR2
  if [[ ${1##*/} != srun ]]; then signal=$mpirun_signal; fi
  "$@" &
  child=$!
  wait "$child" || code=$?
  while [[ -n $again ]]; do
    again='' code=0
    wait "$child" || code=$?
  done
}

# ---- the end

conclude() { # PYTHON
  if [[ -n $PACKED ]]; then "${once[@]}" rm -rf -- "$PACKED" || true; fi # the nodes' disks as they were
  if ((code != 0 && code != 75)) && was_interrupted "$1"; then code=75; fi
  if [[ -n $chained ]]; then
    leave_to_the_next "$1"
  elif ((code == 75)) && in_queue; then
    requeue "$1"
  fi
  exit "$code"
}

was_interrupted() { # PYTHON
  # srun gives the highest code of all ranks, and those that it stopped after one left have more than 75.
  if ((code > 75)) && grep -qE '^srun: error: .*: tasks? .*: Exited with exit code 75$' "$log"; then return 0; fi
  # It ended after its warning, perhaps before its ranks could hear it.
  if [[ -n $warned ]] && ((code > interrupted_above)); then return 0; fi
  if [[ -z $job ]]; then return 1; fi
  # In its grace time before preemption Slurm tells the ranks, and not this script. squeue says N/A where a job is not
  # being preempted, else when: as SLURM_TIME_FORMAT has it, which a job inherits.
  if [[ $(squeue -h -j "$job" -O PreemptTime) == [0-9]* ]]; then return 0; fi
  # Slurm's pmi2 now and then cuts a message of MPI_Init; another start has every chance. Seen with Slurm 22.05 and
  # MPICH 5.0: the ranks wait for ever, until the start of MPI is given up.
  if grep -q 'mpi/pmi2: invalid client request' "$log"; then return 0; fi
  # Ranks whose peer is gone end with an error of their own; what srun said tells whether its node is gone.
  local nodes
  mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  bad_nodes "$1" lost "$RUN" "$log" "$ranks_per_node" "${nodes[@]}"
}

# Any exit code but 0 releases the next job of a chain.
leave_to_the_next() { # PYTHON
  if ((code == 75 && number < of)); then
    echo "interrupted: job $((number + 1)) of $of goes on"
    if in_queue; then leave_out_of_the_chain "$1"; fi
  elif ((code == 75)) && in_queue; then
    echo "interrupted, and no job is left that goes on (scheduler.requeue: false); hpcllm submit $RUN"
    code=1
  elif ((code != 0 && code != 75)); then
    : >"$RUN/state/$stage.failed"
  fi
}

# The bad nodes are left out of the jobs of a chain that still wait. Where too few would be left, they are tried again.
leave_out_of_the_chain() { # PYTHON
  local id command state bad
  read_bad_nodes "$1"
  if [[ -z $bad ]] || ! can_do_without "$bad"; then return 0; fi
  while read -r id command; do
    [[ $command == "$RUN/scripts/$stage.sbatch "* ]] || continue
    scontrol update JobId="$id" ExcNodeList="$bad" && echo "job $id does without $bad"
  done < <(squeue -h -u "$(id -un)" -t PENDING -o '%A %o')
}

# Slurm takes a list of nodes to leave out of a waiting job alone. Requeueing ends this script by TERM, which must not
# come between; after KillWait (30 s by default) it is killed.
requeue() { # PYTHON
  local state bad used=${SLURM_RESTART_COUNT:-0}
  read_bad_nodes "$1"
  if [[ $state != RUNNING ]]; then
    echo "interrupted: cancelled, or Slurm itself puts it back into the queue"
  elif ((max_requeues == 0)); then
    echo "interrupted, and nothing starts it again (job.slurm.max_requeues: 0, or scheduler.requeue: false);" \
      "goes on by: hpcllm submit $RUN"
    code=1
  elif ((used >= max_requeues)); then
    echo "interrupted, and no requeue is left (job.slurm.max_requeues allows $max_requeues);" \
      "goes on by: hpcllm submit $RUN"
    code=1
  elif [[ -n $bad ]] && ! can_do_without "$bad"; then
    code=1
  else
    echo "interrupted: back into the queue ($used of $max_requeues requeues used)${bad:+, without $bad}"
    trap '' TERM
    if [[ -n $record ]]; then trap - EXIT && ended 75; fi
    scontrol requeue "$job"
    [[ -z $bad ]] || scontrol update JobId="$job" ExcNodeList="$bad"
  fi
}

# What Slurm says of this job into `state`, and all nodes that another start leaves out into `bad`.
read_bad_nodes() { # PYTHON
  read -r state bad < <(squeue -h -j "$job" -o '%T %x') || true
  bad=$(bad_nodes "$1" exclude "$RUN" "$bad" || true)
}

can_do_without() { # NODES
  if sbatch --test-only --exclude="$1" "$RUN/scripts/$stage.sbatch"; then return 0; fi
  echo "interrupted, and there are not enough nodes without $1 (state/bad-nodes.json)"
  return 1
}

bad_nodes() { # PYTHON VERB...
  PYTHONSAFEPATH=1 PYTHONPATH=$RUN/env/code "$1" -m hpcllm.launch.bad_nodes "${@:2}"
}

# ---- a packed Python environment: sent to each node's own disk once, and unpacked there once

# A thousand ranks that import torch open ten thousand small files each; a parallel filesystem answers for each of them
# from one metadata server. One archive is one large read, sent on from node to node by sbcast.
packed_environment() { # DISK ARCHIVE NODES
  local archive=$2 send=(cp)
  PACKED=$1/hpcllm-env-${job:-$$} once=(env)
  if [[ -n $job ]]; then
    send=(sbcast --force) once=(srun --mpi=none "--nodes=$3" "--ntasks=$3" --ntasks-per-node=1)
  fi
  if [[ -d $archive ]]; then # a folder: this node alone reads its small files
    (cd -- "$archive" && tar --force-local -cf "$PACKED.tar" .)
    archive=$PACKED.tar
  fi
  "${send[@]}" "$archive" "$PACKED.archive"
  "${once[@]}" bash -c "$unpack" unpack "$PACKED" "$archive"
  rm -f -- "$PACKED.tar"
  export PATH=$PACKED/bin:$PATH
  if [[ -e $PACKED/conda-meta ]]; then export CONDA_PREFIX=$PACKED; else export VIRTUAL_ENV=$PACKED; fi
  local hook
  for hook in "$PACKED"/etc/conda/activate.d/*.sh; do
    # shellcheck disable=SC1090  # what packages of conda set
    [[ ! -e $hook ]] || source "$hook"
  done
}

# conda-pack's own script corrects the paths inside; pip's programs name, in their first line, the interpreter that
# they were installed for. rm comes first, since a job that starts again may find what its last attempt left. tar would
# take a colon for another host and a backslash in -C for an escape, and sed's own letters in a path for commands.
# shellcheck disable=SC2016  # the nodes expand it
unpack='set -e; rm -rf -- "$1"; mkdir -m 700 -- "$1"
case $2 in
*.sqsh | *.sqfs | *.squashfs) unsquashfs -quiet -no-progress -force -dest "$1" "$1.archive" ;;
*) (cd -- "$1" && tar --force-local -xf "$1.archive") ;;
esac
rm -- "$1.archive"
if [[ ! -e $1/bin/python ]]; then echo "$2 holds no bin/python; pack it by: tar -C ENVIRONMENT -czf FILE ."; exit 2; fi
if [[ -e $1/bin/conda-unpack ]]; then "$1/bin/python" "$1/bin/conda-unpack"; fi
here=$(sed "s/[\\&|]/\\&/g" <<<"$1")
grep -lIrE "^#!/.*/python[0-9.]*$" "$1/bin" | while read -r file; do
  [[ -L $file ]] || sed -i -E "1s|^#!/.*/(python[0-9.]*)$|#!$here/bin/\1|" "$file"
done'
