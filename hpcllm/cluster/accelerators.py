"""Facts of accelerators: how fast, by the maker's word and by what was reached. A table, each row with its source.

An accelerator that is not here is unknown, never taken for another one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TERA = 1e12
GIGA = 1e9


@dataclass(frozen=True)
class Accelerator:
    """One accelerator as Slurm counts it (one GCD of an MI250X)."""

    model: str
    memory_bytes: float
    """By the data sheet, decimal; drivers show more or less (80 GiB, 79.6 GiB) of the same."""
    peak_flops_per_s: float
    """Dense 16-bit matmuls, by the data sheet."""
    matmul_flops_per_s: float | None
    """What a large 16-bit matmul reached; None where nobody's figure is at hand."""
    memory_bytes_per_s: float
    link_bytes_per_s: float | None
    """To the other accelerators of the node, one way (NVLink, else PCIe); None where it depends on the node."""
    source: str
    names: tuple[str, ...] = ()
    """What drivers and sites call it too."""
    bf16: bool = True
    """Whether the 16-bit speed holds for bfloat16 (a V100 knows only float16)."""


_STAS = "large matmul: S. Bekman, Machine Learning Engineering, 'Maximum Achievable Matmul FLOPS'"

ACCELERATORS = (
    Accelerator(
        "V100-16GB", 16 * GIGA, 125 * TERA, None, 0.9e12, 150 * GIGA, "NVIDIA V100 data sheet (SXM2)",
        ("V100-SXM2-16GB",), bf16=False,
    ),
    Accelerator(
        "V100-32GB", 32 * GIGA, 125 * TERA, None, 0.9e12, 150 * GIGA, "NVIDIA V100 data sheet (SXM2)",
        ("V100-SXM2-32GB",), bf16=False,
    ),
    Accelerator(
        "A100-40GB", 40 * GIGA, 312 * TERA, 271 * TERA, 1.555e12, 300 * GIGA, f"NVIDIA A100 data sheet (SXM); {_STAS}",
        ("A100-SXM4-40GB", "A100-SXM-40GB"),
    ),
    Accelerator(
        "A100-80GB", 80 * GIGA, 312 * TERA, 271 * TERA, 2.039e12, 300 * GIGA, f"NVIDIA A100 data sheet (SXM); {_STAS}",
        ("A100-SXM4-80GB", "A100-SXM-80GB"),
    ),
    Accelerator(
        "H100-SXM", 80 * GIGA, 989 * TERA, 794 * TERA, 3.35e12, 450 * GIGA, f"NVIDIA H100 data sheet (SXM5); {_STAS}",
        ("H100-SXM5", "H100-SXM-80GB", "H100-SXM5-80GB", "H100-80GB-HBM3"),
    ),
    Accelerator(
        "H100-PCIe", 80 * GIGA, 756 * TERA, None, 2.0e12, 64 * GIGA, "NVIDIA H100 data sheet (PCIe; Gen5 x16)",
        ("H100-PCIe-80GB",),
    ),
    Accelerator(
        "H200", 141 * GIGA, 989 * TERA, None, 4.8e12, 450 * GIGA, "NVIDIA H200 data sheet (SXM)",
        ("H200-SXM", "H200-141GB"),
    ),
    Accelerator(
        "GH200-96GB", 96 * GIGA, 989 * TERA, 829 * TERA, 4.0e12, 450 * GIGA, f"NVIDIA GH200 data sheet (HBM3); {_STAS}",
        ("GH200-120GB", "GH200-480GB"),
    ),
    Accelerator(
        "GH200-144GB", 144 * GIGA, 989 * TERA, 829 * TERA, 4.8e12, 450 * GIGA,
        f"NVIDIA GH200 data sheet (HBM3e); {_STAS}", ("GH200-141GB",),
    ),
    Accelerator(
        "B200", 180 * GIGA, 2250 * TERA, 1745 * TERA, 8.0e12, 900 * GIGA, f"NVIDIA HGX B200 data sheet; {_STAS}",
        ("B200-SXM", "B200-180GB"),
    ),
    Accelerator(
        "MI250X", 64 * GIGA, 191.5 * TERA, None, 1.64e12, None, "AMD Instinct MI250X data sheet, halved: a GCD",
        ("MI250X-GCD",),
    ),
    Accelerator(
        "MI300X", 192 * GIGA, 1307 * TERA, 668 * TERA, 5.3e12, None, f"AMD Instinct MI300X data sheet; {_STAS}",
        ("MI300X-192GB",),
    ),
)  # fmt: skip


def accelerator(model: str) -> Accelerator | None:
    """The facts of an accelerator by its name (`A100-80GB`, `NVIDIA A100-SXM4-80GB`); None for one not in the table."""
    return _BY_NAME.get(_plain(model))


def _plain(name: str) -> str:
    """Lower case, words joined by dashes, without the maker."""
    return re.sub(r"[\s_-]+", "-", re.sub(r"(?i)\b(nvidia|tesla|amd|instinct)\b", "", name).strip()).lower()


_BY_NAME = {_plain(name): row for row in ACCELERATORS for name in (row.model, *row.names)}
