"""No file, however broken, gives a traceback: neither to profile lint nor to job lint. Bounded to a few seconds.

Run: pytest tests/cluster/test_lint_fuzz.py.
"""

import copy
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcllm import yaml_text
from hpcllm.cluster.lint import lint_file, lint_record
from hpcllm.cluster.profile import shipped_profiles
from hpcllm.errors import UserError
from hpcllm.job.spec import Job

TODAY = date(2026, 11, 24)
PROFILE = (shipped_profiles() / "ib-lustre-a100.yaml").read_text()
MIXED = (shipped_profiles() / "frontier.yaml").read_text()
JOB = (shipped_profiles().parent / "jobs" / "translate.yaml").read_text()

bounded = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
whole_files = settings(bounded, max_examples=25)  # some 20 ms each

words = st.sampled_from(
    ["unknown", "yes", "no", "010", "12:30:00", "1_000", "80GiB", "400Gb/s", "25GB", "-1", "1e999", ".nan", "0-3,8",
     "é", "a100", "gpu", "infiniband", "slingshot", "lustre", "hsn0", "mlx5_0", "../x", "$HOME", "", " ", "x" * 300,
     "9" * 400 + "GiB", "1e999h"]
)  # fmt: skip
scalars = st.one_of(
    words, st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=8), st.dates()
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
pieces = st.sampled_from(
    ["\t", "\n", "  ", "- ", ": ", "{", "}", "[", "]", "'", '"', "&a ", "*a", "<<: ", "!!set ", "!x ", "|", ">", "#",
     "? ", "---\n", "...\n", "%YAML 9", "@", "\x00", "\u2028", "unknown", "[NAME]", "null", "~", "0x", "extends: x\n"]
)  # fmt: skip


def judged(file: Path) -> None:
    """Both lints say something of every line they name, and raise nothing but a mistake of the user's."""
    for lint in (lambda: lint_file(file, TODAY), lambda: lint_record(file, Job)):
        try:
            linted = lint()
        except UserError:
            continue
        assert linted.name or any(finding.severity == "error" for finding in linted.findings)
        assert all(finding.problem.line >= 1 and finding.problem.found for finding in linted.findings)
        assert all("\n" not in str(finding) for finding in linted.findings)


@given(content=st.binary(max_size=80))
@bounded
def test_bytes(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    judged(tmp_path / "x.yaml")


@pytest.mark.parametrize("text", [PROFILE, MIXED, JOB], ids=["profile", "documented", "job"])
@given(data=st.data())
@whole_files
def test_a_shipped_file_with_text_cut_out_and_put_in(tmp_path, text, data):
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(pieces) + text[at + data.draw(st.integers(0, 12)) :]
    (tmp_path / "x.yaml").write_text(text)
    judged(tmp_path / "x.yaml")


def _paths(tree, path=()):
    yield path
    for key, inner in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from _paths(inner, (*path, key))


@pytest.mark.parametrize("text", [PROFILE, MIXED, JOB], ids=["profile", "documented", "job"])
@given(data=st.data())
@whole_files
def test_a_shipped_file_with_other_values_and_keys(tmp_path, text, data):
    tree = copy.deepcopy(yaml_text.read(text, "x").data)
    for _ in range(data.draw(st.integers(1, 4))):
        *above, key = data.draw(st.sampled_from([path for path in _paths(tree) if path]))
        part = tree
        for step in above:
            part = part[step]
        if isinstance(part, dict) and data.draw(st.booleans()):
            part[data.draw(words)] = part.pop(key)
        else:
            part[key] = data.draw(trees)
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False))
    judged(tmp_path / "x.yaml")


@given(tree=trees)
@bounded
def test_any_tree(tmp_path, tree):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True))
    judged(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "- " * 5000,
        "{a: " * 5000,
        "&a [*a, *a]",
        "a: &a {b: *a}",
        "x: &a [1]\n<<: *a\n",
        "<<: 3\n<<: {name: x}\n",
        "? {a: b}\n: c\n",
        "? - a\n: c\n",
        "!!binary aGk=",
        "name: !!int many\n",
        "name: !!timestamp 2026-13-45\n",
        "name: " + "9" * 6000,
        "---\na: 1\n---\nb: 2\n",
        "name: x\n\tb: 1\n",
        "\ufeffname: x\n",
        "a: [1, 2\nb: 3\n",
        "null\n",
        "extends: x.yaml\n",
        "extends: [x]\n",
        "nodes: {a: {memory: " + "9" * 400 + "GiB, cores: 0x" + "f" * 5000 + "}}\n",
        "nodes: {a: {gpus: {count: 99999999999999999999, cpus: ['0-99999999999']}}}\n",
    ],
)
def test_known_traps(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    judged(tmp_path / "x.yaml")
