"""The profile that follows from a queue and a compute node, as a commented file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hpcllm.cluster.accelerators import accelerator
from hpcllm.cluster.detection.draft import Draft, flow, scalar, today
from hpcllm.cluster.detection.node import FoundFilesystem, FoundGpus, FoundNode
from hpcllm.cluster.detection.queue import FoundNodes, FoundPartition, FoundQos, Queue

PARTITIONS, NODES, QOS = "scontrol show partition", "scontrol show node", "sacctmgr show qos"
FASTEST_RDMA = {"infiniband", "roce", "slingshot", "efa"}


@dataclass(frozen=True)
class Place:
    """Where the command runs."""

    folder: str
    """The current one, which runs are written below unless a scratch is known."""
    flavour: str
    """Of the MPI that this Python finds."""
    flavour_of: str
    """The mpirun that says so."""


def profile_text(queue: Queue, node: FoundNode | None, on_compute_node: bool, place: Place) -> str:
    """The file. `node` is a compute node, or this login node where none was looked at (then its facts are assumed)."""
    draft = Draft(f"{queue.cluster_name}, as `hpcllm profile detect` found it on {today()}.")
    looked = node if on_compute_node else None
    if looked is None:
        draft.checks.append(
            "no compute node was looked at: run `hpcllm profile detect --job` for GPUs, network and MPI"
        )
    draft.said(f"name: {scalar(queue.cluster_name)}", "scontrol show config, ClusterName")
    draft.plain(f"verified: {{how: detected, date: {today()}}}")
    _scheduler(draft, queue)
    _nodes(draft, queue, looked)
    _fabric(draft, queue, node, on_compute_node)
    _filesystems(draft, node, on_compute_node, place)
    _software(draft, queue, node, on_compute_node, place)
    return draft.text()


# ---- scheduler -------------------------------------------------------------------------------------------------------


def _scheduler(draft: Draft, queue: Queue) -> None:
    config = queue.config
    draft.gap()
    draft.plain("scheduler:")
    draft.plain("  kind: slurm")
    draft.said(f"  cluster_name: {scalar(queue.cluster_name)}", "scontrol show config, ClusterName")
    if queue.version:
        draft.said(f'  version: "{queue.version}"', "scontrol show config")
    if config.get("MaxArraySize", "").isdecimal():
        draft.said(f"  max_array_size: {config['MaxArraySize']}", "scontrol show config")
    _account(draft, queue)
    _dialects(draft, queue)
    requeue = config.get("JobRequeue", "1") != "0"
    draft.said(f"  requeue: {str(requeue).lower()}", "scontrol show config, JobRequeue")
    names = _worth_saying(queue)
    if names:
        draft.plain("  qos:")
        for qos in names:
            draft.said(f"    {qos.name}: {_flow(_qos_facts(qos))}", QOS)
    draft.plain("  partitions:")
    for partition in queue.partitions:
        _partition(draft, queue, partition, names)


def _account(draft: Draft, queue: Queue) -> None:
    if "associations" not in queue.config.get("AccountingStorageEnforce", ""):
        draft.said("  account_required: false", "scontrol show config, AccountingStorageEnforce")
    elif queue.has_default_account:
        draft.said("  account_required: false", "sacctmgr: you have a default account")
        draft.checks.append("account_required: you have a default account; does everybody?")
    else:
        draft.said("  account_required: true", "sacctmgr: you have no default account")


def _dialects(draft: Draft, queue: Queue) -> None:
    if any(_has_gpus(kind) for kind in queue.nodes):
        dialect = "gpus-per-node" if queue.config.get("SelectType") == "select/cons_tres" else "gres"
        draft.assumed(f"  gpu_request: {dialect}", f"works with {queue.config.get('SelectType', 'this Slurm')}")
        draft.checks.append(f"gpu_request: does your documentation ask for --{dialect}, or for another option?")
    else:
        draft.said("  gpu_request: none", f"{NODES}: no node has GPUs that a rank could drive")
    consumed = "memory" in queue.config.get("SelectTypeParameters", "").lower()
    dialect, what = ("node", "memory is consumed") if consumed else ("none", "memory is not consumed")
    draft.said(f"  memory_request: {dialect}", f"scontrol show config, SelectTypeParameters: {what}")


def _has_gpus(kind: FoundNodes) -> bool:
    """GPUs that ranks can drive: a rank needs a core of its own."""
    return 0 < kind.gpus <= kind.cores


def _worth_saying(queue: Queue) -> list[FoundQos]:
    """QOS that limit something."""
    return [qos for qos in queue.qos if _qos_facts(qos)]


def _qos_facts(qos: FoundQos) -> dict[str, str]:
    facts = {
        "max_time": qos.max_time and _time(qos.max_time),
        "max_nodes": qos.max_nodes,
        "min_nodes": qos.min_nodes,
        "max_jobs": qos.max_jobs,
        "max_submitted": qos.max_submitted,
        "preemptible": qos.preemptible and "true",
        "overrides_partition": qos.overrides_partition and "true",
    }
    return {key: str(value) for key, value in facts.items() if value}


def _partition(draft: Draft, queue: Queue, partition: FoundPartition, described: list[FoundQos]) -> None:
    own = next((qos for qos in queue.qos if qos.name == partition.qos), None)
    limits = _qos_facts(own) if own else {}
    allowed = [qos.name for qos in described if qos.name in partition.allow_qos]
    facts = {
        "node_type": partition.node_types[0],
        "max_time": limits.get("max_time") or (partition.max_time and _time(partition.max_time)),
        "max_nodes": limits.get("max_nodes") or partition.max_nodes,
        "min_nodes": partition.min_nodes if partition.min_nodes > 1 else None,
        "default": partition.default and "true",
        "preemptible": partition.preemptible and "true",
        "allow_qos": f"[{', '.join(allowed)}]" if allowed and len(allowed) == len(partition.allow_qos) else None,
    }
    kept = {key: str(value) for key, value in facts.items() if value}
    draft.said(f"    {scalar(partition.name)}: {_flow(kept)}", PARTITIONS + (f", QOS {own.name}" if own else ""))
    if len(partition.node_types) > 1:
        draft.checks.append(
            f"partition {partition.name} has nodes of several kinds ({', '.join(partition.node_types)}); "
            f"jobs are planned for {partition.node_types[0]}"
        )


def _flow(facts: dict[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in facts.items()) + "}"


def _time(text: str) -> str:
    """As Slurm writes it (1-00:00:00, 01:00:00, 30:00), in hours or minutes."""
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    hours, minutes, seconds = [0] * (3 - len(parts)) + parts
    total_s = int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
    if total_s % 3600 == 0:
        return f"{total_s // 3600}h"
    return f"{total_s // 60}m" if total_s % 60 == 0 else f"{total_s}s"


# ---- nodes -----------------------------------------------------------------------------------------------------------


def _nodes(draft: Draft, queue: Queue, node: FoundNode | None) -> None:
    draft.gap()
    draft.plain("nodes:")
    used = {partition.node_types[0] for partition in queue.partitions}
    for kind in (kind for kind in queue.nodes if kind.name in used):
        here = node if node and node.host.split(".")[0] in kind.hosts else None
        draft.plain(f"  {scalar(kind.name)}:")
        draft.said(f"    count: {len(kind.hosts)}", NODES)
        if here and here.cpu:
            draft.said(f"    cpu: {scalar(here.cpu)}", f"lscpu on {here.host}")
        draft.said(f"    architecture: {kind.architecture or 'x86_64'}", NODES)
        draft.said(f"    sockets: {kind.sockets}", NODES)
        _numa(draft, kind, here)
        draft.said(f"    cores: {kind.cores}", f"{NODES}: what jobs may use")
        draft.said(f"    threads_per_core: {kind.threads_per_core}", f"{NODES}: as Slurm counts CPUs")
        draft.said(f"    memory: {kind.memory_mib}MiB", f"{NODES}, RealMemory")
        _gpus(draft, kind, here)
        if here and here.local_scratch:
            draft.said(f"    local_scratch: {{path: {scalar(here.local_scratch)}}}", f"TMPDIR on {here.host}")


def _numa(draft: Draft, kind: FoundNodes, node: FoundNode | None) -> None:
    fits = node and node.numa_domains and kind.cores % node.numa_domains == 0
    if node and fits:
        draft.said(f"    numa_domains: {node.numa_domains}", f"lscpu on {node.host}")
    else:
        draft.assumed(f"    numa_domains: {kind.sockets}", "one a socket")
        draft.checks.append(f"nodes.{kind.name}.numa_domains: lscpu on such a node counts them")


def _gpus(draft: Draft, kind: FoundNodes, node: FoundNode | None) -> None:
    if kind.other_gpus:
        draft.checks.append(
            f"nodes.{kind.name}.gpus: {kind.gpus} {kind.gres_type or 'of no type'} are described; "
            f"the same nodes have {', '.join(kind.other_gpus)}, which no rank uses"
        )
    if kind.gpus and node and node.gpus is None:
        why = f"Slurm has {kind.gpus} GPUs, but neither nvidia-smi nor rocm-smi found one on {node.host}"
        draft.plain(f"    # gpus: {why}")
        draft.checks.append(f"nodes.{kind.name}.gpus: {why}; the ranks compute on the cores")
        return
    if kind.gpus and not _has_gpus(kind):
        draft.plain(f"    # gpus: Slurm has {kind.gpus}, more than cores to drive them; left out")
        draft.checks.append(f"nodes.{kind.name}.gpus: {kind.gpus} GPUs on {kind.cores} cores; real?")
        return
    if not kind.gpus:
        return
    found = node.gpus if node else None
    draft.plain("    gpus:")
    _gpu_model(draft, kind, found, node)
    draft.said(f"      count: {kind.gpus}", f"{NODES}, Gres")
    if kind.gres_type:
        draft.said(f"      gres_type: {scalar(kind.gres_type)}", f"{NODES}, Gres")
    if found and node:
        _gpu_places(draft, kind, found, node.host)


def _gpu_model(draft: Draft, kind: FoundNodes, found: FoundGpus | None, node: FoundNode | None) -> None:
    if found and node:
        draft.said(f"      model: {scalar(found.model)}", f"nvidia-smi or rocm-smi on {node.host}")
        draft.said(f"      memory: {found.memory_mib}MiB", f"nvidia-smi or rocm-smi on {node.host}")
        known = accelerator(found.model)
        if known is None:
            draft.checks.append(f"nodes.{kind.name}.gpus.model: {found.model} is not known here; its speed is unknown")
        elif known.link_bytes_per_s:
            rate = f"{known.link_bytes_per_s / 1e9:g}GB/s"
            draft.assumed(f"      link: {rate}", f"the most that a {known.model} has")
        return
    draft.assumed(f"      model: {scalar(kind.gres_type or 'unknown-gpu')}", "Slurm's word for it")
    draft.assumed("      memory: unknown", "Slurm does not know it")
    draft.checks.append(
        f"nodes.{kind.name}.gpus: model (such as A100-80GB) and memory; `profile detect --job` reads them"
    )


def _gpu_places(draft: Draft, kind: FoundNodes, found: FoundGpus, host: str) -> None:
    if found.count != kind.gpus:
        draft.checks.append(f"nodes.{kind.name}.gpus: {host} showed {found.count} of {kind.gpus}; ask for all of them")
        return
    if found.cpus and len(set(found.cpus)) == len(found.cpus):
        draft.said(f"      cpus: {_quoted(found.cpus)}", f"topology on {host}")
    elif found.cpus:
        draft.plain(
            f"      # cpus: GPUs share CPUs ({', '.join(dict.fromkeys(found.cpus))}); the launcher divides them"
        )
    if found.numa:
        draft.said(f"      numa: [{', '.join(map(str, found.numa))}]", f"topology on {host}")
    if found.nics:
        draft.said(f"      nics: {flow(found.nics)}", f"topology on {host}")


def _quoted(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


# ---- fabric, files, software -----------------------------------------------------------------------------------------


def _fabric(draft: Draft, queue: Queue, node: FoundNode | None, on_compute_node: bool) -> None:
    draft.gap()
    found = node.fabric if node else None
    if found is None or node is None:
        alone = sum(len(kind.hosts) for kind in queue.nodes) == 1
        kind = "none" if alone else "ethernet"
        draft.assumed(f"fabric: {{kind: {kind}}}", "no adapter was seen", "fabric: kind, rate, interfaces and adapters")
        return
    where = node.host if on_compute_node else f"{node.host}, a login node"
    say = draft.said if on_compute_node else _as_assumed(draft)
    draft.plain("fabric:")
    say(f"  kind: {found.kind}", f"adapters of {where}")
    if found.adapters:
        say(f"  rails: {len(found.adapters)}", f"/sys/class/infiniband of {where}")
        say(f"  hcas: {flow(found.adapters)}", f"/sys/class/infiniband of {where}")
    elif found.kind in FASTEST_RDMA and len(found.interfaces) > 1:
        say(f"  rails: {len(found.interfaces)}", f"interfaces of {where}")
    if found.rate_gigabits_per_s:
        say(f"  rate: {found.rate_gigabits_per_s:g}Gb/s", f"adapters of {where}")
    else:
        draft.assumed("  rate: unknown", "no adapter says", "fabric.rate: `hpcllm profile probe` measures it")
    say(f"  interfaces: {flow(found.interfaces)}", f"ip addr on {where}")
    draft.checks.append(f"fabric.interfaces: {', '.join(found.interfaces)} carries the ranks' traffic on every node")


def _as_assumed(draft: Draft) -> Callable[[str, str], None]:
    return lambda line, by: draft.assumed(line, f"as on {by.split(' of ')[-1].split(' on ')[-1]}")


def _filesystems(draft: Draft, node: FoundNode | None, on_compute_node: bool, place: Place) -> None:
    draft.gap()
    draft.plain("filesystems:")
    found = node.filesystems if node else ()
    homes = [filesystem for filesystem in found if filesystem.variable == "HOME"]
    others = [filesystem for filesystem in found if filesystem not in homes]
    if not others:
        shared = bool(node and node.shared and on_compute_node)
        why = "a compute node sees the same files" if shared else "no network filesystem was seen"
        draft.assumed(f"  shared: {{kind: nfs, path: {scalar(place.folder)}}}", why)
        draft.checks.append(f"filesystems: is {place.folder} the same folder on every node? Its kind and bandwidth")
    for number, filesystem in enumerate(others):
        _filesystem(draft, filesystem, "scratch" if number == 0 else "project")
    for filesystem in homes:
        _filesystem(draft, filesystem, "home")
    if others:
        draft.checks.append(
            f"filesystems: runs are written to {others[0].path}; bandwidth, striping and purge are unknown"
        )


def _filesystem(draft: Draft, found: FoundFilesystem, purpose: str) -> None:
    name = (found.variable or found.path.strip("/").replace("/", "-")).lower()
    facts = {"kind": found.kind, "path": scalar(found.path), "purpose": purpose}
    draft.said(f"  {scalar(name)}: {_flow(facts)}", "/proc/mounts, environment")


def _software(draft: Draft, queue: Queue, node: FoundNode | None, on_compute_node: bool, place: Place) -> None:
    launcher = _launcher(place.flavour, queue.mpi_types)
    draft.gap()
    draft.plain("software:")
    draft.plain("  mpi:")
    draft.assumed(f"    flavour: {place.flavour}", f"{place.flavour_of} says so")
    types = f"srun --mpi=list has {', '.join(queue.mpi_types)}" if queue.mpi_types else "srun --mpi=list says nothing"
    draft.assumed(f"    launcher: {flow(launcher)}", types)
    draft.checks.append(
        f"software.mpi: {' '.join(launcher)} starts {place.flavour} ranks; `hpcllm profile probe` proves it"
    )
    draft.assumed("  python: this", "nodes see the interpreter that renders the scripts")
    modules = node.modules if node and on_compute_node else ()
    wanted = [name for name in modules if any(word in name.lower() for word in ("mpi", "cuda", "rocm", "pytorch"))]
    if wanted:
        draft.plain(f"  # modules: []   # there are, among {len(modules)}: {', '.join(wanted[:12])}")
        draft.checks.append("software.modules: what a job loads, if anything")


def _launcher(flavour: str, types: tuple[str, ...]) -> tuple[str, ...]:
    """What srun speaks to that MPI, the most modern first; mpirun where it speaks nothing of it."""
    spoken = {
        "openmpi": ("pmix", "pmix_v5", "pmix_v4", "pmix_v3", "pmi2"),
        "cray-mpich": ("cray_shasta",),
        "mpich": ("pmi2", "pmix"),
        "intel-mpi": ("pmi2", "pmix"),
        "mvapich": ("pmi2",),
    }[flavour]
    kind = next((kind for kind in spoken if kind in types), None)
    return ("srun", f"--mpi={kind}") if kind else ("mpirun",)
