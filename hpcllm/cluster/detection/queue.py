"""What a Slurm says of itself: scontrol, sacctmgr and sinfo's own words into partitions, QOS and kinds of nodes."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass

TIMEOUT_S = 30.0
COMMANDS = {
    "config": ["scontrol", "show", "config"],
    "partitions": ["scontrol", "show", "partition", "-o"],
    "nodes": ["scontrol", "show", "node", "-o"],
    "qos": [
        "sacctmgr",
        "-nP",
        "show",
        "qos",
        "format=Name,MaxWall,MaxTRES,MinTRES,MaxJobsPU,MaxSubmitPU,Preempt,Flags",
    ],
    "default_account": ["sacctmgr", "-nP", "show", "user", getpass.getuser(), "format=DefaultAccount"],
    "mpi_list": ["srun", "--mpi=list"],
}
NOTHING = ("", "N/A", "(null)", "NONE", "UNLIMITED", "ALL")


@dataclass(frozen=True)
class FoundNodes:
    """One kind of node: those whose hardware Slurm describes in the same words."""

    name: str
    """Ours, made from what they are: `a100x4`, `cpu64`."""
    hosts: tuple[str, ...]
    sockets: int
    cores: int
    """That jobs may use."""
    threads_per_core: int
    """As Slurm counts CPUs."""
    memory_mib: int
    architecture: str
    gres_type: str | None
    gpus: int
    """Of that type, the most numerous one."""
    other_gpus: tuple[str, ...]
    """What else is in the same nodes, which no rank is planned for: 2 v100."""
    features: tuple[str, ...]
    partitions: tuple[str, ...]


@dataclass(frozen=True)
class FoundPartition:
    """One partition."""

    name: str
    default: bool
    max_time: str | None
    max_nodes: int | None
    min_nodes: int
    qos: str | None
    """Its own QOS, whose limits hold for every job in it."""
    allow_qos: tuple[str, ...]
    exclusive: bool
    preemptible: bool
    node_types: tuple[str, ...]
    """The most frequent one first."""


@dataclass(frozen=True)
class FoundQos:
    """One quality of service."""

    name: str
    max_time: str | None
    max_nodes: int | None
    min_nodes: int | None
    max_jobs: int | None
    max_submitted: int | None
    preemptible: bool
    overrides_partition: bool


@dataclass(frozen=True)
class Queue:
    """A whole Slurm."""

    cluster_name: str
    version: str | None
    config: dict[str, str]
    nodes: tuple[FoundNodes, ...]
    partitions: tuple[FoundPartition, ...]
    qos: tuple[FoundQos, ...]
    mpi_types: tuple[str, ...]
    has_default_account: bool | None
    """None where there is no accounting to ask."""


def ask_slurm() -> dict[str, str]:
    """The words of every command; empty for one that is missing or fails. Empty altogether where no Slurm answers."""
    config = _config()
    if not config:
        return {}  # each further command would wait for the same controller
    return {"config": config, **{name: _output_of(command) for name, command in COMMANDS.items() if name != "config"}}


def answers() -> bool:
    """Whether a Slurm answers here."""
    return bool(_settings(_config()).get("ClusterName"))


def _config() -> str:
    return _output_of(COMMANDS["config"]) if shutil.which("scontrol") else ""


def _settings(config: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)\s*=[ \t]*(.*)$", config, re.MULTILINE))


def queue_of(words: dict[str, str]) -> Queue | None:
    """What the words of `ask_slurm` mean; None where no controller answered."""
    config = _settings(words.get("config", ""))
    if not config.get("ClusterName"):
        return None
    qos = tuple(_qos(words["qos"]))
    nodes = _kinds(_records(words["nodes"], "NodeName"))
    return Queue(
        config["ClusterName"],
        config.get("SLURM_VERSION"),
        config,
        nodes,
        tuple(_partitions(_records(words["partitions"], "PartitionName"), nodes, config)),
        qos,
        tuple(re.findall(r"^\s+(\w+)$", words["mpi_list"], re.MULTILINE)),
        bool(words["default_account"].strip()) if qos else None,
    )


# ---- nodes -----------------------------------------------------------------------------------------------------------


def _kinds(records: list[dict[str, str]]) -> tuple[FoundNodes, ...]:
    """Nodes that are alike, the most numerous kind first, each with a name of its own."""
    alike: dict[tuple[object, ...], list[dict[str, str]]] = {}
    for record in records:
        if record.get("Sockets"):
            alike.setdefault(_hardware(record), []).append(record)
    kinds: list[FoundNodes] = []
    for records_of_kind in sorted(alike.values(), key=len, reverse=True):
        found = _kind(records_of_kind)
        again = sum(kind.name.split("-")[0] == found.name for kind in kinds)
        kinds.append(FoundNodes(**{**vars(found), "name": f"{found.name}-{again + 1}" if again else found.name}))
    return tuple(kinds)


def _hardware(node: dict[str, str]) -> tuple[object, ...]:
    return (_cores(node), node["Sockets"], node.get("CPUTot"), node.get("RealMemory"), _gpus(node), node.get("Arch"))


def _kind(records: list[dict[str, str]]) -> FoundNodes:
    first = records[0]
    (gres_type, gpus), *others = _gpus(first) or ((None, 0),)
    cores = _cores(first)
    features = [set(_words(record.get("ActiveFeatures", ""))) for record in records]
    return FoundNodes(
        name=f"{gres_type or 'gpu'}x{gpus}" if gpus else f"cpu{cores}",
        hosts=tuple(record["NodeName"] for record in records),
        sockets=int(first["Sockets"]),
        cores=cores,
        threads_per_core=max(1, int(first["CPUTot"]) // (int(first["Sockets"]) * int(first["CoresPerSocket"]))),
        memory_mib=int(first.get("RealMemory", 0)) - int(first.get("MemSpecLimit", 0)),
        architecture=first.get("Arch", ""),
        gres_type=gres_type,
        gpus=gpus,
        other_gpus=tuple(f"{count} {name or 'of no type'}" for name, count in others),
        features=tuple(sorted(set.intersection(*features))),
        partitions=tuple(dict.fromkeys(p for record in records for p in _words(record.get("Partitions", "")))),
    )


def _cores(node: dict[str, str]) -> int:
    """Cores that jobs may use: CPUEfctv leaves out those that the system keeps (from Slurm 22.05 on)."""
    cores, cpus = int(node["Sockets"]) * int(node["CoresPerSocket"]), int(node["CPUTot"])
    effective = int(node.get("CPUEfctv", cpus))
    return max(1, cores * effective // cpus)


def _gpus(node: dict[str, str]) -> tuple[tuple[str | None, int], ...]:
    """Types and numbers in Gres=gpu:a100:4(S:0-1),gpu:v100:1 or gpu:4, the most numerous type first.

    Slices of a GPU (MIG) are counted as what they are.
    """
    counts: Counter[str | None] = Counter()
    for name, count in re.findall(r"(?:^|,)gpu:(?:([^:,()]+):)?(\d+)", node.get("Gres", "")):
        counts[name or None] += int(count)
    return tuple(counts.most_common())


# ---- partitions and QOS ----------------------------------------------------------------------------------------------


def _partitions(
    records: list[dict[str, str]], nodes: tuple[FoundNodes, ...], config: dict[str, str]
) -> list[FoundPartition]:
    by_priority = config.get("PreemptType") == "preempt/partition_prio"
    found = []
    for record in records:
        name = record["PartitionName"]
        kinds = [kind for kind in nodes if name in kind.partitions]
        if record.get("State", "UP") != "UP" or not kinds:
            continue
        found.append(
            FoundPartition(
                name,
                record.get("Default") == "YES",
                _value(record.get("MaxTime")),
                _number(record.get("MaxNodes")),
                _number(record.get("MinNodes")) or 1,
                _value(record.get("QoS")),
                tuple(_words(record.get("AllowQos", ""))),
                record.get("OverSubscribe", "") == "EXCLUSIVE",
                by_priority and _yields(record, records),
                tuple(kind.name for kind in kinds),
            )
        )
    return found


def _yields(partition: dict[str, str], others: list[dict[str, str]]) -> bool:
    """Whether jobs here are stopped for jobs in a partition of higher priority on the same nodes."""
    if partition.get("PreemptMode", "OFF") == "OFF":
        return False
    tier = int(partition.get("PriorityTier", 1))
    return any(o.get("Nodes") == partition.get("Nodes") and int(o.get("PriorityTier", 1)) > tier for o in others)


def _qos(text: str) -> list[FoundQos]:
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 7]
    preempted = {name for row in rows for name in row[6].split(",") if name}
    return [
        FoundQos(
            row[0],
            _value(row[1]),
            _number(_tres(row[2], "node")),
            _number(_tres(row[3], "node")),
            _number(row[4]),
            _number(row[5]),
            row[0] in preempted,
            "PartitionTimeLimit" in row[7],
        )
        for row in rows
    ]


def _tres(text: str, name: str) -> str:
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part).get(name, "")


# ---- words -----------------------------------------------------------------------------------------------------------


def _records(text: str, first: str) -> list[dict[str, str]]:
    """`Key=value Key=value` a line, from the `first` key on; a value with spaces (OS=Linux 5.14) keeps its first word.

    Other lines are no records: sites wrap scontrol, and greet.
    """
    lines = [line for line in text.splitlines() if line.startswith(f"{first}=")]
    return [dict(re.findall(r"(?:^|\s)([A-Za-z]+)=(\S*)", line)) for line in lines]


def _value(text: str | None) -> str | None:
    return None if text is None or text in NOTHING else text


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and int(text) > 0 else None


def _words(text: str) -> list[str]:
    return [] if text in NOTHING else text.split(",")


def _output_of(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + (done.stderr if command[0] == "srun" else "")) if done.returncode == 0 else ""
