"""The end of a script: what its exit code means, and its way back into the queue.

    75                interrupted with everything saved, or its nodes were to blame: goes on, max_requeues times at most
    0, all the others the end: another start would not help

Slurm by itself starts a job again after preemption and after a node that it knows is lost (--requeue). What it does not
see is here: a job that saved before its time limit or in a grace time, one whose node died faster than the controller
noticed, and one whose node is slow, as preflight found.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcllm.launch.submission.chain import NEXT


@dataclass(frozen=True)
class Afterwards:
    """What the end of one script is rendered from."""

    stage_id: str
    ranks_per_node: int
    for_slurm: bool
    is_command: bool
    is_training: bool
    max_requeues: int
    key: str
    """Where that number comes from."""
    python: str = '"$PYTHON"'
    """One of this machine: the program's own may be in an image."""
    by_pmi2: bool = False
    """Whether srun starts the ranks by its plugin pmi2."""
    is_chained: bool = False
    """Whether another job may stand in the queue to go on, since the site starts none again."""

    def lines(self) -> list[str]:
        """The lines of bash, of which the last exits."""
        pieces = (
            (_BAD_NODES, self.for_slurm),
            (_OWN_CODE, self.for_slurm),
            (_WARNED, self.is_command),
            (_TOO_EARLY, self.is_training),
            (_PREEMPTED, self.for_slurm),
            (_LOST_NODE, self.for_slurm),
            (_LOST_MESSAGE, self.by_pmi2),
            (NEXT if self.is_chained else _REQUEUE, self.for_slurm),
            ('exit "$code"', True),
        )
        return [self._filled(piece) for piece, wanted in pieces if wanted]

    def _filled(self, piece: str) -> str:
        words = {
            "@PYTHON@": self.python,
            "@RANKS_PER_NODE@": str(self.ranks_per_node),
            "@ENDED@": "trap - EXIT && ended 75 && " if self.is_command else "",
            "@MOST@": str(self.max_requeues),
            "@KEY@": self.key,
            "@ID@": self.stage_id,
        }
        for word, value in words.items():
            piece = piece.replace(word, value)
        return piece


_BAD_NODES = """\
bad_nodes() { PYTHONSAFEPATH=1 PYTHONPATH=$RUN/env/code @PYTHON@ -m hpcllm.launch.bad_nodes "$@"; }"""

_OWN_CODE = """\
# srun gives the highest code of all ranks, and those that it stopped after one left have more than 75.
if ((code > 75)) && grep -qE '^srun: error: .*: tasks? .*: Exited with exit code 75$' "$log"; then code=75; fi"""

_WARNED = """\
if [[ $code != 0 && -n $warned ]]; then code=75; fi  # it ended after its warning"""

# Other stages begin again from nothing: one that its time limit ends would only meet it again.
_TOO_EARLY = """\
if ((code > 128)) && [[ -n $warned ]]; then code=75; fi  # warned before its ranks could hear it"""

# squeue says N/A where a job is not being preempted, else when: as SLURM_TIME_FORMAT has it, which a job inherits.
_PREEMPTED = """\
# In its grace time before preemption Slurm tells the ranks, and not this script.
if ((code != 0)) && [[ $(squeue -h -j "${SLURM_JOB_ID:-0}" -O PreemptTime) == [0-9]* ]]; then code=75; fi"""

_LOST_NODE = """\
# Ranks whose peer is gone end with an error of their own; what srun said tells whether its node is gone.
if ((code != 0 && code != 75)) && [[ -n ${SLURM_JOB_ID:-} ]]; then
  mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  if bad_nodes lost "$RUN" "$log" @RANKS_PER_NODE@ "${nodes[@]}"; then code=75; fi
fi"""

# Seen with Slurm 22.05 and MPICH 5.0, twice in a run of the tests. The ranks wait for ever, until start_mpi ends them.
_LOST_MESSAGE = """\
# Slurm's pmi2 now and then cuts a message of MPI_Init; another start has every chance.
if ((code != 0 && code != 75)) && grep -q 'mpi/pmi2: invalid client request' "$log"; then code=75; fi"""

# Slurm takes a list of nodes to leave out of a waiting job alone. Requeueing ends this script by TERM, which must not
# come between; after KillWait (30 s by default) it is killed.
_REQUEUE = """\
if ((code == 75)) && [[ -z ${HPCLLM_FOREGROUND:-} ]]; then
  read -r state bad < <(squeue -h -j "$SLURM_JOB_ID" -o '%T %x') || true
  used=${SLURM_RESTART_COUNT:-0} bad=$(bad_nodes exclude "$RUN" "$bad" || true)
  if [[ $state != RUNNING ]]; then
    echo "interrupted: cancelled, or Slurm itself puts it back into the queue"
  elif ((used >= @MOST@)); then  # @KEY@
    echo "interrupted, and no requeue is left (@KEY@ allows @MOST@); goes on by: hpcllm submit $RUN"
    code=1
  elif [[ -n $bad ]] && ! sbatch --test-only --exclude="$bad" "$RUN/scripts/@ID@.sbatch"; then
    echo "interrupted, and there are not enough nodes without $bad (state/bad-nodes.json)"
    code=1
  else
    echo "interrupted: back into the queue ($used of @MOST@ requeues used)${bad:+, without $bad}"
    trap '' TERM
    @ENDED@scontrol requeue "$SLURM_JOB_ID"
    [[ -z $bad ]] || scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$bad"
  fi
fi"""
