"""The shipped profiles, and what is said of mistakes in one. Run: pytest tests/cluster/test_profiles.py."""

import re

import pytest

from hpcllm import source
from hpcllm.cluster.nodes import core_numbers
from hpcllm.cluster.profile import Profile, load_profile, shipped_profiles
from hpcllm.cluster.user import User
from hpcllm.errors import SourceError

SHIPPED = sorted(shipped_profiles().glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_profile_loads_and_is_named_as_its_file(path):
    profile = load_profile(path)

    assert profile.name == path.stem
    assert profile.scheduler.partitions


def test_no_two_shipped_profiles_claim_one_slurm():
    names = [load_profile(path).scheduler.cluster_name for path in SHIPPED]

    claimed = [name for name in names if name]
    assert len(claimed) == len(set(claimed))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    cores: 2 ", "    corse: 2 ", "nodes.lab.corse: unknown key; did you mean cores?"),
        (
            "rate: 1.6Gb/s",
            "rate: 16",
            "fabric.rate: found 16; expected a rate such as 200Gb/s (bits) or 25GB/s (bytes)",
        ),
        ("memory: 4000MiB", "memory: 4000Mb", "nodes.lab.memory: found '4000Mb'; expected a size in bytes"),
        ("short: {node_type: lab", "short: {node_type: lob", "scheduler.partitions.short.node_type: found 'lob'"),
        ("    batch:", '    "ba tch":', "found 'ba tch'; expected one name, without white space"),
        ("kind: ethernet", "kind: token-ring", "fabric.kind: found 'token-ring'"),
        ("  MPIR_CVAR_CH4_NETMOD: ofi", "  2X: a", "found '2X'; expected the name of an environment"),
        ("  version:", '  directives: {x: "a\\nb"}\n  version:', "a directive is one line"),
    ],
)
def test_a_mistake_in_a_profile_is_located(tmp_path, old, new, said):
    text = (shipped_profiles() / "slurm-lab.yaml").read_text()
    assert old in text
    file = tmp_path / "lab.yaml"
    file.write_text(text.replace(old, new, 1))

    with pytest.raises(SourceError) as caught:
        load_profile(file)

    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{file}:")


@pytest.mark.parametrize("cores", ['["0-15", "8-31"]', '["0-15"]', '["0-15", "31-16"]', '["0-15", "a"]'])
def test_cores_next_to_gpus_are_ranges_that_share_nothing(tmp_path, cores):
    text = (shipped_profiles() / "ethernet-nfs-h100.yaml").read_text()
    file = tmp_path / "gpus.yaml"
    file.write_text(text.replace("count: 2, memory: 80GiB}", f"count: 2, memory: 80GiB, cores: {cores}}}"))

    with pytest.raises(SourceError, match="cores|core numbers"):
        load_profile(file)


def test_the_parts_shown_in_the_documentation_make_a_profile():
    page = (shipped_profiles().parent / "docs" / "profiles.md").read_text()
    *parts, user = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)

    head = "name: mycluster\nverified: {how: documented, date: 2026-11-24}\n"
    data, positions = source.parse(head + "".join(parts), "docs/profiles.md")
    assert source.check(data, Profile, "docs/profiles.md", positions).partition(None)[0] == "gpu"
    assert source.check(source.parse(user, "user")[0], User, "user", {}).fact("account", "mycluster")[0] == "physics"


def test_core_ranges():
    assert core_numbers("0-3,8") == (0, 1, 2, 3, 8)
