"""Whether the values of a profile can be true: one doubt at a time. Run: pytest tests/cluster/test_lint_sense.py."""

from datetime import date
from pathlib import Path

import pytest

from hpcllm.cluster.lint import lint_file
from hpcllm.cluster.profile import shipped_profiles

TODAY = date(2026, 11, 24)
SHIPPED = {path.stem: path.read_text() for path in shipped_profiles().glob("*.yaml")}
MEASURED = "measured: {date: 2026-11-23, world_size: 4, fabric: {rate: 10GB/s}}\n"


def found(folder: Path, text: str, today: date = TODAY) -> list[str]:
    """Errors and warnings, from the field on."""
    file = folder / "x.yaml"
    file.write_text(text)
    findings = lint_file(file, today).findings
    return [str(f).partition(": ")[2] for f in findings if f.severity != "note"]


def changed(name: str, *changes: tuple[str, str]) -> str:
    text = SHIPPED[name]
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


IB, SLINGSHOT, LAB = "ib-lustre-a100", "frontier", "slurm-lab"
GPU_LISTS = '["0-15", "16-31", "32-47", "48-63"]'


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        # rates
        (IB, "rate: 200Gb/s", "rate: 200GB/s", "fabric.rate: found 1600 Gb/s a rail, one way; … did you mean 200Gb/s?"),
        (IB, "rate: 200Gb/s", "rate: 25Gb/s", "warning: fabric.rate: found 25 Gb/s … did you mean 25GB/s?"),
        (SLINGSHOT, "rate: 200Gb/s", "rate: 25Gb/s", "warning: fabric.rate: found 25 Gb/s … did you mean 25GB/s?"),
        (SLINGSHOT, "rate: 200Gb/s", "rate: 400Gb/s", "fabric.rate: found 400 Gb/s … 200 Gb/s (Slingshot 11)"),
        ("aws-p5", "rate: 100Gb/s", "rate: 400Gb/s", "fabric.rate: found 400 Gb/s … 100 on P4d and P5"),
        (LAB, "rate: 1.6Gb/s", "rate: 16000Gb/s", "fabric.rate: found 16000 Gb/s … 800 Gb/s"),
        (IB, "rails: 4", "rails: 16", "warning: fabric.rails: 16 of 25 GB/s each outrun NVLink, 300 GB/s"),
        # names of interfaces and adapters
        (IB, "interfaces: [ib0]", "interfaces: [hsn0]", "fabric.interfaces[0]: found hsn0, which is one of slingshot"),
        (SLINGSHOT, "[hsn0, hsn1, hsn2, hsn3]", "[ib0]", "fabric.interfaces[0]: found ib0, which is one of infiniband"),
        (
            SLINGSHOT,
            "  rails: 4",
            "  hcas: [mlx5_0]\n  rails: 4",
            "fabric.hcas[0]: found mlx5_0, which is one of infin",
        ),
        ("aws-p5", "  rails: 32", "  hcas: [mlx5_0]\n  rails: 32", "fabric.hcas[0]: found mlx5_0"),
        (LAB, "interfaces: [eth0]", "interfaces: [ib0]", "fabric.interfaces[0]: found ib0"),
        (IB, "mlx5_2, mlx5_3]", "mlx5_2]", "warning: fabric.hcas: found 3 for 4 rails"),
        (
            IB,
            f"cpus: {GPU_LISTS}",
            "nics: [mlx5_0, mlx5_1, mlx5_2, mlx5_7]",
            "gpus.nics[3]: found mlx5_7, which is not",
        ),
        (
            IB,
            f"cpus: {GPU_LISTS}",
            "nics: [cxi0, cxi1, cxi2, cxi3]",
            "gpus.nics[0]: found cxi0, which is one of slingsh",
        ),
        (IB, "  latency: 2us", "  gid_index: 3\n  latency: 2us", "warning: fabric.gid_index: read for RoCE alone"),
        # GPUs
        (
            IB,
            "memory: 80GiB",
            "memory: 320GiB",
            "gpus.memory: found 344 GB; one A100-80GB has 80 GB; this is of one GPU",
        ),
        (IB, "model: A100-80GB", "model: A200-64GB", "gpus.memory: found 85.9 GB; one A200-64GB has 64 GB"),
        (IB, "link: 300GB/s", "link: 600GB/s", "gpus.link: found 600 GB/s … both ways together? `link` is one way"),
        (IB, "link: 300GB/s", "flops: 400 TFLOP/s", "gpus.flops: found 400 TFLOP/s; the peak of A100-80GB is 312"),
        (IB, '"48-63"]', '"80-95"]', "gpus.cpus[3]: found CPU 95; a node of 64 CPUs numbers them from 0"),
        (IB, GPU_LISTS, '["0-15", "16-31", "32-47", "40-63"]', "gpus.cpus[3]: CPU 40 stands next to GPU 2 too"),
        (
            IB,
            GPU_LISTS,
            '["0-31", "32-63", "64-95", "96-127"]',
            "gpus.cpus: found 128 CPUs; 64 cores × 1 threads are 64",
        ),
        (
            IB,
            GPU_LISTS,
            '["0-13", "16-29", "32-45", "48-61"]',
            "warning: nodes.a100.gpus.cpus: 8 of the node's 64 cores",
        ),
        (IB, GPU_LISTS, '["0-19", "20-31", "32-47", "48-63"]', "warning: nodes.a100.gpus.cpus: some GPUs have more"),
        (IB, f"cpus: {GPU_LISTS}", "numa: [0, 2, 4, 8]", "warning: nodes.a100.gpus.numa: found domain 8"),
        # nodes
        (IB, "cores: 64", "cores: 63", "warning: nodes.a100.cores: found 63, which 2 sockets cannot share evenly"),
        (IB, "memory: 480GiB", "memory: 480MiB", "warning: nodes.a100.memory: found 480 MiB for 64 cores"),
        # queues
        (
            IB,
            "max_nodes: 64",
            "max_nodes: 512",
            "warning: scheduler.partitions.gpu.max_nodes: found 512, above nodes.a10",
        ),
        (
            IB,
            "max_nodes: 2,",
            "max_nodes: 2, min_nodes: 4,",
            "partitions.gpu-debug.min_nodes: found 4, above max_nodes: 2",
        ),
        (IB, "qos: debug}", "default: true}", "partitions.gpu-debug.default: gpu is the default already"),
        (
            SLINGSHOT,
            "92: 6h, 184: 12h",
            "184: 12h, 92: 6h",
            "warning: scheduler.partitions.batch.max_time_from_nodes: f",
        ),
        (SLINGSHOT, "184: 12h}", "184: 13h}", "max_time_from_nodes: found 13 h, above max_time: 12 h"),
        (LAB, "nodes:\n", "nodes:\n  idle: {cores: 2}\n", "warning: nodes.idle: no partition has these nodes"),
        (LAB, "  gpu_request", "  directives: {time: '1'}\n  gpu_request", "warning: scheduler.directives.time: every"),
        # filesystems
        (IB, "kind: lustre", "kind: gpfs", "filesystems.scratch.striping: Lustre has it, and this is gpfs"),
        (
            IB,
            "purpose: scratch",
            "purpose: project",
            "warning: filesystems: none is `purpose: scratch`; runs are written to",
        ),
        (
            IB,
            "write: 20GB/s",
            "write: 20GB/s\n    total_write: 2GB/s",
            "filesystems.scratch.write: found 20 GB/s for one",
        ),
        (SLINGSHOT, "from: 1TB, count: 16", "from: 1GB, count: 16", "warning: filesystems.orion.stripes[1]: sizes and"),
        (LAB, "path: /}", "path: data}", "warning: filesystems.machine.path: found 'data'"),
        # software and environment
        (LAB, "[srun, --mpi=pmi2]", "[mpirun, --mpi=pmi2]", "software.mpi.launcher: --mpi is an option of srun"),
        (LAB, "[srun, --mpi=pmi2]", "[srun, --mpi=pmix]", "warning: software.mpi.launcher: found --mpi=pmix for mpich"),
        (LAB, "[srun, --mpi=pmi2]", "[]", "software.mpi.launcher: found an empty list"),
        (
            IB,
            "environment: {}",
            'environment: {NCCL_SOCKET_NTHREADS: "16", NCCL_NSOCKS_PERTHREAD: "8"}',
            "environment.NCCL_SOCKET_NTHREADS: 16 threads × 8 sockets; NCCL takes 64 together",
        ),
        (
            IB,
            "compute: false",
            'proxy: {http_proxy: "http://me:pw@p:1"}',
            "internet.proxy.http_proxy: a password or key",
        ),
        (IB, "environment: {}", "environment: {HF_TOKEN: hf_abcdefgh1}", "environment.HF_TOKEN: a password or key"),
        # dates
        (LAB, "date: 2026-11-24", "date: 2027-11-24", "verified.date: found 2027-11-24, which is to come"),
        (SLINGSHOT, "read: 2026-11-24", "read: 2026-11-25", "sources.FUG.read: found 2026-11-25, which is to come"),
        (
            SLINGSHOT,
            "dated: 2026-07-22",
            "dated: 2026-12-22",
            "warning: sources.FUG.dated: found 2026-12-22, after the day",
        ),
        # measured
        (IB, "reliability", f"{MEASURED}reliability", "warning: measured.fabric.rate: 0.4 times fabric.rate"),
    ],
)
def test_a_value_that_cannot_be_or_hardly_can(tmp_path, name, old, new, said):
    findings = found(tmp_path, changed(name, (old, new)))

    parts = said.rstrip().removesuffix("…").split(" … ")
    assert any(all(part.strip() in finding for part in parts) for finding in findings), findings


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (IB, "memory: 80GiB", "memory: 80GB"),
        (IB, "rate: 200Gb/s", "rate: 25GB/s"),
        (IB, "rate: 200Gb/s", "rate: 400Gb/s"),
        (IB, "interfaces: [ib0]", "interfaces: [ibp65s0, bond0]"),
        (IB, "mpi: {flavour: openmpi, launcher: [srun, --mpi=pmix]", "mpi: {flavour: openmpi, launcher: [mpirun]"),
        (IB, "environment: {}", "environment: {TOKENIZERS_PARALLELISM: 'false', https_proxy: 'http://proxy:3128'}"),
        (IB, GPU_LISTS, '["48-63", "32-47", "16-31", "0-15"]'),
        (LAB, "rate: 1.6Gb/s", "rate: 25Gb/s"),
        (LAB, "path: /}", "path: $WORK/data}"),
    ],
)
def test_what_real_systems_have_is_not_doubted(tmp_path, name, old, new):
    assert found(tmp_path, changed(name, (old, new))) == []


def test_pages_that_were_read_over_a_year_ago_are_to_be_read_again(tmp_path):
    year_later = found(tmp_path, SHIPPED[SLINGSHOT], date(2027, 11, 25))

    assert [line.split(":")[1].strip() for line in year_later] == [
        f"sources.{n}.read" for n in ("FUG", "PT", "DATA", "CONT")
    ]
    assert "read 366 days ago; read it again" in year_later[0]


def test_nothing_follows_from_a_value_that_is_wrong_itself(tmp_path):
    text = changed(IB, ("cores: 64", "cores: sixty"), ("model: A100-80GB", "model: 100"))

    assert [line.partition(": found")[0] for line in found(tmp_path, text)] == [
        "nodes.a100.cores",
        "nodes.a100.gpus.model",
    ]


def test_unknown_values_are_counted_and_named(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(changed(LAB, ("  rate: 1.6Gb/s", "  latency: unknown\n  topology: unknown\n  rate: unknown")))

    notes = [str(f) for f in lint_file(file, TODAY).findings if f.severity == "note"]

    assert "3 unknown: fabric.latency, fabric.topology, fabric.rate" in notes[0]
