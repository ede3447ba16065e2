"""Our script beside the one that a site publishes: what differs, and which differences are the same for every site."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from emulated_site import SECTIONS, Section, Site, Value

# sbatch's other words for the same option (man sbatch).
LONG_NAME = {
    "A": "account",
    "C": "constraint",
    "c": "cpus-per-task",
    "e": "error",
    "G": "gpus",
    "J": "job-name",
    "N": "nodes",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "t": "time",
    "tasks-per-node": "ntasks-per-node",
}

# What every script of ours says more than published ones do. Where a site publishes a value for it, it is compared.
OURS_EVERYWHERE = {
    "directives.job-name": "shown by squeue",
    "directives.output": "the log stands in the run directory",
    "directives.nodes": "how many is always said",
    "directives.time": "how long is always said",
    "directives.ntasks-per-node": "how many ranks is always said",
    "directives.cpus-per-task": "how many CPUs a rank has is always said",
    "directives.signal": "a warning before the limit, to save",
    "directives.open-mode": "a job that starts again keeps its log",
    "directives.requeue": "whether a job may start again is said, not left to the site's default",
    "directives.no-requeue": "whether a job may start again is said, not left to the site's default",
    "environment.OMP_NUM_THREADS": "a thread for each core of a rank",
    "environment.OMP_PROC_BIND": "the launcher binds ranks; pinned threads would pin their data loaders",
    "environment.SRUN_CPUS_PER_TASK": "since Slurm 22.05 srun does not inherit it",
    "environment.TMPDIR": "temporary files on the node's own disk or memory",
    "environment.TRITON_CACHE_DIR": "compiled kernels on the node's own disk or memory",
    "environment.TORCHINDUCTOR_CACHE_DIR": "compiled kernels on the node's own disk or memory",
    "environment.HF_HUB_OFFLINE": "where compute nodes reach no internet, libraries do not try",
    "environment.HF_DATASETS_OFFLINE": "where compute nodes reach no internet, libraries do not try",
    "environment.WANDB_MODE": "where compute nodes reach no internet, libraries do not try",
    "environment.GLOO_SOCKET_IFNAME": "Gloo meets where NCCL does",
    "environment.OMPI_MCA_pml": "Open MPI over the site's kind of fabric",
    "environment.MPICH_GPU_SUPPORT_ENABLED": "GPU-aware MPI can deadlock beside NCCL and RCCL",
    "environment.PYTHONUNBUFFERED": "lines reach the log as they are printed",
    "environment.MASTER_ADDR": "a trainer of any framework finds rank 0",
    "environment.MASTER_PORT": "a trainer of any framework finds rank 0",
    "environment.RANK": "a trainer of any framework finds its place",
    "environment.WORLD_SIZE": "a trainer of any framework finds its place",
    "environment.LOCAL_RANK": "a trainer of any framework finds its place",
    "environment.LOCAL_WORLD_SIZE": "a trainer of any framework finds its place",
    "environment.NODE_RANK": "a trainer of any framework finds its place",
    "launcher.nodes": "the step takes all nodes, said again",
    "launcher.ntasks": "the step's ranks, said again",
    "launcher.ntasks-per-node": "the step's ranks, said again",
    "launcher.cpus-per-task": "since Slurm 22.05 srun does not inherit it",
    "launcher.cpu-bind": "each rank has cores of its own, beside its GPU",
    "launcher.kill-on-bad-exit": "one rank's failure ends all",
    "launcher.wait": "one rank's failure ends all",
    "launcher.label": "each line with its rank",
}

# Whose value is the user's, or is found when the job runs: that both sides have it is what is compared.
VALUE_IS_FREE = {
    *(f"directives.{name}" for name in ("account", "job-name", "output", "error", "mail-user")),
    *(f"environment.{name}" for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "NODE_RANK")),
    "environment.WORLD_SIZE",
}

# What `rendezvous` of lifecycle.bash gives to each rank; that it arrives is seen where the script runs.
BY_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")

LEFT_OUT = "…"  # a published value that a fixture does not repeat


@dataclass(frozen=True)
class ScriptSettings:
    """What a script asks Slurm for, exports, and starts its ranks with."""

    directives: dict[str, str]
    environment: dict[str, str]
    launcher: dict[str, str]
    starter: str
    """srun or mpirun."""

    def section(self, name: Section) -> dict[str, str]:
        """One of the three."""
        return {"directives": self.directives, "environment": self.environment, "launcher": self.launcher}[name]


def read_script(text: str) -> ScriptSettings:
    """The settings of one of our scripts, as bash and sbatch read them."""
    starter, launcher = _launcher(text)
    return ScriptSettings(_directives(text), _environment(text), launcher, starter)


def differences(site: Site, ours: ScriptSettings) -> dict[str, str]:
    """`section.key` -> what stands there, for everything that ours and the published script say differently."""
    found = {}
    for section in SECTIONS:
        published: dict[str, Value] = getattr(site.published, section)
        theirs = {LONG_NAME.get(key, key): value for key, value in published.items()}
        for key in dict.fromkeys([*theirs, *ours.section(section)]):
            name = f"{section}.{key}"
            if text := _difference(name, theirs, ours.section(section), ours.directives):
                found[name] = text
    return found


def _known(value: Value, directives: dict[str, str]) -> Value:
    """Slurm's variable for what our own directives say."""
    return directives.get("cpus-per-task") if value == "$SLURM_CPUS_PER_TASK" else value


