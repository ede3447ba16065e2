"""The shipped profiles and this machine, and how a test changes one."""

from pathlib import Path

import hpcllm
from hpcllm.cluster.detection.here import local_profile
from hpcllm.cluster.profile import Profile, load_profile, shipped_profiles

DEMO = Path(hpcllm.__file__).parents[1] / "jobs" / "demo.yaml"
CLUSTERS = ("ib-lustre-a100", "ethernet-nfs-h100", "slurm-lab", "local")


def profile_named(name: str) -> Profile:
    return local_profile() if name == "local" else load_profile(shipped_profiles() / f"{name}.yaml")


def changed(record, **changes):
    """The record with some of its YAML changed, checked again: `changed(profile, scheduler={"exclusive": True})`."""
    data = record.model_dump(by_alias=True, mode="json")
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(data.get(key), dict) and isinstance(value, dict) else value
    return type(record).model_validate(data)
