"""Every file of a run is complete or absent, and a run of another version is refused."""

import json
import os
import subprocess
import sys
import time

import pytest

from hpcllm.errors import HpcllmError, UserError
from hpcllm.run_directory import FORMAT, Run, append_jsonl, atomic_path, read_json, read_jsonl, write_json, write_text


def test_a_run_of_another_version_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "resolved.json").write_text(json.dumps({"format": FORMAT + 1}))

    with pytest.raises(
        UserError, match=rf"format: found {FORMAT + 1}; this hpcllm reads {FORMAT}; render the job again"
    ):
        Run.open(tmp_path)


def test_a_folder_that_is_no_run_is_refused_with_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="not a run directory .* hpcllm render JOB --out"):
        Run.open(tmp_path)


def test_a_write_that_fails_leaves_the_old_content_and_no_trace(tmp_path):
    write_text(tmp_path / "file", "old")

    with pytest.raises(RuntimeError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError

    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for content in ("first", "second"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)

    assert os.listdir(tmp_path / "folder") == ["second"]


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    target = tmp_path / "state.json"
    script = (
        "import sys; from pathlib import Path; from hpcllm.run_directory import write_json\n"
        "for i in range(10**9): write_json(Path(sys.argv[1]), {'i': i, 'padding': 'x' * 200_000})"
    )
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", script, str(target)])
        deadline = time.monotonic() + 20
        before = target.stat().st_mtime_ns if target.exists() else 0
        while time.monotonic() < deadline and (not target.exists() or target.stat().st_mtime_ns == before):
            time.sleep(0.01)
        writer.kill()
        writer.wait()
        assert len(read_json(target)["padding"]) == 200_000


def test_a_full_disk_is_an_error_that_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "file", {"old": True})
    script = (
        "import resource, signal, sys; from pathlib import Path; from hpcllm.run_directory import write_json\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_json(Path(sys.argv[1]), {'new': 'x' * 10_000})"
    )

    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "file")], capture_output=True, text=True)

    assert "File too large" in done.stderr
    assert read_json(tmp_path / "file") == {"old": True}
    assert os.listdir(tmp_path) == ["file"]


def test_a_torn_last_line_of_metrics_is_passed_over(tmp_path):
    append_jsonl(tmp_path / "m.jsonl", {"step": 1})
    with (tmp_path / "m.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')

    assert read_jsonl(tmp_path / "m.jsonl") == [{"step": 1}]
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_a_line_appended_after_a_torn_one_is_not_lost(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')

    append_jsonl(tmp_path / "m.jsonl", {"step": 2})

    assert read_jsonl(tmp_path / "m.jsonl") == [{"step": 1}, {"step": 2}]


def test_a_damaged_json_file_is_named(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(HpcllmError, match=r"plan.json: damaged"):
        read_json(tmp_path / "plan.json")
    with pytest.raises(HpcllmError, match=r"none.json: missing"):
        read_json(tmp_path / "none.json")
