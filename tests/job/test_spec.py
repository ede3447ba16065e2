"""A job file: every mistake of it at its line and column, and the frozen form reads back as the same job."""

import json
from pathlib import Path

import pytest

from hpcllm import source
from hpcllm.errors import SourceError
from hpcllm.job.spec import CommandJob, Job, absolute, kind_of, load_any_job

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))

GOOD = """\
name: small
data:
  text:
    files: ["corpus/*.txt", "stdlib:**/*.py", "/data/a.txt"]
    exclude: ["corpus/bad.txt"]
  split: {validation: 5%, test: 0.1}
model:
  layers: 2
  width: 64
  heads: 4
  feed_forward: 256
  context: 32
train:
  steps: 10
  global_batch: 8
resources: {nodes: 2, time: 1h}
"""


def read(text: str) -> Job:
    data, positions = source.parse(text, "job.yaml")
    return source.check(data, Job, "job.yaml", positions)


def problems(text: str) -> list[str]:
    with pytest.raises(SourceError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_shipped_job_reads_and_its_frozen_form_is_the_same(path: Path):
    job = load_any_job(path)

    frozen = json.loads(job.model_dump_json(by_alias=True))
    assert source.check(frozen, kind_of(frozen), "resolved.json", {}) == job


def test_the_frozen_form_of_a_command_is_the_same():
    job = CommandJob(name="mine", command=("python", "train.py", "--lr", "0.1"))

    frozen = json.loads(job.model_dump_json(by_alias=True))
    assert source.check(frozen, CommandJob, "resolved.json", {}) == job


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("  width: 64", "  widht: 64", "job.yaml:9:3: model.widht: unknown key; did you mean width?"),
        ("  steps: 10", "  setps: 10", "job.yaml:14:3: train.setps: unknown key; did you mean steps?"),
        ("name: small", "nmae: small", "job.yaml:1:1: nmae: unknown key; did you mean name?"),
        (
            "time: 1h}",
            "time: 1GiB}",
            "job.yaml:16:23: resources.time: found '1GiB'; expected a time such as 90s, 4h, 1d12h or 12:30:00",
        ),
        (
            "time: 1h}",
            "time: 3600}",
            "job.yaml:16:23: resources.time: found 3600; expected a time such as 90s, 4h, 1d12h or 12:30:00",
        ),
        ("  layers: 2", "  layers: two", "job.yaml:8:3: model.layers: found 'two'; expected a whole number"),
        ("steps: 10", "steps: 0", "job.yaml:14:3: train.steps: found 0; input should be greater than or equal to 1"),
        (
            "  steps: 10",
            "  steps: 10\n  steps: 20",
            "job.yaml:15:3: train.steps: this key stands twice, first in line 14; keep one",
        ),
        ("heads: 4", "heads: 7", "job.yaml:10:3: model.heads: 7 does not divide the width 64; 8 does"),
        ("validation: 5%", "validation: 500%", "job.yaml:6:11: data.split.validation: found '500%'; expected a share"),
        ("  layers: 2\n", "", "job.yaml:7:1: model.layers: this key is required"),
        ("  layers: 2", "  preset: gpt3", "job.yaml:8:3: model.preset: found 'gpt3'; allowed are gpt2-124m, "),
        ("exclude: [", "exclude: ", "job.yaml:5:30: not YAML: "),
        ("  layers: 2", "\tlayers: 2", "job.yaml:8:1: a tab; YAML is indented with spaces"),
        (
            '    exclude: ["corpus/bad.txt"]',
            "  pairs: {target_language: fr, gettext: [a.mo]}",
            "job.yaml:2:1: data: expected either text or pairs",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_is_allowed(old: str, new: str, problem: str):
    assert old in GOOD

    found = problems(GOOD.replace(old, new))

    assert any(line.startswith(problem) for line in found), found


def test_all_mistakes_of_a_file_come_at_once_in_their_order():
    text = GOOD.replace("width", "widht").replace("steps: 10", "steps: -1").replace("1h", "1 parsec")

    places = [line.split(": ")[0] for line in problems(text)]

    assert places == ["job.yaml:9:3", "job.yaml:14:3", "job.yaml:16:23"]  # and not that width is missing, too


def test_relative_paths_start_at_the_job_file(tmp_path: Path):
    text = absolute(read(GOOD), tmp_path).data.text

    assert text is not None
    assert text.files == (f"{tmp_path}/corpus/*.txt", "stdlib:**/*.py", "/data/a.txt")
    assert text.exclude == (f"{tmp_path}/corpus/bad.txt",)


def test_paths_of_pairs_start_there_too_and_keep_their_language_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/someone")
    text = GOOD.replace("  layers: 2", "  architecture: seq2seq\n  layers: 2")
    gettext = text.replace(
        text[text.index("  text:") : text.index("  split:")],
        '  pairs: {target_language: fr, gettext: ["~/{target_language}/*.mo", "package:x/*.mo", "../up/b.po"]}\n',
    )
    aligned = gettext.replace(
        gettext[gettext.index("gettext:") : gettext.index("]}\n") + 1], "source_file: a, target_file: b"
    )

    pairs = absolute(read(gettext), tmp_path / "jobs").data.pairs
    files = absolute(read(aligned), tmp_path / "jobs").data.pairs

    assert pairs is not None
    assert pairs.gettext == ("/home/someone/{target_language}/*.mo", "package:x/*.mo", f"{tmp_path}/up/b.po")
    assert files is not None
    assert (files.source_file, files.target_file) == (f"{tmp_path}/jobs/a", f"{tmp_path}/jobs/b")


def test_absolute_paths_stay_when_they_are_made_absolute_again(tmp_path: Path):
    once = absolute(read(GOOD), tmp_path)

    assert absolute(once, Path("/elsewhere")) == once


def test_a_byte_tokenizer_has_its_own_vocabulary():
    assert read(GOOD.replace("  split:", "  tokenizer: {kind: byte}\n  split:")).data.tokenizer.most_tokens == 260
