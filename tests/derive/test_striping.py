"""How files lie on Lustre. Run: pytest tests/derive/test_striping.py."""

import subprocess

import pytest
from example_clusters import changed

from hpcllm.derive.striping import checkpoint_bytes, stripe_count, striping

GB = 10**9


@pytest.mark.parametrize(
    ("size", "count"), [(1, 1), (GB - 1, 1), (GB, 8), (10 * GB, 24), (99 * GB, 24), (100 * GB, 72), (10**15, 72)]
)
def test_larger_files_lie_on_more_targets(a100, size, count):
    assert stripe_count(a100.scratch(), size) == count


def lustre(**changes):
    return {"scratch": {"kind": "lustre", "path": "/s", **changes}}


@pytest.mark.parametrize(("size", "count"), [(511 * GB, None), (512 * GB, 8), (2000 * GB, 16)])
def test_a_sites_own_rule_comes_before_ours_and_leaves_smaller_files_alone(a100, size, count):
    rows = [{"from": "1TB", "count": 16}, {"from": "512GB", "count": 8}]
    site = changed(a100, filesystems=lustre(striping="progressive", stripes=rows))

    assert stripe_count(site.scratch(), size) == count


def test_a_sites_rule_names_its_pool_and_its_key(a100, demo):
    rows = [{"from": "1kB", "count": 8}]
    site = changed(a100, filesystems=lustre(striping="progressive", stripes=rows, pool="capacity", block="16MiB"))

    shards, checkpoints = striping(site, demo)

    assert "--stripe-count 8 --stripe-size 16777216 --pool capacity data/shards" in shards.value
    assert checkpoints.key == "filesystems.scratch.stripes"
    large = changed(a100, filesystems=lustre(striping="progressive", stripes=[{"from": "512GB", "count": 8}]))
    assert striping(large, demo) == ()


def test_a_manual_lustre_is_striped_before_the_first_write(a100, demo):
    shards, checkpoints = striping(a100, demo)

    assert "lfs setstripe --stripe-count 1 --stripe-size 4194304 data/shards" in shards.value
    assert "lfs setstripe --stripe-count 1 --stripe-size 4194304 checkpoints" in checkpoints.value
    assert checkpoints.key == "filesystems.scratch.striping"


def test_a_large_model_gets_more_stripes(a100, demo):
    large = changed(demo, model={"layers": 24, "width": 2048, "feed_forward": 8192, "heads": 16})

    assert 10 * GB < checkpoint_bytes(large) < 100 * GB
    assert "--stripe-count 24" in striping(a100, large)[1].value


def test_other_sites_are_left_alone(a100, h100, demo, command):
    progressive = {"scratch": {"kind": "lustre", "path": "/s", "striping": "progressive"}}

    assert striping(changed(a100, filesystems=progressive), demo) == ()
    assert striping(h100, demo) == ()
    assert striping(a100, command) == ()


def test_the_lines_do_nothing_where_there_is_no_lustre(a100, demo, tmp_path):
    for setting in striping(a100, demo):
        subprocess.run(["bash", "-ec", setting.value], check=True, cwd=tmp_path)
