"""A profile that changes another, and values that nobody knows. Run: pytest tests/cluster/test_extends.py."""

from pathlib import Path

import pytest

import hpcllm
from hpcllm.cluster.profile import load_profile, shipped_profiles
from hpcllm.errors import SourceError, UserError
from hpcllm.job.spec import load_job
from hpcllm.plan.search import search

DEMO = Path(hpcllm.__file__).parents[1] / "jobs" / "demo.yaml"
VERIFIED = "verified: {how: documented, date: 2026-11-24}\n"


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_profile_takes_over_what_it_does_not_change(tmp_path):
    file = written(
        tmp_path, "mine.yaml", f"extends: ib-lustre-a100\nname: mine\n{VERIFIED}nodes: {{a100: {{count: 3}}}}\n"
    )

    mine, base = load_profile(file), load_profile(shipped_profiles() / "ib-lustre-a100.yaml")

    assert mine.name == "mine"
    assert mine.nodes["a100"].count == 3
    assert mine.nodes["a100"].gpus == base.nodes["a100"].gpus
    assert mine.fabric == base.fabric


def test_a_profile_takes_away_what_is_null(tmp_path):
    change = "scheduler: {partitions: {gpu-debug: null}}\nenvironment: {A: '1'}\n"
    written(tmp_path, "base.yaml", f"extends: ib-lustre-a100\nname: base\n{VERIFIED}environment: {{A: '0', B: '0'}}\n")
    file = written(tmp_path, "mine.yaml", f"extends: base.yaml\nname: mine\n{VERIFIED}{change}")

    mine = load_profile(file)

    assert list(mine.scheduler.partitions) == ["gpu", "gpu-preempt"]
    assert mine.environment == {"A": "1", "B": "0"}


def test_how_far_a_base_was_verified_says_nothing_of_what_changes_it(tmp_path):
    file = written(tmp_path, "mine.yaml", "extends: ib-lustre-a100\nname: mine\n")

    with pytest.raises(SourceError, match="verified: this key is required"):
        load_profile(file)


def test_a_mistake_is_located_in_the_file_that_holds_it(tmp_path):
    base = (shipped_profiles() / "ib-lustre-a100.yaml").read_text().replace("sockets: 2", "sockets: 0")
    written(tmp_path, "base.yaml", base)
    file = written(tmp_path, "mine.yaml", f"extends: base.yaml\nname: mine\n{VERIFIED}fabric: {{rail: 2}}\n")

    with pytest.raises(SourceError) as caught:
        load_profile(file)

    places = {(Path(problem.file).name, problem.field) for problem in caught.value.problems}
    assert places == {("base.yaml", "nodes.a100.sockets"), ("mine.yaml", "fabric.rail")}


@pytest.mark.parametrize(
    ("base", "said"), [("mine", "circle"), ("nowhere", "no such profile"), ("other.yaml", "circle")]
)
def test_a_base_that_cannot_be_is_refused(tmp_path, base, said):
    written(tmp_path, "other.yaml", "extends: mine.yaml\n")
    base = "mine.yaml" if base == "mine" else base
    file = written(tmp_path, "mine.yaml", f"extends: {base}\nname: mine\n{VERIFIED}")

    with pytest.raises(SourceError, match=said):
        load_profile(file)


def test_an_unknown_value_is_asked_for_where_it_is_needed(tmp_path):
    file = written(
        tmp_path,
        "mine.yaml",
        f"extends: ib-lustre-a100\nname: mine\n{VERIFIED}nodes: {{a100: {{gpus: {{memory: unknown}}}}}}\n",
    )
    profile = load_profile(file)

    assert profile.nodes["a100"].gpus.memory_bytes is None
    with pytest.raises(UserError, match=r"nodes.a100.gpus.memory: unknown in this profile.*extends"):
        search(profile, load_job(DEMO))


def test_a_required_value_cannot_be_unknown(tmp_path):
    file = written(
        tmp_path, "mine.yaml", f"extends: ib-lustre-a100\nname: mine\n{VERIFIED}nodes: {{a100: {{cores: unknown}}}}\n"
    )

    with pytest.raises(SourceError, match="nodes.a100.cores: found 'unknown'"):
        load_profile(file)


def test_a_misspelt_base_is_told_with_what_was_meant(tmp_path):
    file = written(tmp_path, "mine.yaml", f"extends: pelmutter\nname: mine\n{VERIFIED}")

    with pytest.raises(SourceError, match=r"found 'pelmutter'; there is no such profile; did you mean perlmutter\?"):
        load_profile(file)
