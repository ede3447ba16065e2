"""What the derivation is tried on: profiles, a job of the pipeline, and a command."""

import pytest
from example_clusters import DEMO, profile_named

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import CommandJob, Job, Resources, load_job


@pytest.fixture
def command() -> CommandJob:
    return CommandJob(name="mine", command=("python", "train.py"), resources=Resources(nodes=2))


@pytest.fixture
def demo() -> Job:
    return load_job(DEMO)


@pytest.fixture
def lab() -> Profile:
    return profile_named("slurm-lab")


@pytest.fixture
def a100() -> Profile:
    return profile_named("ib-lustre-a100")


@pytest.fixture
def h100() -> Profile:
    return profile_named("ethernet-nfs-h100")
