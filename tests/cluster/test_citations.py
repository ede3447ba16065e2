"""Citations of a documented profile. Run: pytest tests/cluster/test_citations.py."""

from datetime import date
from pathlib import Path

from hpcllm.cluster.lint import lint_file

PROFILE = """\
name: cited
verified: {how: documented, date: 2026-11-24}
sources:
  UG: {what: "example.org/guide#1", read: 2026-11-24}
scheduler:                       # [UG jobs.md] the whole block
  kind: slurm
  partitions:
    gpu: {node_type: a, max_time: 24h}
nodes:
  a:
    count: 4                     # [UG]
    cores: 64                    # [assumed] all of them
    memory: unknown
fabric: {kind: infiniband}       # HDR [UG network.md; assumed]
filesystems:
  scratch: {kind: lustre, path: /scratch}   # [UG]
software:                        # [UG]
  mpi: {flavour: openmpi, launcher: [srun]}
"""


def found(folder: Path, text: str, name: str = "x.yaml") -> list[str]:
    (folder / name).write_text(text)
    linted = lint_file(folder / name, date(2026, 11, 24))
    return [str(f).removeprefix(f"{folder}/") for f in linted.findings if f.severity != "note"]


def test_a_value_is_cited_by_its_own_line_or_by_the_one_that_opens_its_block(tmp_path):
    assert found(tmp_path, PROFILE) == []


def test_a_value_without_a_citation_is_named(tmp_path):
    assert found(tmp_path, PROFILE.replace("# [UG]\n    cores", "# four\n    cores")) == [
        "x.yaml:11:5: warning: nodes.a.count: no citation; say behind it where it is from, # [NAME page], "
        "or # [assumed] and why"
    ]


def test_a_citation_of_no_source_is_an_error_with_the_one_that_was_meant(tmp_path):
    said = found(tmp_path, PROFILE.replace("# [UG jobs.md]", "# [GU jobs.md]"))

    assert said[0].startswith("x.yaml:5:1: scheduler: cites [GU], which is no source; there are UG; did you mean UG?")


def test_a_source_that_nothing_cites_is_named(tmp_path):
    more = PROFILE.replace("scheduler:", '  OLD: {what: "x", read: 2026-11-24}\nscheduler:', 1)

    assert found(tmp_path, more) == ["x.yaml:5:3: warning: sources.OLD: cited by no value"]


def test_a_hash_in_quotes_begins_no_comment(tmp_path):
    quoted = PROFILE.replace("path: /scratch}   # [UG]", 'path: "/scratch # [UG]"}')

    assert [line.split(": ")[2] for line in found(tmp_path, quoted)] == ["filesystems.scratch.kind"]


def test_an_example_needs_no_citations(tmp_path):
    assert found(tmp_path, PROFILE.replace("# [UG]", "#").replace("how: documented", "how: example")) == []


def test_a_profile_without_sources_says_so_once(tmp_path):
    bare = PROFILE.replace('sources:\n  UG: {what: "example.org/guide#1", read: 2026-11-24}\n', "")

    assert found(tmp_path, bare) == [
        "x.yaml:2:12: warning: verified.how: documented, but no page is named under `sources:`"
    ]


def test_of_a_profile_that_extends_another_its_own_values_are_looked_at(tmp_path):
    found(tmp_path, PROFILE.replace("# [UG]\n    cores", "# four\n    cores"), "base.yaml")
    mine = "extends: base.yaml\nname: mine\nverified: {how: documented, date: 2026-11-24}\nnodes: {a: {sockets: 2}}\n"

    assert [line.split(": ")[:3] for line in found(tmp_path, mine)] == [["x.yaml:4:13", "warning", "nodes.a.sockets"]]
