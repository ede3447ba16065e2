"""What clusters say of themselves: the words of scontrol and sacctmgr, and what look.py sees on their nodes."""

from typing import Any

A100_TOPOLOGY = """\
\t\x1b[4mGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tNIC1\tNIC2\tNIC3\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV4\tNV4\tNV4\tSYS\tSYS\tSYS\tPXB\t48-63\t3\t\tN/A
GPU1\tNV4\t X \tNV4\tNV4\tSYS\tSYS\tPXB\tSYS\t32-47\t2\t\tN/A
GPU2\tNV4\tNV4\t X \tNV4\tSYS\tPXB\tSYS\tSYS\t16-31\t1\t\tN/A
GPU3\tNV4\tNV4\tNV4\t X \tPXB\tSYS\tSYS\tSYS\t0-15\t0\t\tN/A
NIC0\tSYS\tSYS\tSYS\tPXB\t X \tSYS\tSYS\tSYS\t\t\t\t

Legend:

  X    = Self
  NV#  = Connection traversing a bonded set of # NVLinks

NIC Legend:

  NIC0: mlx5_0
  NIC1: mlx5_1
  NIC2: mlx5_2
  NIC3: mlx5_3
"""

CARD = '{"VRAM Total Memory (B)": "68702699520", "Card Series": "AMD Instinct MI250X", "(Topology) Numa Node": "3"}'
ROCM = f'{{"card0": {CARD}, "card1": {CARD}, "system": {{"Driver version": "6.3.6"}}}}'

LSCPU = """\
Architecture:        x86_64
CPU(s):              128
Model name:          AMD EPYC 7763 64-Core Processor
NUMA node(s):        4
NUMA node0 CPU(s):   0-15,64-79
NUMA node1 CPU(s):   16-31,80-95
NUMA node2 CPU(s):   32-47,96-111
NUMA node3 CPU(s):   48-63,112-127
"""

MOUNTS = """\
/dev/sda1 / xfs rw 0 0
10.0.0.1@o2ib:/scratch /scratch lustre rw,flock 0 0
nas:/home /home nfs4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
"""


def seen(**changes: Any) -> dict[str, Any]:
    """An InfiniBand node with four A100, as look.py prints it, with some of it changed."""
    hca = {"rate": "200 Gb/sec (4X HDR)", "link_layer": "InfiniBand", "state": "4: ACTIVE", "numa": "0"}
    found = {
        "host": "gpu001",
        "architecture": "x86_64",
        "python": "3.6.8",
        "places": {"HOME": "/home/me", "SCRATCH": "/scratch/me", "TMPDIR": "/tmp/job"},
        "adapters": {f"mlx5_{i}": hca for i in range(4)},
        "interfaces": {
            "eth0": {"speed": "25000", "state": "up", "driver": "mlx5_core"},
            "ib0": {"speed": "200000", "state": "up", "driver": "ib_ipoib"},
        },
        "shared": True,
        "meminfo": "",
        "mounts": MOUNTS,
        "os": "",
        "lscpu": LSCPU,
        "nvidia_smi": "NVIDIA A100-SXM4-80GB, 81920\n" * 4,
        "nvidia_topology": A100_TOPOLOGY,
        "rocm_smi": "",
        "addresses": "1: lo    inet 127.0.0.1/8\n2: eth0    inet 10.0.1.1/16\n3: ib0    inet 10.1.1.1/16\n",
        "mpi_list": "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix\n",
        "mpirun": "mpirun (Open MPI) 4.1.6\n",
        "modules": "/sw/modules:\nopenmpi/4.1.6\ncuda/12.4\ngcc/13.2\n",
    }
    return {**found, **changes}


NODE = (
    "NodeName={name} Arch=x86_64 CoresPerSocket={cores} CPUAlloc=0 CPUEfctv={usable} CPUTot={cpus} "
    "AvailableFeatures=hdr ActiveFeatures=hdr Gres={gres} OS=Linux 5.14.0-1 #1 SMP  RealMemory={memory} "
    "Sockets={sockets} Boards=1 State=IDLE ThreadsPerCore={threads} TmpDisk=0 Partitions={partitions}"
)
PARTITION = (
    "PartitionName={name} AllowQos={allow} Default={default} QoS={qos} MaxNodes={max_nodes} MaxTime={max_time} "
    "MinNodes=1 Nodes={nodes} PriorityTier={tier} OverSubscribe={share} PreemptMode={preempt} State={state}"
)


def node(name: str, **changes: Any) -> str:
    """A line of `scontrol show node -o`: two sockets of 32 cores, four A100."""
    usual = {"cores": 32, "sockets": 2, "threads": 1, "cpus": 64, "usable": 64, "memory": 512000}
    return NODE.format(**{"name": name, "gres": "gpu:a100:4(S:0-1)", "partitions": "gpu,debug", **usual, **changes})


def partition(name: str, **changes: Any) -> str:
    """A line of `scontrol show partition -o`."""
    usual = {"allow": "ALL", "default": "NO", "qos": "N/A", "max_nodes": "UNLIMITED", "max_time": "1-00:00:00"}
    rest = {"nodes": "gpu[001-002]", "tier": 1, "share": "NO", "preempt": "OFF", "state": "UP"}
    return PARTITION.format(**{"name": name, **usual, **rest, **changes})


def slurm(**changes: str) -> dict[str, str]:
    """The words of `ask_slurm` on a system with two kinds of nodes."""
    said = {
        "config": "ClusterName             = borealis\nSLURM_VERSION           = 23.11.10\nMaxArraySize = 10001\n"
        "SelectType              = select/cons_tres\nSelectTypeParameters    = CR_CORE_MEMORY\nJobRequeue = 1\n"
        "AccountingStorageEnforce = associations,limits,qos\nPreemptType = preempt/partition_prio\n",
        "nodes": "\n".join(
            [
                node("gpu001"),
                node("gpu002"),
                node("cpu001", gres="(null)", threads=2, cpus=128, usable=124, partitions="cpu", memory=256000),
            ]
        ),
        "partitions": "\n".join(
            [
                partition("gpu", default="YES", allow="normal,long"),
                partition("debug", qos="debug", max_time="UNLIMITED", tier=1, preempt="REQUEUE"),
                partition("urgent", tier=10),
                partition("cpu", nodes="cpu001", share="EXCLUSIVE"),
                partition("old", state="DOWN"),
            ]
        ),
        "qos": "normal|||||||\n"
        "long|7-00:00:00|||||normal|PartitionTimeLimit\n"
        "debug|00:30:00|node=2||1|2||DenyOnLimit\n",
        "default_account": "",
        "mpi_list": "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix\n",
    }
    return {**said, **changes}
