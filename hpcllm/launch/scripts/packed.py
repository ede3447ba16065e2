"""A packed Python environment: sent to each node's own disk once, unpacked there once, and used by all of its ranks.

A thousand ranks that import torch open ten thousand small files each; a parallel filesystem answers for each of them
from one metadata server. One archive is one large read, sent on from node to node by sbcast.
"""

from __future__ import annotations

from hpcllm.derive.setting import Packed
from hpcllm.launch.scripts.shell import expanding, quoted

PYTHON = "$PACKED/bin/python"  # where the script finds its interpreter

# conda-pack's own script corrects the paths inside; pip's programs name, in their first line, the interpreter that
# they were installed for. rm comes first, since a job that starts again may find what its last attempt left. tar would
# take a colon for another host and a backslash in -C for an escape, and sed's own letters in a path for commands.
_UNPACK = """\
set -e; rm -rf -- "$1"; mkdir -m 700 -- "$1"
case $2 in
*.sqsh | *.sqfs | *.squashfs) unsquashfs -quiet -no-progress -force -dest "$1" "$1.archive" ;;
*) (cd -- "$1" && tar --force-local -xf "$1.archive") ;;
esac
rm -- "$1.archive"
if [[ ! -e $1/bin/python ]]; then echo "$2 holds no bin/python; pack it by: tar -C ENVIRONMENT -czf FILE ."; exit 2; fi
if [[ -e $1/bin/conda-unpack ]]; then "$1/bin/python" "$1/bin/conda-unpack"; fi
here=$(sed "s/[\\\\&|]/\\\\&/g" <<<"$1")
grep -lIrE "^#!/.*/python[0-9.]*$" "$1/bin" | while read -r file; do
  [[ -L $file ]] || sed -i -E "1s|^#!/.*/(python[0-9.]*)$|#!$here/bin/\\1|" "$file"
done"""

_SEND = """\
if [[ -d $archive ]]; then  # a folder: this node alone reads its small files
  (cd -- "$archive" && tar --force-local -cf "$PACKED.tar" .) && archive=$PACKED.tar
fi
send=(sbcast --force)
[[ -n ${SLURM_JOB_ID:-} ]] || send=(cp)
"${send[@]}" "$archive" "$PACKED.archive"
"${once[@]}" bash -c "$unpack" unpack "$PACKED" "$archive"
rm -f -- "$PACKED.tar"
export PATH=$PACKED/bin:$PATH
if [[ -e $PACKED/conda-meta ]]; then export CONDA_PREFIX=$PACKED; else export VIRTUAL_ENV=$PACKED; fi
for hook in "$PACKED"/etc/conda/activate.d/*.sh; do
  # shellcheck disable=SC1090  # what packages of conda set
  [[ ! -e $hook ]] || source "$hook"
done"""


def lines(packed: Packed, nodes: int) -> list[str]:
    """Send and unpack it, and put it first on PATH."""
    once = f"srun --mpi=none --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1"
    return [
        f"disk={_disk(packed.disk)}",
        "PACKED=$disk/hpcllm-env-${SLURM_JOB_ID:-$$}",
        f"archive={quoted(packed.source)}  # {packed.key}.path",
        f"once=({once})  # on each node",
        "[[ -n ${SLURM_JOB_ID:-} ]] || once=(env)",
        "# shellcheck disable=SC2016  # the nodes expand it",
        f"unpack='{_UNPACK}'",
        _SEND,
    ]


def removal() -> str:
    """What a node's disk is left as."""
    return '"${once[@]}" rm -rf -- "$PACKED" || true  # the nodes\' disks as they were'


def _disk(path: str) -> str:
    """Of the profile: plain variables in it are the node's. Ours has a default, which `expanding` does not know."""
    return path if path == "${TMPDIR:-/tmp}" else expanding(path)
