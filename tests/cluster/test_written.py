"""`measured:` in the text of a profile: that block alone, and every other character as it was."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from probed_clusters import HOSTS, probed

from hpcllm.cluster.find import find_profile
from hpcllm.cluster.measured import Measured
from hpcllm.cluster.probe.found import Probed
from hpcllm.cluster.probe.preferred import preferring_measured
from hpcllm.cluster.probe.verdicts import verdicts
from hpcllm.cluster.probe.written import measured_before, target_of, write_measured
from hpcllm.cluster.profile import Profile, load_profile, shipped_profiles
from hpcllm.errors import UserError

TEXT = """\
# A cluster of ours. Ask Ada.
name: small
verified: {how: on-site, date: 2026-11-24}   # by hand

scheduler: {kind: slurm, partitions: {cpu: {node_type: cpu}}}
nodes:
  cpu: {cores: 8, memory: 64GiB}             # what jobs may use
  gpu: {cores: 8, fabric: {kind: infiniband}}
# the network
fabric: {kind: infiniband, rate: 200Gb/s}
filesystems: {scratch: {kind: lustre, path: /scratch}, home: {kind: nfs, path: /home}}
software: {mpi: {flavour: mpich, launcher: [srun]}}
"""
AFTER = """
# the price, last reviewed in spring
price: {node_hour: 1, unit: EUR}  # a guess
"""


@pytest.fixture(autouse=True)
def _no_profiles_of_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("HPCLLM_PROFILES", raising=False)


def profile_file(folder: Path, text: str = TEXT) -> tuple[Profile, Path]:
    path = folder / "small.yaml"
    path.write_bytes(text.encode())
    return load_profile(path), path


def block(path: Path) -> str:
    text = path.read_text()
    return text[text.index("measured:") :]


def test_the_first_probe_comes_behind_and_nothing_else_changes(tmp_path: Path) -> None:
    profile, path = profile_file(tmp_path)

    written = write_measured(profile, path, probed())

    assert written == path
    assert path.read_text().startswith(TEXT + "\nmeasured:")
    found = load_profile(path).measured
    assert found is not None
    assert (str(found.date), found.commit, found.world_size, found.hosts) == ("2026-11-25", "c0ffee", 8, HOSTS)
    assert found.nodes["cpu"].flops_per_s == 0.9e12
    assert found.fabric
    assert found.fabric.rate_bytes_per_s == 20e9
    assert found.filesystems["scratch"].hdf5_write_bytes_per_s == 5e9


def test_a_second_probe_replaces_the_block_where_it_stands_and_keeps_every_comment(tmp_path: Path) -> None:
    profile, path = profile_file(tmp_path)
    write_measured(profile, path, probed(rate=5e9))
    path.write_text(path.read_text() + "  # of this block\n" + AFTER)

    write_measured(load_profile(path), path, probed(rate=20e9))

    text = path.read_text()
    assert text.startswith(TEXT + "\nmeasured:")
    assert text.endswith(AFTER)
    assert "of this block" not in text
    assert "5 GB/s" not in yaml.safe_load(text)["measured"]["fabric"]["rate"]
    again = path.read_bytes()
    write_measured(load_profile(path), path, probed(rate=20e9))
    assert path.read_bytes() == again


@pytest.mark.parametrize(
    "old",
    [
        "measured: {date: 2026-01-01, world_size: 1}",
        "measured:",
        "'measured':\n    date: 2026-01-01\n    world_size: 1",
    ],
)
def test_whatever_form_the_block_had(tmp_path: Path, old: str) -> None:
    profile, path = profile_file(tmp_path)
    path.write_text(TEXT + old + "  # once\n" + AFTER)

    write_measured(profile, path, probed())

    text = path.read_text()
    assert text.startswith(TEXT + "measured:")
    assert text.endswith(AFTER)
    assert load_profile(path).measured


def test_line_ends_of_windows_and_a_missing_last_one_are_kept(tmp_path: Path) -> None:
    text = TEXT.rstrip().replace("\n", "\r\n")
    profile, path = profile_file(tmp_path, text)

    write_measured(profile, path, probed())

    new = path.read_bytes()
    assert new.startswith(text.encode() + b"\r\n\r\nmeasured:")
    assert new.count(b"\n") == new.count(b"\r\n")


def test_what_an_earlier_probe_said_of_other_nodes_stays_with_its_day(tmp_path: Path) -> None:
    profile, path = profile_file(tmp_path)
    write_measured(profile, path, probed())

    later = probed(hosts=("g1",), date="2026-12-01", node_type="gpu", filesystem="home")
    write_measured(load_profile(path), path, later)

    profile = load_profile(path)
    found = profile.measured
    assert found is not None
    assert {name: str(node.date or found.date) for name, node in found.nodes.items()} == {
        "cpu": "2026-11-25",
        "gpu": "2026-12-01",
    }
    assert set(found.filesystems) == {"scratch", "home"}
    _, keys = preferring_measured(profile)
    assert keys["nodes.cpu.flops"] == "measured.nodes.cpu.flops (2026-11-25)"
    assert keys["nodes.gpu.flops"] == "measured.nodes.gpu.flops (2026-12-01)"
    assert keys["fabric.rate"] == "measured.fabric.rate (2026-11-25)"


def test_nodes_on_a_network_of_their_own_have_its_figures(tmp_path: Path) -> None:
    text = TEXT.replace("partitions: {cpu: {node_type: cpu}}", "partitions: {gpu: {node_type: gpu}}")
    profile, path = profile_file(tmp_path, text)

    write_measured(profile, path, probed(partition="gpu", node_type="gpu"))

    preferred, keys = preferring_measured(load_profile(path))
    assert keys["nodes.gpu.fabric.rate"] == "measured.nodes.gpu.fabric.rate (2026-11-25)"
    assert preferred.nodes["gpu"].fabric
    assert preferred.nodes["gpu"].fabric.rate_bytes_per_s == 20e9
    assert preferred.fabric.rate_bytes_per_s == 25e9


def test_a_figure_that_is_broken_is_not_written_and_the_rest_is(tmp_path: Path) -> None:
    profile, path = profile_file(tmp_path)

    write_measured(profile, path, probed(rate=1e9), {"fabric.rate", "filesystems.scratch.write"})

    found = load_profile(path).measured
    assert found is not None
    assert found.fabric is None
    assert found.filesystems["scratch"].write_bytes_per_s is None
    assert found.filesystems["scratch"].read_bytes_per_s == 7e9


def test_a_slow_node_spoils_no_figure(tmp_path: Path) -> None:
    profile, path = profile_file(tmp_path)

    write_measured(profile, path, probed(slow={"n2": 1e9}))

    found = load_profile(path).measured
    assert found is not None
    assert found.fabric is not None
    assert found.fabric.rate_bytes_per_s == 20e9
    assert found.fabric.all_reduce_bytes_per_s is None


def reprobed(profile: Profile, path: Path, again: Probed) -> Measured:
    """As `profile probe` does it."""
    found = verdicts(profile, again, measured_before(profile, path))
    write_measured(profile, path, again, {verdict.key for verdict in found if not verdict.believed})
    measured = load_profile(path).measured
    assert measured
    return measured


def test_a_probe_with_a_throttled_node_is_not_written_over_the_better_one_before(tmp_path: Path) -> None:
    profile, path = profile_file(tmp_path)
    reprobed(profile, path, probed(rate=20e9))

    found = reprobed(load_profile(path), path, probed(slow={"n2": 3e9}, rate=12e9, date="2026-12-01"))

    assert found.fabric
    assert (str(found.date), str(found.fabric.date)) == ("2026-12-01", "2026-11-25")
    assert (found.fabric.rate_bytes_per_s, found.fabric.all_reduce_bytes_per_s) == (20e9, 10e9)
    assert found.nodes["cpu"].date is None
    healthy = reprobed(load_profile(path), path, probed(rate=12e9, date="2026-12-02"))
    assert healthy.fabric
    assert (healthy.fabric.rate_bytes_per_s, healthy.fabric.date) == (12e9, None)


def test_a_slow_node_of_a_network_of_its_own_leaves_that_as_it_was_and_the_node_too(tmp_path: Path) -> None:
    text = TEXT.replace("partitions: {cpu: {node_type: cpu}}", "partitions: {gpu: {node_type: gpu}}")
    profile, path = profile_file(tmp_path, text)
    at = {"partition": "gpu", "node_type": "gpu"}
    reprobed(profile, path, probed(**at))
    slow_cores = tuple(replace(node, flops_per_s=0.1e12 if node.host == "n1" else 0.5e12) for node in probed().nodes)

    found = reprobed(load_profile(path), path, probed(nodes=slow_cores, date="2026-12-01", **at)).nodes["gpu"]

    assert (found.flops_per_s, str(found.date)) == (0.9e12, "2026-11-25")
    assert found.fabric
    assert str(found.fabric.date) == "2026-12-01"


def test_a_wrong_interface_leaves_the_network_of_the_earlier_probe_and_nothing_of_a_first_one(tmp_path: Path) -> None:
    profile, path = profile_file(tmp_path)
    wrong = {"severity": "error", "check": "interfaces", "what": "ib9", "cause": "a name", "action": "x"}

    assert reprobed(profile, path, probed(findings=(wrong,))).fabric is None
    reprobed(load_profile(path), path, probed(rate=20e9))
    found = reprobed(load_profile(path), path, probed(rate=30e9, findings=(wrong,))).fabric
    assert found
    assert found.rate_bytes_per_s == 20e9


def test_a_profile_of_ours_is_left_alone_and_one_that_extends_it_is_found_first(tmp_path: Path) -> None:
    path = shipped_profiles() / "slurm-lab.yaml"
    before = path.read_bytes()
    found = probed(partition="batch", node_type="lab", filesystem="machine")

    written = write_measured(load_profile(path), path, found)

    assert path.read_bytes() == before
    assert written == tmp_path / "config" / "hpcllm" / "profiles" / "slurm-lab.yaml"
    profile, file = find_profile("slurm-lab")
    assert file == written
    assert profile.name == "slurm-lab"
    assert profile.scheduler.partitions == load_profile(path).scheduler.partitions
    assert preferring_measured(profile)[0].fabric.rate_bytes_per_s == 20e9
    assert write_measured(profile, file, found) == written


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_profile_that_may_not_be_written_is_extended_by_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "of the site"
    folder.mkdir()
    profile, path = profile_file(folder)
    folder.chmod(0o555)

    written = write_measured(profile, path, probed())

    assert load_profile(written).measured
    assert f"extends: {path}" in written.read_text()


def test_a_file_in_the_way_is_not_touched(tmp_path: Path) -> None:
    own = tmp_path / "config" / "hpcllm" / "profiles" / "slurm-lab.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(TEXT)

    with pytest.raises(UserError, match="is in the way"):
        target_of(shipped_profiles() / "slurm-lab.yaml")


def test_a_text_without_a_place_for_the_block_is_refused_and_stays(tmp_path: Path) -> None:
    text = (
        "{name: small, "
        + ", ".join(
            line.split("   #")[0]
            for line in TEXT.splitlines()[2:]
            if line and line[0] not in "# " and "nodes" not in line
        )
        + ", nodes: {cpu: {cores: 8}}}\n"
    )
    path = tmp_path / "small.yaml"
    path.write_text(text.replace("node_type: cpu}}}, nodes:", "node_type: cpu}}}, nodes:"))
    profile = load_profile(path)

    with pytest.raises(UserError, match="measured: cannot be put into this text"):
        write_measured(profile, path, probed())

    assert path.read_text() == text


def test_a_link_stays_a_link_and_the_mode_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    profile, path = profile_file(tmp_path / "real")
    path.chmod(0o664)
    link = tmp_path / "small.yaml"
    link.symlink_to(path)

    write_measured(profile, link, probed())

    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o664
    assert load_profile(path).measured
