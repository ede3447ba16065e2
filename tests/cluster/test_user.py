"""Facts of a person. Run: pytest tests/cluster/test_user.py."""

import pytest

from hpcllm.cluster.user import User, load_user, user_file
from hpcllm.errors import SourceError


def test_no_file_means_no_facts(tmp_path):
    assert load_user(tmp_path / "user.yaml") == User()


def test_what_holds_on_one_cluster_wins_there_alone(tmp_path):
    file = tmp_path / "user.yaml"
    file.write_text("account: general\nmail: me@example.org\nclusters:\n  lab: {account: research}\n")

    user = load_user(file)

    assert user.fact("account", "lab") == ("research", "user.clusters.lab.account")
    assert user.fact("account", "other") == ("general", "user.account")
    assert user.fact("mail", "lab") == ("me@example.org", "user.mail")


def test_the_file_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    assert user_file() == tmp_path / "hpcllm" / "user.yaml"


def test_every_mistake_is_located(tmp_path):
    file = tmp_path / "user.yaml"
    file.write_text("acount: research\nmail: two words\n")

    with pytest.raises(SourceError) as caught:
        load_user(file)

    assert "user.yaml:1:1: acount: unknown key; did you mean account?" in str(caught.value)
    assert "user.yaml:2:1: mail: found 'two words'" in str(caught.value)
