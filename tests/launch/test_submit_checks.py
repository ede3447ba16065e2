"""What is found before anything is in the queue: all of it at once, each with value, limit and next step."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import hostile
from shipped_jobs import JOBS, demo, described

from hpcllm.cluster.profile import Profile
from hpcllm.errors import UserError
from hpcllm.job.spec import CommandJob, frozen_any_job
from hpcllm.launch.render import render
from hpcllm.launch.scripts.shell import directive_word
from hpcllm.launch.submission.ahead import options_in
from hpcllm.launch.submission.finding import Finding
from hpcllm.launch.submission.room import Quota, quota_of, room
from hpcllm.launch.submission.site_rules import slurm_seconds
from hpcllm.launch.submission.submit import check, submit
from hpcllm.plan.plan import read_plan
from hpcllm.plan.search import search
from hpcllm.run_directory import Run

Fake = Callable[[str, str], Path]
ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def site(fake_slurm: Fake, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """site(...): a Slurm that takes every script, and knows these associations, partitions and queued jobs."""
    for name in [name for name in os.environ if name.startswith("SBATCH_")]:
        monkeypatch.delenv(name)

    def answer(
        sbatch: str = "[[ $1 == --test-only ]] || echo 7",
        assoc: str = "research||normal,small|normal|",
        qos: str = "normal||",
        partition: str = "PartitionName=batch Default=YES State=UP MaxTime=UNLIMITED MaxNodes=UNLIMITED",
        queue: str = "",
    ) -> None:
        fake_slurm("sbatch", sbatch)
        fake_slurm("sacctmgr", f"[[ $* == *' qos '* ]] && echo '{qos}' || echo '{assoc}'")
        fake_slurm("scontrol", f"echo '{partition}'")
        fake_slurm("squeue", f"[[ $* == *Command* ]] && printf '{queue}' || true")
        fake_slurm("sacct", "")

    return answer


@pytest.fixture
def command_run(tmp_path: Path) -> Callable[..., Run]:
    def make(profile: Profile | None = None, **slurm: Any) -> Run:
        job = CommandJob.model_validate(
            {"name": "mine", "command": ["true"], "slurm": slurm, "resources": {"nodes": 2, "time": "1h"}}
        )
        return render(profile or described(), None, job, None, None, tmp_path / "run", cwd=tmp_path)

    return make


def said(run: Run, kind: str = "refusal") -> str:
    return "\n".join(finding.says for finding in check(run) if finding.kind == kind)


def with_scheduler(**fields: Any) -> Profile:
    data = described().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    data["scheduler"] = {**data["scheduler"], **fields}
    return Profile.model_validate(data)


def test_nothing_in_the_way_is_said_too(site: Callable[..., None], command_run: Callable[..., Run]) -> None:
    site()

    found = check(command_run())

    assert {finding.kind for finding in found} == {"good"}
    assert [finding.what for finding in found] == ["scripts", "account", "limits", "room"]


def test_everything_that_is_wrong_is_said_at_once(site: Callable[..., None], command_run: Callable[..., Run]) -> None:
    site(
        sbatch="echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1",
        partition="PartitionName=batch Default=YES State=DOWN MaxTime=30:00 MaxNodes=1",
        queue="1|research|normal|batch|/other|\\n",
    )
    run = command_run(with_scheduler(max_submitted=1), account="closed", qos="gold")

    with pytest.raises(UserError) as refused:
        submit(run)

    assert str(refused.value).splitlines() == [
        "30-command: Slurm refuses it: Batch job submission failed: Invalid account; give another one: --account NAME "
        "(sacctmgr show associations user=$USER lists yours)",
        f"account: found closed; {ME} has research; give --account research",
        "nodes: found 2; partition batch gives 1; --nodes 1",
        "time: found 1 h; partition batch allows 30 min; give --time 30 min",
        "somewhere allows 1 jobs; 1 are queued, 1 are to come; wait until 1 of them have ended",
    ]
    assert said(run, "warning") == "partition batch is DOWN: jobs wait until it is up (sinfo -s)"
    assert not run.jobs_json.exists()


def test_scripts_that_are_refused_in_the_same_words_are_one_finding(site: Callable[..., None], demo_run: Run) -> None:
    site(sbatch="echo 'allocation failure: Requested node configuration is not available' >&2; exit 1")

    assert said(demo_run).count("Requested node configuration") == 1
    assert "10-tokenizer, 20-shard, 30-train" in said(demo_run)


def test_where_a_site_does_not_care_an_unknown_account_is_a_warning(
    site: Callable[..., None], command_run: Callable[..., Run]
) -> None:
    site()
    run = command_run(account="other")

    assert said(run) == ""
    assert f"account: found other; {ME} has research" in said(run, "warning")


def test_without_accounting_nothing_is_said_of_accounts(
    site: Callable[..., None], fake_slurm: Fake, command_run: Callable[..., Run]
) -> None:
    site()
    fake_slurm("sacctmgr", "echo 'You are not running a supported accounting_storage plugin' >&2; exit 1")

    assert [finding.what for finding in check(command_run(account="other"))] == ["scripts", "limits", "room"]


@pytest.mark.parametrize(
    ("assoc", "qos", "words"),
    [
        ("research||normal|normal|3", "normal||", "account research allows 3 jobs; 2 are queued, 7 are to come"),
        ("research||normal|normal|", "normal||4", "QOS normal allows 4 jobs; 2 are queued, 7 are to come"),
    ],
)
def test_a_dag_that_goes_over_what_may_be_submitted_is_refused_as_a_whole(
    site: Callable[..., None], demo_run: Run, assoc: str, qos: str, words: str
) -> None:
    site(assoc=assoc, qos=qos, queue="1|research|normal|batch|/a|\\n2_1|research|normal|batch|/b|\\n")

    assert words in said(demo_run)


def test_a_qos_that_is_above_the_partitions_limit_is_no_finding(
    site: Callable[..., None], command_run: Callable[..., Run]
) -> None:
    limited = "PartitionName=batch Default=YES State=UP MaxTime=30:00"
    site(partition=limited, assoc="research||long|long|", qos="long|PartitionTimeLimit|")

    assert said(command_run(qos="long")) == ""


def test_a_variable_that_wins_over_the_script_is_told(
    site: Callable[..., None], command_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    site()
    monkeypatch.setenv("SBATCH_TIMELIMIT", "5")

    assert "SBATCH_TIMELIMIT=5 is set, and wins over --time in the scripts" in said(command_run(), "warning")


def test_the_options_are_those_of_the_script_whoever_wrote_them(command_run: Callable[..., Run]) -> None:
    run = command_run(account="a#b")
    script = run.script("30-command")
    script.write_text(script.read_text().replace("--nodes=2", "--nodes=3"))

    found = options_in(script)

    assert (found["nodes"], found["account"], found["time"]) == ("3", "a#b", "01:00:00")


def test_hostile_values_of_directives_come_back_as_they_were(command_run: Callable[..., Run]) -> None:
    values = [text for text in hostile() if text.isprintable()]
    run = command_run(directives={"comment": "x"})
    script = run.script("30-command")
    text = script.read_text()

    for value in values:
        script.write_text(text.replace("--comment=x", f"--comment={directive_word(value)}"))
        assert options_in(script)["comment"] == value


# ---- room ------------------------------------------------------------------------------------------------------------


def with_filesystem(tmp_path: Path, **fields: Any) -> tuple[Run, Profile]:
    data = described().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    data["filesystems"] = {"scratch": {"path": str(tmp_path), **fields}}
    profile, job = Profile.model_validate(data), demo()
    return render(profile, None, job, JOBS / "demo.yaml", search(profile, job), tmp_path / "run"), profile


def refusals(found: list[Finding]) -> list[str]:
    return [finding.says for finding in found if finding.kind == "refusal"]


def test_checkpoints_that_do_not_fit_the_free_space_are_refused(demo_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = read_plan(demo_run).checkpoint.bytes * 3  # two that are kept, and one that is being written
    real = os.statvfs(demo_run.root)

    def statvfs(free_bytes: int, files: int = 10**6) -> None:
        values = list(real)
        values[0], values[1], values[4], values[6], values[7] = 1, 1, free_bytes, files, files
        monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(values))

    def found() -> list[str]:
        return refusals(room(demo_run, described(), frozen_any_job(demo_run)))

    statvfs(at_once)
    assert found() == []
    statvfs(at_once - 1)
    assert "keep fewer (train.checkpoint.keep)" in found()[0]
    statvfs(at_once, files=10)
    assert "room for 10 more files" in found()[0]


def test_a_quota_of_the_profile_that_is_too_small_is_refused(tmp_path: Path) -> None:
    run, profile = with_filesystem(tmp_path, kind="nfs", quota="100MiB")

    assert "quota of somewhere: 100 MiB; checkpoints need 147 MiB" in refusals(room(run, profile, demo()))[0]


def test_lustre_says_what_its_quota_leaves(tmp_path: Path, fake_slurm: Fake) -> None:
    run, profile = with_filesystem(tmp_path, kind="lustre")
    calls = fake_slurm("lfs", f"printf '%15s\\n' {tmp_path}; echo '  900000* 0 1000000 - 999500 0 1000000 -'")

    found = refusals(room(run, profile, demo()))

    assert calls.read_text().strip() == f"quota -q -u {ME} {run.root}"
    assert "quota: left 97.7 MiB; checkpoints need 147 MiB" in found[0]
    assert "quota: 999500 of 1000000 files" in found[1]


def test_gpfs_says_what_its_quota_leaves(tmp_path: Path, fake_slurm: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    run, profile = with_filesystem(tmp_path, kind="gpfs")
    names = "version:reserved:reserved:filesystemName:quotaType:id:name:blockUsage:blockQuota:blockLimit:blockInDoubt"
    more = "blockGrace:filesUsage:filesQuota:filesLimit:filesInDoubt:filesGrace:remarks"
    row = f"1:::work:USR:0:{ME}:500:900:1000:0:none:5:10:20:0:none:"
    fake_slurm("mmlsquota", f"echo 'mmlsquota::HEADER:{names}:{more}:'; echo 'mmlsquota::0:{row}'")
    monkeypatch.setattr("hpcllm.launch.submission.room._device", lambda path: "work")

    assert quota_of(run.root, profile) == Quota(500 * 1024, 1000 * 1024, 5, 20)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-00:00:00", 86400),
        ("1-12", 129600),
        ("9:58", 598),
        ("30", 1800),
        ("02:00:00", 7200),
        ("UNLIMITED", float("inf")),
    ],
)
def test_times_are_read_as_slurm_writes_them(text: str, seconds: float) -> None:
    assert slurm_seconds(text) == seconds
