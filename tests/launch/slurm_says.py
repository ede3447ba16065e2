"""A line as Slurm's commands print it when launch/slurm.py asks them."""

from __future__ import annotations


def queued(
    job_id: str, state: str, start: object = "N/A", nodes: str = "", reason: str = "None", restarts: int = 0,
    end: object = "N/A", status: int = 0,
) -> str:  # fmt: skip
    """squeue's, as a command of bash; `status` is that of wait(2)."""
    return f"echo '{job_id}|{state}|50|{start}|{end}|{nodes}|{status}|{reason}|{restarts}|'"


def accounted(job_id: str, state: str, start: object = 100, end: object = 160, code: str = "0:0") -> str:
    """sacct's, as a command of bash."""
    return f"echo '{job_id}|{state}|50|{start}|{end}|n1|{code}|None|'"
