"""Which profile a command means. Run: pytest tests/cluster/test_find.py."""

import os

import pytest

from hpcllm.cluster import find
from hpcllm.cluster.profile import shipped_profiles
from hpcllm.errors import SourceError, UserError

LAB = (shipped_profiles() / "slurm-lab.yaml").read_text()


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch, tmp_path):
    """A machine without Slurm, whatever this one has."""
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none.conf"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("HPCLLM_PROFILES", raising=False)


def test_a_name_is_a_shipped_profile():
    profile, path = find.find_profile("slurm-lab")

    assert profile.name == "slurm-lab"
    assert path == shipped_profiles() / "slurm-lab.yaml"


def test_a_path_is_that_file(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text(LAB.replace("name: slurm-lab", "name: mine", 1))

    assert find.find_profile(str(own))[0].name == "mine"


def test_the_users_folder_comes_before_the_shipped_one(monkeypatch, tmp_path):
    (tmp_path / "slurm-lab.yaml").write_text(LAB.replace("name: slurm-lab", "name: own-lab", 1))
    monkeypatch.setenv("HPCLLM_PROFILES", str(tmp_path))

    assert find.find_profile("slurm-lab")[0].name == "own-lab"


def test_left_out_without_slurm_it_is_this_machine():
    profile, path = find.find_profile(None)

    assert (profile.name, path) == ("local", None)


def test_left_out_on_a_login_node_it_is_the_one_with_that_cluster_name(monkeypatch, tmp_path):
    conf = tmp_path / "slurm.conf"
    conf.write_text("# a comment\nclustername=lab\n")
    monkeypatch.setenv("SLURM_CONF", str(conf))

    assert find.find_profile(None)[0].name == "slurm-lab"


def test_a_slurm_that_no_profile_knows_leaves_this_machine(monkeypatch, tmp_path):
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=elsewhere\n")
    monkeypatch.setenv("SLURM_CONF", str(conf))

    assert find.find_profile(None)[0].name == "local"


def test_scontrol_is_asked_where_there_is_no_slurm_conf(tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 'Configuration data'\necho 'ClusterName             = lab'\n")
    scontrol.chmod(0o755)

    assert find.slurm_cluster_name() == "lab"


def test_an_unknown_name_is_told_the_nearest_and_the_folders():
    with pytest.raises(UserError) as caught:
        find.find_profile("slurm-leb")

    message = str(caught.value)
    assert "'slurm-leb'" in message
    assert "did you mean slurm-lab?" in message
    assert "/etc/hpcllm/profiles" in message
    assert str(shipped_profiles()) in message


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        find.find_profile(str(tmp_path / "absent.yaml"))


def test_a_broken_profile_in_a_folder_does_not_stop_the_search(monkeypatch, tmp_path):
    (tmp_path / "broken.yaml").write_text("name: [\n")
    os.mkfifo(tmp_path / "a-pipe.yaml")
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=lab\n")
    monkeypatch.setenv("SLURM_CONF", str(conf))
    monkeypatch.setenv("HPCLLM_PROFILES", str(tmp_path))

    assert find.find_profile(None)[0].name == "slurm-lab"
    with pytest.raises(SourceError):
        find.find_profile("broken")
