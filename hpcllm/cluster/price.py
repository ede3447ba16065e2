"""What computing costs on a cluster."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcllm.cluster.known import Known


class Price(Known):
    """What an hour costs, of a GPU or of a whole node."""

    gpu_hour: Annotated[float, Field(ge=0)] | None = None
    """Of one GPU, as Slurm counts them."""
    node_hour: Annotated[float, Field(ge=0)] | None = None
    """Of one whole node."""
    unit: str
    """EUR, or the site's billing unit."""
