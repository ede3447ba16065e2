"""Which GPUs a process sees: by the driver's files and the variables of the scheduler, without CUDA, ROCm or torch.

The driver lists what the node has; a container shows less of it; control groups forbid to open the rest; and the
variables choose among what is left, by number or by the beginning of a UUID.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

NVIDIA = Path("/proc/driver/nvidia/gpus")  # a folder of each GPU, by its PCI address
AMD = Path("/sys/class/kfd/kfd/topology/nodes")  # a folder of each agent of ROCm, CPUs too
DEVICES = Path("/dev")


def gpus_here(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The UUID of each GPU that this process sees, in the order of its numbers."""
    return nvidia_gpus(environment) or amd_gpus(environment)


def nvidia_gpus(environment: Mapping[str, str], listed: Path = NVIDIA, devices: Path = DEVICES) -> tuple[str, ...]:
    """Of CUDA. A part of a GPU (MIG) is what CUDA_VISIBLE_DEVICES names it by."""
    cards = []
    for folder in sorted(listed.glob("*")):
        said = dict(re.findall(r"^([^:\n]+):[ \t]*(.*)$", _text(folder / "information"), re.MULTILINE))
        if _opens(devices / f"nvidia{said.get('Device Minor', '').strip()}"):
            cards.append(said.get("GPU UUID", folder.name).strip())
    return chosen(cards, environment.get("CUDA_VISIBLE_DEVICES"))


def amd_gpus(environment: Mapping[str, str], listed: Path = AMD, devices: Path = DEVICES) -> tuple[str, ...]:
    """Of HIP: what ROCR_VISIBLE_DEVICES leaves, and of that what HIP's or CUDA's variable does."""
    cards = []
    for folder in sorted(listed.glob("*"), key=lambda path: int(path.name)):
        said = dict(line.split(maxsplit=1) for line in _text(folder / "properties").splitlines() if " " in line)
        is_gpu = said.get("simd_count", "0") != "0"
        if is_gpu and _opens(devices / "dri" / f"renderD{said.get('drm_render_minor', '')}"):
            cards.append(f"GPU-{int(said.get('unique_id', '0')) or int(folder.name):x}")
    inner = environment.get("HIP_VISIBLE_DEVICES", environment.get("CUDA_VISIBLE_DEVICES"))
    return chosen(chosen(cards, environment.get("ROCR_VISIBLE_DEVICES")), inner)


def chosen(cards: Sequence[str], variable: str | None) -> tuple[str, ...]:
    """Those that a variable names; from the first name on that there is not, it names none (CUDA's rule)."""
    if variable is None or not cards:
        return tuple(cards)
    named: list[str] = []
    for word in map(str.strip, variable.split(",")):
        if word.startswith("MIG-"):
            named.append(word)
        elif word.isdecimal() and int(word) < len(cards):
            named.append(cards[int(word)])
        elif word.startswith("GPU-") and (found := [card for card in cards if card.startswith(word)]):
            named.append(found[0])
        else:
            break
    return tuple(named)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _opens(device: Path) -> bool:
    """Whether a control group lets this process at it; permissions alone do not tell."""
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError:
        return False
    return True