def _difference(name: str, theirs: dict[str, Value], ours: dict[str, str], directives: dict[str, str]) -> str:
    """The two values, or nothing where they agree."""
    key = name.split(".", 1)[1]
    if key not in theirs:
        return "" if name in OURS_EVERYWHERE else f"ours alone: {ours[key]!r}"
    if key not in ours:
        return f"published alone: {theirs[key]!r}"
    free = name in VALUE_IS_FREE or theirs[key] == LEFT_OUT
    same = free or normal(key, _known(theirs[key], directives)) == normal(key, ours[key])
    return "" if same else f"ours {ours[key]!r}, published {theirs[key]!r}"


def normal(key: str, value: Value) -> str:
    """One writing for what means the same: `1:00:00` and `01:00:00`, `60G` and `61440M`, a flag as true or empty."""
    text = "" if value is None or value is True else str(value).strip()
    if key == "time":
        return f"{slurm_seconds(text)} s"
    if matched := re.fullmatch(r"(\d+)([KMGT]?)B?", text) if key.startswith("mem") else None:
        return f"{int(matched[1]) * 1024 ** 'KMGT'.index(matched[2] or 'M')} KiB"
    if key == "cpu-bind":  # v, is verbose; Slurm reads = as :, and masks as numbers
        text = re.sub(r"\b(0x)?0*([0-9a-f]+)\b", r"\2", text.removeprefix("v,").replace("=", ":"))
    return text


def slurm_seconds(text: str) -> int:
    """As Slurm writes times: `90` (minutes), `90:00`, `1:30:00`, `1-02`, `1-02:30`, `1-02:30:00` -> seconds."""
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if not dash:  # minutes, minutes:seconds, hours:minutes:seconds
        parts = [0] * (len(parts) < 3) + parts
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


# ---- rules -----------------------------------------------------------------------------------------------------------

RULE = re.compile(
    r"(?P<name>(?:srun )?--[a-z-]+|[A-Z][A-Z0-9_]+)(?:=(?P<value>\S+))? must (?P<not>not )?be (?:given|set)\b"
)


def broken_rules(site: Site, ours: ScriptSettings) -> Iterator[str]:
    """The rules that our script does not keep; a sentence that nobody can check is broken too."""
    for rule in site.published.rules:
        matched = RULE.match(rule)
        if matched is None:
            yield f"cannot be checked, which needs NAME[=VALUE] must (not) be given: {rule}"
        elif _kept(matched, ours) == bool(matched["not"]):
            yield rule


def _kept(matched: re.Match[str], ours: ScriptSettings) -> bool:
    """Whether our script has that setting."""
    name, value = matched["name"], matched["value"]
    section = ours.launcher if name.startswith("srun ") else ours.directives if "--" in name else ours.environment
    key = name.removeprefix("srun ").removeprefix("--")
    return key in section and (value is None or normal(key, section[key]) == normal(key, value))


# ---- a script's text -------------------------------------------------------------------------------------------------


def _directives(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    words = [shlex.split(line, comments=True) for line in lines]
    pairs = (word.removeprefix("--").partition("=") for line in words for word in line)
    return {key: value for key, _, value in pairs}


def _environment(text: str) -> dict[str, str]:
    """Every `export NAME=VALUE NAME`, of the script itself and of what starts each rank."""
    found = dict.fromkeys(BY_RENDEZVOUS, "") if re.search(r"^rendezvous ", text, re.MULTILINE) else {}
    for line in text.splitlines():
        if matched := re.search(r"(?:^\s*|\|\| |bash -c ')export (.*)", line):
            pairs = (word.partition("=") for word in shlex.split(matched[1], comments=True))
            found |= {name: value for name, _, value in pairs if re.fullmatch(r"[A-Za-z_]\w*", name)}
    return found


def _launcher(text: str) -> tuple[str, dict[str, str]]:
    """The words of `launch=( … )`: the program, and its options."""
    block = text.split("\nlaunch=(", 1)[1].split("\n)\n", 1)[0]
    starter, *words = shlex.split(block, comments=True)
    options: dict[str, str] = {}
    for word, after in zip(words, [*words[1:], "-"], strict=True):
        if word.startswith("-"):
            key, equals, value = word.lstrip("-").partition("=")
            options[LONG_NAME.get(key, key)] = value if equals or after.startswith("-") else after
    return starter, options
