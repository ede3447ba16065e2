"""What a script has around a program of the user's: a rendezvous, the place of each rank, and the record of its end."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class OwnProgram:
    """One program and the ranks that it runs on."""

    command: tuple[str, ...]
    stage_id: str
    name: str
    """Of its stage."""
    key: str | None
    """Of what it does (launch/key.py): done once for this key, it is not done again. None: each start does it."""
    world_size: int
    ranks_per_node: int
    for_slurm: bool
    tf_config: bool = False

    def rendezvous(self, python: str) -> list[str]:
        """Where rank 0 is to be found; `python` is one of this machine."""
        host = '"$(hostname)"' if self.for_slurm else "127.0.0.1"
        port = 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
        return [
            f"MASTER_ADDR={host} MASTER_PORT=$({python} -c {shlex.quote(port)})",
            *([_FIRST_NODE] if self.for_slurm else []),
            "export MASTER_ADDR MASTER_PORT",
        ]

    def hosts(self) -> list[str]:
        """Lines for the names of the nodes and the id of the job, of an array with its task."""
        return ["hosts=$(hostname) job_id=null", *([_SLURM_HOSTS] if self.for_slurm else [])]

    def record(self) -> list[str]:
        """Lines that say in state/ what becomes of it, complete or not at all."""
        done = _DONE.replace("@KEY@", self.key or "").replace("@ID@", self.stage_id)
        words = {
            "@ID@": self.stage_id,
            "@NAME@": self.name,
            "@KEY@": f'"{self.key}"' if self.key else "null",
            "@WORLD_SIZE@": str(self.world_size),
        }
        text = _RECORD
        for word, value in words.items():
            text = text.replace(word, value)
        return [*([done] if self.key else []), *self.hosts(), text]

    def workers(self) -> list[str]:
        """Lines for the addresses of all ranks; nobody can know ports that are free everywhere, these likely are."""
        host = "$host" if self.for_slurm else "127.0.0.1"
        return _WORKERS.replace("@HOST@", host).replace("@WORLD_SIZE@", str(self.world_size)).splitlines()

    def words(self) -> str:
        """What the launcher starts: each rank learns its place, and becomes the program."""
        ranks = _RANKS.replace("@SIZE@", str(self.world_size)).replace("@LOCAL@", str(self.ranks_per_node))
        ranks += _TF_CONFIG if self.tf_config else ""
        if ":" in self.command:  # srun and Hydra take such a word for the beginning of another program
            return f"bash -c {shlex.quote(f'{ranks}exec -- {shlex.join(self.command)}')}"
        return f"bash -c {shlex.quote(ranks + _BECOME)} rank {shlex.join(self.command)}"


# Where a rank learns its place: Hydra and srun --mpi=pmi2 (PMI_RANK), Open MPI's mpirun, or plain srun, in this order,
# because ranks under mpirun inside a Slurm job also see the SLURM_PROCID of what started them.
_RANKS = """\
export RANK=${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:-0}}} WORLD_SIZE=@SIZE@
export LOCAL_RANK=${MPI_LOCALRANKID:-${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-0}}} LOCAL_WORLD_SIZE=@LOCAL@
export NODE_RANK=$((RANK / LOCAL_WORLD_SIZE))
"""
_BECOME = 'exec -- "$@"'

# https://www.tensorflow.org/guide/distributed_training, "TF_CONFIG"
_TF_CONFIG = """\
task="{\\"type\\": \\"worker\\", \\"index\\": $RANK}"
export TF_CONFIG="{\\"cluster\\": {\\"worker\\": [$TF_WORKERS]}, \\"task\\": $task}"
"""

_WORKERS = """\
workers() {
  local host port all=()
  read -ra all <<<"${hosts//,/ }"
  for host in "${all[@]}"; do
    for ((port = MASTER_PORT + 1; port <= MASTER_PORT + @WORLD_SIZE@ / ${#all[@]}; port++)); do
      printf ', "%s:%d"' "@HOST@" "$port"
    done
  done
}
TF_WORKERS=$(workers)
export TF_WORKERS=${TF_WORKERS#, }"""

_FIRST_NODE = (
    "[[ -z ${HPCLLM_FOREGROUND:-} || -z ${SLURM_JOB_ID:-} ]] || "
    'read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")  # the shell of salloc may be elsewhere'
)

_SLURM_HOSTS = (
    '[[ -z ${SLURM_JOB_ID:-} ]] || { hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd ,)'
    ' job_id=\\"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}\\"; }'
)

_DONE = """\
if grep -qs '"key": "@KEY@".* "outcome": "done"' "$RUN/state/@ID@.json"; then
  echo "@ID@: done already, nothing to do"
  exit 0
fi"""

_RECORD = """\
start=$(date +%s)
record() { # OUTCOME EXIT_CODE END
  local file=$RUN/state/@ID@.json
  {
    printf '{"stage": "@NAME@", "key": @KEY@, "attempt": %d, "outcome": "%s", "message": "", ' "$attempt" "$1"
    printf '"exit_code": %s, "job_id": %s, "host": "%s", "pid": %d, ' "$2" "$job_id" "$(hostname)" "$$"
    printf '"world_size": @WORLD_SIZE@, "hosts": ["%s"], "start": %d, "end": %s}\\n' \\
      "${hosts//,/\\", \\"}" "$start" "$3"
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
  while read -rt 10 || (($? > 128)) && kill -0 $$; do touch -c -- "$RUN/state/@ID@.json" || true; done
}
# shellcheck disable=SC2034  # that it is open is all
exec {alive}> >(exec &>/dev/null && heartbeat)"""
