"""Looks at the node it runs on and prints what it saw as one JSON object. What it means is read elsewhere.

It runs by itself, on a node where hpcllm may be missing: `srun -N1 python3 - TOKEN < look.py`. Python 3.6 will do.
TOKEN is a file that the login node has just written: seen here, the nodes share that filesystem.
"""

# ruff: noqa: UP006, UP035  (Python 3.6 knows no list[str])

import json
import os
import platform
import re
import subprocess
import sys
from typing import Dict, List

TIMEOUT_S = 20
COMMANDS = {
    "lscpu": ["lscpu"],
    "nvidia_smi": ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
    "nvidia_topology": ["nvidia-smi", "topo", "-m"],
    "rocm_smi": ["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showtoponuma", "--json"],
    "addresses": ["ip", "-o", "-4", "addr"],
    "mpi_list": ["srun", "--mpi=list"],
    "mpirun": ["mpirun", "--version"],
    "modules": ["bash", "-lc", "command -v module >/dev/null && module -t avail"],
}
FILES = {"meminfo": "/proc/meminfo", "mounts": "/proc/mounts", "os": "/etc/os-release"}
PLACES = r"(?:.*SCRATCH.*|WORK|PROJECT|FAST|FLASH|STORE|TMPDIR|LOCALDIR|HOME)"  # variables that sites give to folders


def output_of(command: List[str]) -> str:
    """What a command says, on either stream; nothing where it cannot be run."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PMI", "PMIX"))}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=dict(environment, LC_ALL="C"), timeout=TIMEOUT_S, text=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout


def text_of(path: str) -> str:
    """The text of a file; nothing where it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def names_in(folder: str) -> List[str]:
    """The names in a folder; none where there is no such folder."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def adapters() -> Dict[str, Dict[str, str]]:
    """The RDMA adapters: what stands in /sys/class/infiniband of their first port."""
    found = {}
    for name in names_in("/sys/class/infiniband"):
        folder = "/sys/class/infiniband/" + name
        ports = {key: text_of(folder + "/ports/1/" + key) for key in ("rate", "link_layer", "state")}
        found[name] = dict(ports, numa=text_of(folder + "/device/numa_node"))
    return found


def interfaces() -> Dict[str, Dict[str, str]]:
    """The network interfaces: speed in Mb/s, state, and the driver behind them (none: a virtual one)."""
    found = {}
    for name in names_in("/sys/class/net"):
        folder = "/sys/class/net/" + name
        driver = os.path.basename(os.path.realpath(folder + "/device/driver"))
        found[name] = {
            "speed": text_of(folder + "/speed"),
            "state": text_of(folder + "/operstate"),
            "driver": driver if os.path.exists(folder + "/device") else "",
        }
    return found


def main() -> None:
    """Everything, as JSON on standard output."""
    places = {key: value for key, value in os.environ.items() if re.fullmatch(PLACES, key) and value.startswith("/")}
    seen = {
        "host": platform.node(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "places": places,
        "adapters": adapters(),
        "interfaces": interfaces(),
        "shared": len(sys.argv) > 1 and os.path.exists(sys.argv[1]),
    }
    seen.update({name: text_of(path) for name, path in FILES.items()})
    seen.update({name: output_of(command) for name, command in COMMANDS.items()})
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
