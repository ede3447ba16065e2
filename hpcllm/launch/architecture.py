"""For which processor a Python environment or an image was built, by the first bytes of its files.

A login node of one architecture may stand before nodes of another; what was built on it would end with `Exec format
error`, after its time in the queue.
"""

from __future__ import annotations

from pathlib import Path

from hpcllm.cluster.nodes import NodeType
from hpcllm.cluster.software import SoftwareEnvironment
from hpcllm.errors import UserError

HEADER_BYTES = 64
ELF_MACHINES = {62: "x86_64", 183: "aarch64", 21: "ppc64le"}  # e_machine: man 5 elf, /usr/include/elf.h
SIF_ARCHITECTURES = {b"02": "x86_64", b"04": "aarch64", b"06": "ppc64le"}  # github.com/apptainer/sif, pkg/sif/arch.go
SIF_MAGIC_AT = 32  # behind the line that starts it: magic (10), version (3), architecture (3)


def check_architecture(environment: SoftwareEnvironment, node: NodeType, node_name: str) -> None:
    """Raises UserError for what was built for other nodes. What cannot be read from here is taken on trust."""
    if "architecture" not in node.model_fields_set:
        return
    path = Path(environment.path)
    found = architecture(path / "bin" / "python" if path.is_dir() else path)
    if found and found != node.architecture:
        raise UserError(
            f"software.environment: {path} was built for {found}, and nodes.{node_name} are {node.architecture}; "
            f"build it on one of these nodes (srun --pty bash), or for that platform (--platform, --arch)"
        )


def architecture(path: Path) -> str | None:
    """Of a program or a SIF image; None for any other file, or none."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError:
        return None
    if header[:4] == b"\x7fELF":
        return ELF_MACHINES.get(int.from_bytes(header[18:20], "little" if header[5] == 1 else "big"))
    if header[SIF_MAGIC_AT : SIF_MAGIC_AT + 9] == b"SIF_MAGIC":
        return SIF_ARCHITECTURES.get(header[SIF_MAGIC_AT + 13 : SIF_MAGIC_AT + 15])
    return None
