"""Areas of nodes in one Slurm, with accounts, QOS and modules of their own (Jean Zay), or for jobs with GPUs alone.

Run: pytest tests/derive/test_areas.py.
"""

import pytest

from hpcllm.cluster.profile import Profile, load_profile, shipped_profiles
from hpcllm.cluster.user import User
from hpcllm.derive.layout import layout
from hpcllm.derive.setting import Settings
from hpcllm.derive.settings import settings
from hpcllm.errors import DoesNotFit
from hpcllm.job.spec import CommandJob
from hpcllm.launch.pipeline import stages


@pytest.fixture(scope="module")
def jean_zay() -> Profile:
    return load_profile(shipped_profiles() / "jean-zay.yaml")


def settings_of(profile: Profile, slurm: dict[str, str], user: User) -> Settings:
    """Of a program on two nodes."""
    resources = {"nodes": 2, "time": "30m"}
    job = CommandJob.model_validate({"name": "mine", "command": ["python"], "resources": resources, "slurm": slurm})
    return settings(profile, job, layout(profile, job, None, stages(job)[0], user), user)


def directives(found: Settings) -> dict[str, str]:
    return {s.name: s.value for s in found.directives}


@pytest.mark.parametrize(
    ("slurm", "user"),
    [
        ({"account": "abc@h100"}, User()),
        ({}, User(account="abc@h100")),
        ({"account": "abc", "qos": "qos_gpu_h100-t3"}, User()),
        ({"account": "abc", "partition": "gpu_p6"}, User()),
    ],
    ids=["by its account", "by the user's account", "by its QOS", "by its partition"],
)
def test_an_area_is_chosen_by_what_belongs_to_it(jean_zay, slurm, user):
    found = settings_of(jean_zay, slurm, user)

    expected = {"account": "abc@h100", "constraint": "h100", "qos": "qos_gpu_h100-t3", "gres": "gpu:4"}
    assert expected.items() <= directives(found).items()
    assert "partition" not in directives(found)
    assert found.software[1].value.startswith("module load arch/h100 ")


def test_an_account_of_another_area_is_refused(jean_zay):
    with pytest.raises(DoesNotFit, match="abc@a100; accounts of partition gpu_p6 end in @h100; gpu_p5 can run it"):
        settings_of(jean_zay, {"account": "abc@a100", "partition": "gpu_p6"}, User())


def test_a_hint_binds_by_itself(jean_zay):
    found = settings_of(jean_zay, {"account": "abc@h100"}, User())

    assert directives(found)["hint"] == "nomultithread"
    assert not [word for word in found.launcher if word.startswith("--cpu-bind")]


def test_a_job_without_a_gpu_is_refused_where_the_site_refuses_it():
    isambard = load_profile(shipped_profiles() / "isambard-ai.yaml")
    resources = {"nodes": 2, "time": "30m", "gpus_per_node": 0}
    job = CommandJob.model_validate({"name": "mine", "command": ["python"], "resources": resources})

    with pytest.raises(DoesNotFit, match="found 0 GPUs in all; partition workq gives at least 1 to one job"):
        layout(isambard, job, None, stages(job)[0])
