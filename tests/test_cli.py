"""The words of the command line, frozen; and what a mistake looks like: one message, the right code, no traceback."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpcllm import cli
from hpcllm.errors import ExitCode

ROOT = Path(__file__).parents[1]
DEMO = str(ROOT / "jobs" / "demo.yaml")

# Options are few: a knob goes to the YAML. A new word here is a decision.
RESOURCES = {"--nodes", "--ranks-per-node", "--gpus", "--time", "--partition", "--account", "--qos"}
WORDS = {
    "plan": {"JOB", "--cluster", "--explain", "--json"} | RESOURCES,
    "render": {"JOB", "--cluster", "--name", "--out", "--env", "--container", "--no-freeze", "--no-requeue"}
    | RESOURCES,
    "submit": {
        "JOB",
        "--cluster",
        "--name",
        "--out",
        "--env",
        "--container",
        "--no-freeze",
        "--no-requeue",
        "--dry-run",
    }
    | RESOURCES,
    "run": {"JOB", "--cluster", "--ranks", "--oversubscribe", "--out"},
    "preflight": {"--ranks", "--nodes", "--run", "--json"},
    "status": {"RUN", "--efficiency", "--json"},
    "watch": {"RUN"},
    "logs": {"RUN", "STAGE", "--follow", "--errors"},
    "cancel": {"RUN", "STAGE"},
    "report": {"RUN", "--out", "--open", "--json"},
    "generate": {"RUN", "--prompt", "--tokens", "--temperature"},
    "data inspect": {"FILE|RUN"},
    "data verify": {"FILE|RUN"},
    "profile show": {"CLUSTER", "--derived", "--json"},
    "profile lint": {"FILE|NAME", "--json"},
    "profile detect": {"--job", "--partition", "--account", "--qos", "--out"},
    "profile probe": {"CLUSTER", "--out", "--dry-run", "--json"} | RESOURCES - {"--ranks-per-node", "--gpus"},
    "profile schema": set(),
    "job lint": {"FILE", "--json"},
    "job schema": set(),
    "stage": {"NAME", "RUN", "--part"},
}


def parsers(parser, prefix=""):
    for action in parser._actions:
        if not isinstance(action.choices, dict):
            continue
        for name, inner in action.choices.items():
            deeper = dict(parsers(inner, f"{prefix}{name} "))
            yield from deeper.items() if deeper else [(f"{prefix}{name}", inner)]


def words(parser):
    return {
        action.option_strings[-1] if action.option_strings else action.metavar or action.dest
        for action in parser._actions
        if "-h" not in action.option_strings
    }


def test_the_commands_and_their_options_are_these():
    assert {name: words(parser) for name, parser in parsers(cli._parser())} == WORDS


def test_every_command_has_an_example_in_its_help():
    helps = {name: parser.epilog for name, parser in parsers(cli._parser())}
    assert all(f"example: hpcllm {name}" in helps[name] for name in WORDS)


def call(capsys, *argv):
    code = cli.main(list(argv))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("option", "word", "said"),
    [
        ("--env", "nowhere", "expected a venv, a conda environment, or an archive"),
        ("--container", "x.sif", "no container"),
    ],
)
def test_an_environment_that_cannot_be_is_told_before_anything_is_written(capsys, tmp_path, option, word, said):
    out = tmp_path / "run"

    code, _, err = call(capsys, "render", "--cluster", "slurm-lab", option, word, "--out", str(out), "--", "true")

    assert code == ExitCode.USER_MISTAKE
    assert said in err
    assert not out.exists()


def test_a_missing_job_file_is_named(capsys, tmp_path):
    code, _, err = call(capsys, "plan", str(tmp_path / "none.yaml"))

    assert code == ExitCode.USER_MISTAKE
    assert "none.yaml: no such file" in err


def test_every_mistake_of_a_job_is_told_with_its_place(capsys, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(
        (ROOT / "jobs" / "demo.yaml").read_text().replace("steps:", "stepps:").replace("time: 30m", "time: 30")
    )

    code, out, err = call(capsys, "render", str(job), "--out", str(tmp_path / "run"))

    assert code == ExitCode.USER_MISTAKE
    assert "train.stepps: unknown key; did you mean steps?" in err
    assert "resources.time: found 30; expected a time such as" in err
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_more_ranks_than_cores_need_a_word(capsys, tmp_path):
    code, _, err = call(capsys, "run", DEMO, "--ranks", "512", "--out", str(tmp_path / "run"))

    assert code in (ExitCode.USER_MISTAKE, ExitCode.DOES_NOT_FIT)
    assert "--oversubscribe" in err
    assert not (tmp_path / "run").exists()


def test_a_job_too_big_for_the_cluster_is_refused_with_the_limit(capsys, tmp_path):
    argv = ("render", DEMO, "--cluster", "slurm-lab", "--nodes", "64", "--out", str(tmp_path / "run"))

    code, _, err = call(capsys, *argv)

    assert code == ExitCode.DOES_NOT_FIT
    assert "4" in err
    assert not (tmp_path / "run").exists()


def test_an_unknown_cluster_is_answered_with_the_known_ones(capsys):
    code, _, err = call(capsys, "plan", DEMO, "--cluster", "slurm-lap")

    assert code == ExitCode.USER_MISTAKE
    assert "slurm-lab" in err


def test_a_run_of_another_version_is_refused(capsys, tmp_path):
    (tmp_path / "resolved.json").write_text('{"format": 99}')

    code, _, err = call(capsys, "status", str(tmp_path))

    assert code == ExitCode.USER_MISTAKE
    assert "resolved.json: format: found 99" in err


def test_neither_job_nor_command_is_a_mistake(capsys):
    code, _, err = call(capsys, "submit", "--nodes", "2")

    assert code == ExitCode.USER_MISTAKE
    assert "expected a job file, or a program behind --" in err


def test_a_wrong_time_names_its_option(capsys):
    code, _, err = call(capsys, "plan", DEMO, "--time", "4")

    assert code == ExitCode.USER_MISTAKE
    assert "--time: found '4'" in err


def test_json_is_one_document_and_nothing_else(capsys):
    code, out, _ = call(capsys, "plan", DEMO, "--cluster", "slurm-lab", "--json")

    assert code == ExitCode.DONE
    assert json.loads(out)["fits"] is True


@pytest.mark.parametrize("what", ["profile", "job"])
def test_the_schema_describes_every_field(capsys, what):
    code, out, _ = call(capsys, what, "schema")

    assert code == ExitCode.DONE
    records = [json.loads(out), *json.loads(out)["definitions"].values()]
    fields = {name: field for record in records for name, field in record.get("properties", {}).items()}
    assert len(fields) > 50
    assert [name for name, field in fields.items() if not field.get("description")] == []


def test_the_planner_on_a_login_node_loads_nothing_heavy():
    script = (
        "import sys; from hpcllm.cli import main\n"
        f"assert main(['plan', {str(ROOT / 'jobs' / 'gpt2-124m.yaml')!r}, '--cluster', 'ib-lustre-a100']) == 0\n"
        "print([name for name in ('torch', 'mpi4py', 'h5py', 'numpy') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def rendered(capsys, tmp_path):
    run = tmp_path / "run"
    assert call(capsys, "render", DEMO, "--cluster", "slurm-lab", "--out", str(run))[0] == ExitCode.DONE
    return run


def test_a_report_into_a_folder_leaves_what_is_there(capsys, tmp_path):
    run, folder = rendered(capsys, tmp_path), tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")

    code, _, _ = call(capsys, "report", str(run), "--out", str(folder))

    assert code == ExitCode.DONE
    assert (folder / "thesis.txt").read_text() == "precious"
    assert (folder / "report.html").exists()


def test_a_copied_run_does_not_act_on_the_original(capsys, tmp_path):
    run, copy = rendered(capsys, tmp_path), tmp_path / "copy"
    shutil.copytree(run, copy)

    code, _, err = call(capsys, "run", str(copy))

    assert code == ExitCode.USER_MISTAKE
    assert f"was rendered at {run}" in err
    assert call(capsys, "status", str(copy))[0] == ExitCode.DONE  # reading one is fine


def test_a_run_goes_on_as_it_was_rendered(capsys, tmp_path):
    run = rendered(capsys, tmp_path)

    code, _, err = call(capsys, "run", str(run), "--ranks", "1")

    assert code == ExitCode.USER_MISTAKE
    assert "leave out --ranks" in err


@pytest.mark.parametrize("name", ["../evil", "", "a\nb", "-rf", "/etc"])
def test_a_name_that_is_none_is_refused(capsys, tmp_path, name):
    job = tmp_path / "job.yaml"
    job.write_text((ROOT / "jobs" / "demo.yaml").read_text().replace("name: demo", f"name: {json.dumps(name)}"))

    code, out, _ = call(capsys, "job", "lint", str(job))

    assert code == ExitCode.USER_MISTAKE
    assert "name: found" in out


def test_a_name_with_spaces_is_quoted_in_what_is_said(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")

    code, out, _ = call(capsys, "render", "--name", "my $(job)", "--out", "my run", "--", "python", "train.py")

    assert code == ExitCode.DONE
    assert f"bash '{tmp_path}/my run/scripts/" in out


@pytest.mark.parametrize(
    ("words", "corrected"),
    [
        ("submit --nodes 4 python train.py --lr 3", "submit --nodes 4 -- python train.py --lr 3"),
        ("run bash -c 'exit 0'", "run -- bash -c 'exit 0'"),
        ("submit pyhton train.py", "submit -- pyhton train.py"),
        ("submit ./train.sh", "submit -- ./train.sh"),
        ("render --name mine train.py --nodes 2", "render --name mine -- train.py --nodes 2"),
    ],
)
def test_a_program_without_the_dashes_is_told_where_they_stand(capsys, tmp_path, monkeypatch, words, corrected):
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "train.sh"):
        (tmp_path / name).write_text("")

    code, out, err = call(capsys, *shlex.split(words))

    assert code == ExitCode.USER_MISTAKE
    assert err.startswith("hpcllm: ")
    assert err.endswith(f": hpcllm {corrected}\n")
    assert out == ""


def test_a_word_too_many_behind_a_job_file_is_still_a_word_too_many(capsys):
    with pytest.raises(SystemExit):
        call(capsys, "submit", DEMO, "--nodse", "2")

    assert "unrecognized arguments: --nodse 2" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(capsys):
    code, _, err = call(capsys, "render", DEMO, "--cluster", "slurm-lab", "--out", "/proc/none")

    assert code == ExitCode.USER_MISTAKE
    assert "/proc/none" in err


def test_a_reader_that_leaves_early_sees_no_traceback():
    command = [sys.executable, "-m", "hpcllm", "profile", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()

        assert process.stderr.read() == ""
