"""What a script does when it runs: quoting, signals, exit codes, logs, the record of a command. No Slurm, no MPI."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcllm.derive.setting import Setting
from hpcllm.errors import UserError
from hpcllm.launch.scripts.script import Script
from hpcllm.run_directory import read_json

Maker = Callable[..., Script]
HOSTILE = [
    "two words",
    "it's",
    '"',
    "$(touch owned)",
    "`touch owned`",
    "a\nb",
    "é 漢字",
    "\\",
    "",
    "*",
    "-n",
    "${HOME}",
]
SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ.get('GIVEN')]))"


def ran(script: Script, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", script.path], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def record(script: Script) -> dict[str, object]:
    found: dict[str, object] = read_json(script.run.state_json(script.stage.id))
    return found


def log(script: Script, attempt: int = 1) -> str:
    return script.run.log(script.stage.id, attempt).read_text()


# ---- data stays data -------------------------------------------------------------------------------------------------


def test_words_of_a_command_and_values_of_variables_are_never_code(command_script: Maker, tmp_path: Path) -> None:
    value = "\n".join(HOSTILE)
    script = command_script(
        sys.executable, "-c", SHOW, *HOSTILE, environment=(Setting("GIVEN", value, "job.environment.GIVEN", "x\ny"),)
    )

    assert ran(script).returncode == 0
    assert json.loads(log(script)) == [HOSTILE, value]
    assert not list(tmp_path.rglob("owned"))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
def test_any_words_reach_the_program_as_they_were_given(
    words: list[str], command_script: Maker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from hpcllm.run_directory import Run

    script = command_script(sys.executable, "-c", SHOW, *words, run=Run(tmp_path_factory.mktemp("any") / "run").root)

    assert ran(script).returncode == 0
    assert json.loads(log(script))[0] == words


def test_a_place_on_the_node_expands_there_and_is_left_out_where_it_is_not(
    command_script: Maker, tmp_path: Path
) -> None:
    there = tmp_path / 'a "disk" `touch owned` $(touch owned)'
    there.mkdir()

    def given(needs: str, value: str, run: str) -> str:
        setting = Setting("GIVEN", value, "nodes.gpu.local_scratch.path", "", needs=needs)
        script = command_script(sys.executable, "-c", SHOW, environment=(setting,), run=tmp_path / run)
        assert ran(script, DISK=str(there)).returncode == 0
        return str(json.loads(log(script).splitlines()[-1])[1])

    assert given("$DISK", "$DISK/$UID", "one") == f"{there}/{os.getuid()}"
    assert given(str(there), f"{there}/x", "two") == f"{there}/x"
    assert given("${NOT_SET}", "${NOT_SET}/x", "three") == "None"
    assert given("$DISK/missing", "x", "four") == "None"
    assert not (tmp_path / "owned").exists()


def test_a_reason_that_holds_a_line_break_stays_in_its_comment(command_script: Maker, tmp_path: Path) -> None:
    reason = "mine\ntouch owned\u2028#SBATCH --nodes=9"
    script = command_script("true", environment=(Setting("GIVEN", "1", "job.environment.GIVEN", reason),))

    assert ran(script).returncode == 0
    assert not (tmp_path / "owned").exists()
    assert not any(line.startswith("#SBATCH") for line in script.text().splitlines())


def test_a_run_directory_may_have_spaces_and_quotes_in_its_name(command_script: Maker, tmp_path: Path) -> None:
    script = command_script("echo", "hi", run=tmp_path / "it's a $(run) é")

    assert ran(script).returncode == 0
    assert log(script) == "hi\n"


@pytest.mark.parametrize("name", ["A B", "$(x)", "1A", ""])
def test_a_variable_that_bash_cannot_have_is_the_users_mistake(command_script: Maker, name: str) -> None:
    with pytest.raises(UserError, match="expected the name of a variable"):
        command_script("true", environment=(Setting(name, "1", f"environment.{name}", ""),))


def test_a_nul_character_is_the_users_mistake(command_script: Maker) -> None:
    with pytest.raises(UserError, match="NUL"):
        command_script("true", environment=(Setting("GIVEN", "a\0b", "job.environment.GIVEN", ""),))


# ---- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "outcome"), [(0, "done"), (5, "failed"), (75, "interrupted")])
def test_the_exit_code_of_a_command_is_the_scripts_and_its_record_says_so(
    command_script: Maker, code: int, outcome: str
) -> None:
    script = command_script("bash", "-c", f"exit {code}")

    assert ran(script).returncode == code
    assert record(script) | {"start": 0, "end": 0, "pid": 0, "host": "h", "hosts": []} == {
        **{"stage": "command", "key": None, "attempt": 1, "outcome": outcome, "message": "", "exit_code": code},
        **{"job_id": None, "host": "h", "pid": 0, "world_size": 1, "hosts": [], "start": 0, "end": 0},
    }


def test_every_attempt_has_a_log_of_its_own(command_script: Maker, tmp_path: Path) -> None:
    script = command_script("bash", "-c", "echo x >>count; wc -l <count")

    ran(script)
    ran(script)

    assert (log(script, 1).strip(), log(script, 2).strip()) == ("1", "2")
    assert record(script)["attempt"] == 2


@pytest.mark.parametrize("killed", [False, True])
def test_the_record_of_a_command_is_touched_while_its_script_lives_and_no_process_stays(
    command_script: Maker, killed: bool
) -> None:
    script = command_script("bash", "-c", "echo ready; sleep 2")
    script.run.lifecycle.write_text(script.run.lifecycle.read_text().replace("read -rt 10", "read -rt 0.1"))
    process = subprocess.Popen(["bash", script.path], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    state = script.run.state_json("30-command")
    os.utime(state, (0, 0))
    time.sleep(0.5)

    assert time.time() - state.stat().st_mtime < 1

    if killed:
        process.kill()
    process.communicate(timeout=20)  # its log is closed, or this would wait
    end_s = time.monotonic() + 5
    while processes_of(process.pid) and time.monotonic() < end_s:
        time.sleep(0.1)
    assert processes_of(process.pid) == []


def processes_of(session: int) -> list[str]:
    listed = subprocess.run(["ps", "-o", "stat=,args=", "-s", str(session)], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if not line.startswith("Z")]


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_command_that_ends_badly_after_its_warning_was_interrupted(
    command_script: Maker, number: signal.Signals
) -> None:
    saves = "trap 'echo saved; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    script = command_script("bash", "-c", saves)
    process = subprocess.Popen(["bash", script.path], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"

    process.send_signal(number)

    assert process.wait(timeout=20) == 75
    assert process.stdout.read() == "saved\n"
    assert record(script)["outcome"] == "interrupted"
    process.stdout.close()


def test_a_script_that_is_stopped_before_it_began_does_not_begin(command_script: Maker, tmp_path: Path) -> None:
    script = command_script("touch", "began")
    slow = script.text().replace("# ---- launch\n", "# ---- launch\necho ready; sleep 1\n", 1)
    script.path.write_text(slow)
    process = subprocess.Popen(["bash", script.path], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=20) == 75
    assert not (tmp_path / "began").exists()
    process.stdout.close()


def test_the_rank_and_the_rendezvous_are_in_the_environment(command_script: Maker) -> None:
    script = command_script(
        "bash", "-c", "echo $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $NODE_RANK $MASTER_PORT"
    )

    ran(script, PMI_RANK="0")

    *ranks, port = log(script).split()
    assert ranks == ["0/1", "0/1", "0"]
    assert 1024 <= int(port) < 65536


# ---- back into the queue: what the lab of tests/slurm does for real, for each case -----------------------------------


@pytest.fixture
def queue(fake_slurm: Callable[[str, str], Path]) -> dict[str, Path]:
    fake_slurm("squeue", "echo ${FAKE_STATE:-RUNNING}")
    return {"scontrol": fake_slurm("scontrol", '[[ $1 != show ]] || echo "n1"')}


def requeues(queue: dict[str, Path]) -> int:
    calls = queue["scontrol"]
    return calls.read_text().count("requeue 7") if calls.exists() else 0


IN_A_JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "ENVIRONMENT": "BATCH"}


def in_slurm(command_script: Maker, code: int, said: str = "") -> Script:
    return command_script("bash", "-c", f"echo '{said}'; exit {code}", kind="slurm")


def test_exit_75_puts_the_job_back_into_the_queue(command_script: Maker, queue: dict[str, Path]) -> None:
    script = in_slurm(command_script, 75)

    assert ran(script, **IN_A_JOB, SLURM_RESTART_COUNT="19").returncode == 75
    assert requeues(queue) == 1
    assert record(script)["job_id"] == "7"


def test_of_an_array_one_task_alone_goes_back_and_not_all_of_it(command_script: Maker, queue: dict[str, Path]) -> None:
    script = in_slurm(command_script, 75)

    ran(script, **IN_A_JOB, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")  # the last task's own id is the array's

    assert "requeue 7_3\n" in queue["scontrol"].read_text()
    assert record(script)["job_id"] == "7_3"


def test_after_the_last_requeue_the_job_fails_and_says_how_to_go_on(
    command_script: Maker, queue: dict[str, Path]
) -> None:
    script = in_slurm(command_script, 75)

    assert ran(script, **IN_A_JOB, SLURM_RESTART_COUNT="20").returncode == 1
    assert requeues(queue) == 0
    assert f"hpcllm submit {script.run.root}" in log(script)
    assert record(script)["outcome"] == "failed"


def test_a_script_that_is_stopped_before_it_began_goes_back_into_the_queue_too(
    command_script: Maker, queue: dict[str, Path]
) -> None:
    script = in_slurm(command_script, 0, "began")
    script.path.write_text(script.text().replace("# ---- launch\n", "# ---- launch\nkill -s USR2 $$\n", 1))

    assert ran(script, **IN_A_JOB).returncode == 75
    assert requeues(queue) == 1
    assert "began" not in log(script)
    assert record(script)["outcome"] == "interrupted"


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", ""])
def test_a_job_that_was_cancelled_stays_out_of_the_queue(
    command_script: Maker, queue: dict[str, Path], state: str
) -> None:
    ran(in_slurm(command_script, 75), **IN_A_JOB, FAKE_STATE=state or " ")

    assert requeues(queue) == 0


def test_inside_an_interactive_allocation_nothing_is_requeued(command_script: Maker, queue: dict[str, Path]) -> None:
    ended = ran(in_slurm(command_script, 75), **IN_A_JOB, HPCLLM_FOREGROUND="1")

    assert (ended.returncode, requeues(queue)) == (75, 0)


def test_one_ranks_75_counts_although_srun_stopped_the_others(command_script: Maker, queue: dict[str, Path]) -> None:
    said = "srun: error: n1: task 0: Exited with exit code 75"

    assert ran(in_slurm(command_script, 143, said), **IN_A_JOB).returncode == 75
    assert requeues(queue) == 1


def test_any_other_failure_is_not_retried(command_script: Maker, queue: dict[str, Path]) -> None:
    assert ran(in_slurm(command_script, 143), **IN_A_JOB).returncode == 143
    assert requeues(queue) == 0


@pytest.mark.parametrize(("said", "code"), [("slurmstepd-n1: error: mpi/pmi2: invalid client request", 75), ("", 1)])
def test_a_start_of_mpi_that_slurms_pmi2_broke_is_tried_again(
    command_script: Maker, queue: dict[str, Path], said: str, code: int
) -> None:
    assert ran(in_slurm(command_script, 1, said), **IN_A_JOB).returncode == code
    assert requeues(queue) == (code == 75)
