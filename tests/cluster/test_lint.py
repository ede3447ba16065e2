"""profile lint: a file full of mistakes in one run, each at its place. Run: pytest tests/cluster/test_lint.py."""

import json
from datetime import date
from pathlib import Path

import pytest
import yaml

from hpcllm import cli
from hpcllm.cluster.lint import lint_file
from hpcllm.cluster.profile import shipped_profiles
from hpcllm.errors import ExitCode

TODAY = date(2026, 11, 24)

# One mistake a line, each of another kind; behind it, its place and a part of what is said.
PLANTED = """\
name: planted
nmae: planted                                           #! 2:1 nmae: unknown key; did you mean name?
verified: {how: documentd, date: 2026-11-24}            #! 3:12 verified.how: found 'documentd' … did you mean documented?
sources: [guide]                                        #! 4:1 sources: found a list; expected a map of keys
scheduler:
  kind: slrum                                           #! 6:3 scheduler.kind: found 'slrum'; allowed are slurm, local; did you mean slurm?
  account_required: yes                                 #! 7:3 scheduler.account_required: found 'yes'; expected true or false: write true
  max_submitted: 0100                                   #! 8:3 scheduler.max_submitted: found '0100' … octal number 64
  max_array_size: 12:30:00                              #! 9:3 scheduler.max_array_size: found '12:30:00' … the number 45000 (to base 60)
  requeue: true
  requeue: false                                        #! 11:3 scheduler.requeue: this key stands twice, first in line 10
  version: 23.11                                        #! 12:3 scheduler.version: found 23.11; expected text: put it in quotes
  qos: {normal: {}}
  partitions:
    day: {node_type: a100, max_time: 24}                #! 15:28 scheduler.partitions.day.max_time: found 24; expected a time
    week: {node_type: a1000, default: true}             #! 16:12 scheduler.partitions.week.node_type: found 'a1000' … did you mean a100?
    wide: {node_type: a100, qos: nrmal}                 #! 17:29 scheduler.partitions.wide.qos: found 'nrmal'; allowed are normal; did you mean normal?
    deep: {node_type: a100, min_nodes: 9, max_nodes: 2} #! 18:29 scheduler.partitions.deep.min_nodes: found 9, above max_nodes: 2
    main: {node_type: a100, default: true}              #! 19:29 scheduler.partitions.main.default: week is the default already
    two words: {node_type: a100}                        #! 20:5 scheduler.partitions.two words: found 'two words'; expected one name
nodes:
  a100:
    count: 4
    cores: 64
    memory: 512Gb                                       #! 25:5 nodes.a100.memory: found '512Gb'; expected a size in bytes
    gpus:
      model: A100-80GB
      count: 4
      memory: 40GB                                      #! 29:7 nodes.a100.gpus.memory: found 40 GB; one A100-80GB has 80 GB
      link: 600GB/s                                     #! 30:7 nodes.a100.gpus.link: found 600 GB/s … both ways together?
      cpus: ["0-15", "8-31", "32-47", "48-63"]          #! 31:22 nodes.a100.gpus.cpus[1]: CPU 8 stands next to GPU 0 too
  cpu:
    cores: many                                         #! 33:5 nodes.cpu.cores: found 'many'; expected a whole number
fabric:
  kind: slingshot
  rate: 200GB/s                                         #! 36:3 fabric.rate: found 1600 Gb/s … did you mean 200Gb/s? b is bits
  interfaces: [ib0]                                     #! 37:16 fabric.interfaces[0]: found ib0 … this fabric is slingshot
  latency: 2                                            #! 38:3 fabric.latency: found 2; expected a time
filesystems:
  scratch: {kind: lustre, path: /scratch, write: 20Gb}  #! 40:43 filesystems.scratch.write: found '20Gb'; expected a rate
  home: {kind: nfs, path: /home, striping: progresive}  #! 41:34 filesystems.home.striping … did you mean progressive?
software:
  modules: gcc/13                                       #! 43:3 software.modules: found 'gcc/13'; expected a list
  mpi: {launcher: [mpirun, --mpi=pmix]}                 #! 44:3 software.mpi.flavour: this key is required
internet: {compute: off}                                #! 45:12 internet.compute: found 'off'; expected true or false: write false
environment:
  2X: "1"                                               #! 47:3 environment.2X: found '2X'; expected the name of an environment variable
  OMP_WAIT_POLICY: 3                                    #! 48:3 environment.OMP_WAIT_POLICY: found 3; expected text: put it in quotes
  https_proxy: http://me:secret@proxy:3128              #! 49:3 environment.https_proxy: a password or key
  ? [NCCL, DEBUG]                                       #! 50:5 environment: found a list or a map as a key
  : "1"
reliability:
	node_mtbf: 1y                                       #! 53:1 a tab; YAML is indented with spaces
"""  # noqa: E501


