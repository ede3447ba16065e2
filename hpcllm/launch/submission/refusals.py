"""What sbatch refuses a job with, in a line, and what to do about it."""

from __future__ import annotations

# By what it says. The words are Slurm's (slurm_errno.c).
_REMEDIES = {
    "configuration source": "this machine belongs to no Slurm cluster; go to a login node, or set SLURM_CONF",
    "account": "give another one: --account NAME (sacctmgr show associations user=$USER lists yours)",
    "qos": "give another one: --qos NAME (sacctmgr show associations user=$USER format=account,qos lists yours)",
    "time limit": "ask for less: --time, or another --partition (sinfo -o '%P %l' shows the limits)",
    "partition": "give another one: --partition NAME (sinfo -s lists them)",
    "node configuration": "ask for less on each node, or correct the profile (sinfo -N -l shows the nodes)",
    "node count": "ask for fewer --nodes (sinfo -o '%P %D' shows how many there are)",
    "memory": "ask for less memory, or correct nodes.*.memory in the profile",
    "limit": "ask for fewer nodes or less time, or another --qos",
}


def slurm_words(stderr: str) -> str:
    """What sbatch refuses a job with, in a line."""
    lines = [line.split("error:")[-1].removeprefix("allocation failure:").strip() for line in stderr.splitlines()]
    return " ".join(dict.fromkeys(line for line in lines if line)) or "refused without a word"


def remedy(said: str) -> str:
    """What to do about it."""
    found = (remedy for word, remedy in _REMEDIES.items() if word in said.lower())
    return next(found, "correct it, render again")
