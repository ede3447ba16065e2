"""JSON Schema for editors, held against every shipped file. Run: pytest tests/cluster/test_schema.py."""

import json

import pytest
from json_schema import failures

from hpcllm import yaml_text
from hpcllm.cluster.profile import Profile, shipped_profiles
from hpcllm.job.job_schema import job_schema
from hpcllm.schema import schema

PROFILES = shipped_profiles()
JOBS = PROFILES.parent / "jobs"
SCHEMAS = {PROFILES: ("profile.schema.json", schema(Profile)), JOBS: ("job.schema.json", job_schema())}
FILES = sorted([*PROFILES.glob("*.yaml"), *JOBS.glob("*.yaml")])


def held(text, rules):
    return list(failures(yaml_text.read(text, "file.yaml").data, rules, rules))


@pytest.mark.parametrize("folder", SCHEMAS, ids=lambda folder: folder.name)
def test_the_committed_schema_is_what_the_command_prints(folder):
    """After a change of the records: hpcllm profile schema > cluster_profiles/profile.schema.json, and so for jobs."""
    name, rules = SCHEMAS[folder]

    assert json.loads((folder / name).read_text()) == rules


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_editor_finds_nothing_wrong_with_a_shipped_file(file):
    assert held(file.read_text(), SCHEMAS[file.parent][1]) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_file_tells_the_editor_its_schema(file):
    name, _ = SCHEMAS[file.parent]

    assert file.read_text().splitlines()[0] == f"# yaml-language-server: $schema={name}"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: infiniband", "kind: infinband", "kind: 'infinband'"),
        ("sockets: 2", "sokets: 2", "sokets is not allowed"),
        ("cores: 64", "cores: 64.5", "cores: 64.5"),
        ("count: 256", "count: 0", "count: 0"),
        ("latency: 2us", "latency: 2", "latency: 2"),
        ("    kind: lustre\n", "", "kind is missing"),
    ],
)
def test_an_editor_marks_a_mistake(old, new, said):
    text = (PROFILES / "ib-lustre-a100.yaml").read_text()
    assert old in text

    assert said in " ".join(held(text.replace(old, new, 1), SCHEMAS[PROFILES][1]))


@pytest.mark.parametrize(
    "change",
    ["latency: unknown", "rails: unknown", "interfaces: unknown", "topology: unknown", "oversubscription: unknown"],
)
def test_unknown_stands_for_what_may_be_left_out(change):
    text = (PROFILES / "slurm-lab.yaml").read_text().replace("  rate:", f"  {change}\n  rate:")

    assert held(text, SCHEMAS[PROFILES][1]) == []


def test_a_profile_that_extends_another_is_a_part_and_takes_away_by_null():
    part = "extends: x\nnodes: {old: null, new: {gpus: {count: 2}}}\nfabric: {rate: 200Gb/s, hcas: null}\n"

    rules = SCHEMAS[PROFILES][1]

    assert held(part, rules) == []
    assert held(part + "fabrik: 1\n", rules) != []
    assert held(part.replace("extends: x\n", ""), rules) != []