def written(folder: Path, text: str, name: str = "planted.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def expected(text: str = PLANTED) -> list[tuple[str, list[str]]]:
    rows = [line.partition("#! ")[2] for line in text.splitlines() if "#!" in line]
    return [(place, parts.split(" … ")) for place, _, parts in (row.partition(" ") for row in rows)]


def test_every_planted_mistake_is_told_at_its_place_in_one_run(tmp_path):
    file = written(tmp_path, PLANTED)

    errors = [str(f) for f in lint_file(file, TODAY).findings if f.severity == "error"]

    for place, parts in expected():
        there = [error for error in errors if error.startswith(f"{file}:{place}: ")]
        assert any(all(part in error for part in parts) for error in there), (place, parts, errors)
    assert len(errors) == len(expected())


@pytest.mark.parametrize("section", ["nodes", "filesystems"])
@pytest.mark.parametrize("instead", ["SECTION: []", "SECTION: {}", "SECTION: many", ""])
def test_a_section_without_any_entry_hides_no_other_mistake(tmp_path, section, instead):
    document = yaml.safe_load((shipped_profiles() / "slurm-lab.yaml").read_text())
    del document[section]
    text = yaml.safe_dump({**document, "environment": {"https_proxy": "http://me:secret@proxy:3128"}})

    errors = [str(f) for f in lint_file(written(tmp_path, text + instead.replace("SECTION", section)), TODAY).findings]

    assert any(f": {section}: " in error for error in errors)
    assert any("environment.https_proxy: a password or key" in error for error in errors)


def test_the_command_prints_them_and_exits_as_for_a_mistake(tmp_path, capsys):
    code = cli.main(["profile", "lint", str(written(tmp_path, PLANTED))])

    out = capsys.readouterr().out.splitlines()
    assert code == ExitCode.USER_MISTAKE
    assert f"planted.yaml: {len(expected())} errors" in out[-1]


def test_a_profile_is_linted_by_its_name_too(capsys):
    code = cli.main(["profile", "lint", "slurm-lab", "ib-lustre-a100"])

    out = capsys.readouterr().out
    assert code == ExitCode.DONE
    assert "slurm-lab.yaml: fine, describes slurm-lab" in out
    assert "ib-lustre-a100.yaml: fine, describes ib-lustre-a100" in out


def test_findings_as_json(tmp_path, capsys):
    file = written(tmp_path, (shipped_profiles() / "slurm-lab.yaml").read_text().replace("cores: 2", "cores: two"))

    code = cli.main(["profile", "lint", str(file), "--json"])

    found = json.loads(capsys.readouterr().out)[str(file)]
    assert code == ExitCode.USER_MISTAKE
    assert found["name"] is None
    assert [(row["severity"], row["field"]) for row in found["findings"]] == [("error", "nodes.lab.cores")]


def test_warnings_alone_are_no_mistake(tmp_path, capsys):
    text = (shipped_profiles() / "slurm-lab.yaml").read_text().replace("max_time: 2m", "max_time: 12:30:00")

    code = cli.main(["profile", "lint", str(written(tmp_path, text))])

    assert code == ExitCode.DONE
    assert "1 warning" in capsys.readouterr().out.splitlines()[-1]


def test_an_unquoted_clock_time_is_read_and_warned_of(tmp_path):
    text = (shipped_profiles() / "slurm-lab.yaml").read_text().replace("max_time: 2m", "max_time: 12:30:00")

    linted = lint_file(written(tmp_path, text), TODAY)

    assert linted.name == "slurm-lab"
    assert "12:30:00, which other readers of YAML take for the number 45000" in str(linted.findings[0])


def test_a_finding_of_a_base_is_located_in_the_base(tmp_path):
    base = (shipped_profiles() / "ib-lustre-a100.yaml").read_text().replace("memory: 80GiB", "memory: 40GiB")
    written(tmp_path, base, "base.yaml")
    change = "extends: base.yaml\nname: mine\nverified: {how: example, date: 2026-11-24}\nfabric: {rate: 1600Gb/s}\n"

    linted = lint_file(written(tmp_path, change, "mine.yaml"), TODAY)

    errors = [f.problem for f in linted.findings if f.severity == "error"]
    assert {(Path(p.file).name, p.field) for p in errors} == {
        ("base.yaml", "nodes.a100.gpus.memory"),
        ("mine.yaml", "fabric.rate"),
    }


def test_a_base_that_is_not_there_is_named(tmp_path):
    linted = lint_file(written(tmp_path, "extends: nowhere\nname: x\nname: y\n"), TODAY)

    base, twice = map(str, linted.findings)
    assert "extends: found 'nowhere'; there is no such profile" in base
    assert "name: this key stands twice" in twice


JOB = """\
name: x/y                                #! 1:1 name: found 'x/y'; expected a name in one line
resources: {nodes: 2.5, time: 30}        #! 2:13 resources.nodes: found 2.5; expected a whole number
data:
  text: {files: corpus}                  #! 4:10 data.text.files: found 'corpus'; expected a list
  split: {validation: 500%}              #! 5:11 data.split.validation: found '500%'; expected a share
  tokenizer: {kind: bep}                 #! 6:15 data.tokenizer.kind: found 'bep' … did you mean bpe?
model: {preset: gpt2-124m, heads: 7}     #! 7:28 model.heads: 7 does not divide the width 768
train:
  steps: 010                             #! 9:3 train.steps: found '010' … octal number 8
  global_batch: yes                      #! 10:3 train.global_batch: found 'yes'; expected a whole number
  precision: fp16                        #! 11:3 train.precision: found 'fp16'; allowed are auto, fp32, bf16
  optimiser: {}                          #! 12:3 train.optimiser: unknown key; did you mean optimizer?
evaluate: {perplexity: on}               #! 13:12 evaluate.perplexity: found 'on'; expected true or false: write true
environment: {OMP-X: "1"}                #! 14:15 environment.OMP-X: found 'OMP-X'; expected the name of
"""


def test_every_mistake_of_a_job_is_told_in_one_run_too(tmp_path, capsys):
    file = written(tmp_path, JOB, "job.yaml")

    code = cli.main(["job", "lint", str(file)])

    out = capsys.readouterr().out.splitlines()
    assert code == ExitCode.USER_MISTAKE
    for place, parts in expected(JOB):
        assert any(line.startswith(f"{file}:{place}: ") and all(p in line for p in parts) for line in out), (place, out)
    assert out[-1] == f"{file}: {len(expected(JOB)) + 1} errors"  # resources.time in its line is one more


def test_an_unknown_name_is_a_mistake_with_the_names_there_are(capsys):
    code = cli.main(["profile", "lint", "slurm-lap"])

    assert code == ExitCode.USER_MISTAKE
    assert "did you mean slurm-lab?" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(shipped_profiles().glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_profile_has_no_error_and_cites_its_sources(path):
    linted = lint_file(path, TODAY)

    assert [str(f) for f in linted.findings if f.severity == "error" or "cit" in f.problem.found] == []
    assert linted.name == path.stem
