"""What Slurm is asked for, and who wins. Run: pytest tests/derive/test_directives.py."""

import pytest
from example_clusters import changed, profile_named

from hpcllm.cluster.user import User
from hpcllm.derive.directives import directives, slurm_time
from hpcllm.derive.layout import layout
from hpcllm.errors import UserError
from hpcllm.job.spec import CommandJob
from hpcllm.launch.pipeline import COMMAND

NOBODY = User()
SOMEBODY = User(account="physics", qos="normal")


def derived(profile, job, user=SOMEBODY, **options):
    return {s.name: s for s in directives(profile, job, layout(profile, job, None, COMMAND, **options), user)}


def values(profile, job, user=SOMEBODY, **options):
    return {name: setting.value for name, setting in derived(profile, job, user, **options).items()}


def test_they_stand_in_reading_order(a100, command):
    assert list(derived(a100, changed(command, slurm={"mail": "me@example.org"}))) == [
        *("job-name", "account", "partition", "qos"),
        *("nodes", "ntasks-per-node", "cpus-per-task", "gres", "mem"),
        *("time", "signal"),
        *("requeue", "open-mode", "mail-user", "mail-type"),
    ]


def test_a_machine_without_scheduler_has_none(command):
    assert derived(profile_named("local"), changed(command, resources={"nodes": 1})) == {}


@pytest.mark.parametrize(
    ("dialect", "kind", "expected"),
    [
        ("gres", None, {"gres": "gpu:4"}),
        ("gres", "a100", {"gres": "gpu:a100:4"}),
        ("gpus-per-node", None, {"gpus-per-node": "4"}),
        ("gpus-per-node", "a100", {"gpus-per-node": "a100:4"}),
        ("gpus-per-task", None, {"gpus-per-task": "1"}),
        ("gpus-per-task", "a100", {"gpus-per-task": "a100:1"}),
        ("gpus", "a100", {"gpus": "a100:8"}),
        ("none", "a100", {}),
    ],
)
def test_gpus_are_asked_for_in_the_sites_dialect(a100, command, dialect, kind, expected):
    gpus = {"model": "A100-80GB", "count": 4, "memory": "80GiB", "gres_type": kind}
    node = {**a100.model_dump(by_alias=True, mode="json")["nodes"]["a100"], "gpus": gpus}
    site = changed(a100, scheduler={"gpu_request": dialect}, nodes={"a100": node})

    asked = {name: value for name, value in values(site, command).items() if name.startswith("g")}
    assert asked == expected


@pytest.mark.parametrize(
    ("request_by", "expected"),
    [
        ("node", {"mem": "4000M"}),
        ("cpu", {"mem-per-cpu": "2000M"}),
        ("gpu", {"mem": "4000M"}),  # there is no GPU by which to ask
        ("all", {"mem": "0"}),
        ("none", {}),
    ],
)
def test_memory_is_asked_for_in_one_way(lab, command, request_by, expected):
    site = changed(lab, scheduler={"memory_request": request_by})

    asked = {name: value for name, value in values(site, command).items() if name.startswith("mem")}
    assert asked == expected


def test_a_part_of_a_shared_node_asks_for_its_share_of_memory(a100, command):
    one_gpu = changed(command, resources={"gpus_per_node": 1})

    assert values(a100, one_gpu)["mem"] == f"{480 * 1024 // 4}M"
    whole = changed(a100, scheduler={"exclusive": True})
    assert values(whole, one_gpu)["mem"] == f"{480 * 1024}M"
    assert values(whole, one_gpu)["exclusive"] == ""


def test_memory_by_gpu_is_a_share_of_the_nodes(a100, command):
    site = changed(a100, scheduler={"memory_request": "gpu"})

    assert values(site, command)["mem-per-gpu"] == f"{480 * 1024 // 4}M"
    assert "mem" not in values(site, command)


@pytest.mark.parametrize("request_by", ["node", "cpu", "gpu"])
def test_memory_that_nobody_knows_is_asked_for_where_slurm_wants_to_be_told(a100, command, request_by):
    node = {**a100.model_dump(by_alias=True, mode="json")["nodes"]["a100"], "memory": "unknown"}
    site = changed(a100, nodes={"a100": node}, scheduler={"memory_request": request_by})

    with pytest.raises(UserError, match=r"nodes.a100.memory: unknown in this profile, and --mem\S* needs it"):
        values(site, command)
    assert "mem" not in values(changed(site, scheduler={"memory_request": "none"}), command)


def test_slurms_cpus_are_threads(h100, command):
    assert values(h100, command)["cpus-per-task"] == "48"  # 24 cores a rank


def test_an_account_comes_from_the_job_then_from_the_person(a100, command):
    own = changed(command, slurm={"account": "chemistry"})

    assert derived(a100, own)["account"].value == "chemistry"
    assert derived(a100, own)["account"].key == "job.slurm.account"
    assert derived(a100, command)["account"].key == "user.account"


def test_a_qos_comes_from_the_job_then_the_person_then_the_partition(a100, command):
    short = changed(command, slurm={"partition": "gpu-debug"}, resources={"time": "10m"})

    assert values(a100, changed(short, slurm={"qos": "own"}))["qos"] == "own"
    assert values(a100, short)["qos"] == "normal"
    assert values(a100, short, User(account="physics"))["qos"] == "debug"


def test_a_missing_account_says_where_to_give_one(a100, command):
    with pytest.raises(UserError, match=r"ib-lustre-a100 refuses a job without one; give --account"):
        derived(a100, command, NOBODY)


def with_partition(profile, **changes):
    """The profile with one partition, changed."""
    (name, queue), *_ = profile.model_dump(by_alias=True, mode="json")["scheduler"]["partitions"].items()
    return changed(profile, scheduler={"partitions": {name: {**queue, **changes}}})


def test_where_a_constraint_chooses_the_nodes_no_partition_is_named(a100, command):
    found = derived(with_partition(a100, named=False, constraint="gpu&hbm80g"), command)

    assert "partition" not in found
    assert found["constraint"].value == "gpu&hbm80g"
    assert found["constraint"].key == "scheduler.partitions.gpu.constraint"


def test_an_unlimited_partition_does_not_end_a_job_never(a100, command):
    found = derived(with_partition(a100, max_time="unlimited"), command)

    assert found["partition"].reason == "the job fits here"


@pytest.mark.parametrize("account", ["physics", "physics@h100"])
def test_an_account_ends_in_what_the_partition_wants(a100, command, account):
    site = with_partition(a100, account_suffix="@h100")

    assert derived(site, command, User(account=account))["account"].value == "physics@h100"


def test_a_missing_qos_names_those_that_there_are(a100, command):
    qos = {"long": {"max_time": "4d"}, "debug": {"max_time": "30m"}}
    site = changed(a100, scheduler={"qos_required": True, "qos": qos})

    with pytest.raises(UserError, match=r"refuses a job without one; give --qos NAME \(there is long, debug\)"):
        derived(site, command, User(account="physics"))
    by_hand = changed(command, slurm={"directives": {"qos": "mine"}})
    assert derived(site, by_hand, User(account="physics"))["qos"].value == "mine"


def test_a_partition_decides_for_itself_whether_jobs_have_whole_nodes(a100, command):
    whole = derived(with_partition(a100, exclusive=True), changed(command, resources={"gpus_per_node": 1}))

    assert whole["exclusive"].key == "scheduler.partitions.gpu.exclusive"
    assert whole["mem"].value == f"{480 * 1024}M"
    shared = changed(with_partition(a100, exclusive=False), scheduler={"exclusive": True})
    assert "exclusive" not in derived(shared, command)


def test_a_partitions_directives_win_over_the_sites_and_lose_to_the_jobs(a100, command):
    site = changed(with_partition(a100, directives={"hint": "nomultithread"}), scheduler={"directives": {"hint": "x"}})

    assert derived(site, command)["hint"].key == "scheduler.partitions.gpu.directives.hint"
    own = changed(command, slurm={"directives": {"hint": "multithread"}})
    assert derived(site, own)["hint"].value == "multithread"


def test_the_jobs_own_directives_win_over_the_sites_over_the_derived(lab, command):
    site = changed(lab, scheduler={"directives": {"constraint": "fast", "nice": "5"}})
    job = changed(command, slurm={"directives": {"nice": "9", "time": "00:20:00", "reservation": "course"}})

    found = derived(site, job)

    assert found["constraint"].key == "scheduler.directives.constraint"
    assert found["nice"].value == "9"
    assert found["time"].key == "job.slurm.directives.time"
    assert "replaces --time=01:00:00" in found["time"].reason
    assert list(found)[-3:] == ["nice", "time", "reservation"]


def test_a_directive_replaces_what_says_the_same_in_another_word(a100, command):
    job = changed(command, slurm={"directives": {"mem-per-cpu": "1G", "gpus-per-node": "1", "no-requeue": ""}})

    found = derived(a100, job)

    assert not {"mem", "gres", "requeue"} & set(found)
    assert "replaces --mem=491520M" in found["mem-per-cpu"].reason


def test_a_job_that_may_not_start_again_says_so(lab, h100, command):
    assert "requeue" in derived(lab, command)
    assert derived(lab, changed(command, slurm={"max_requeues": 0}))["no-requeue"].key == "job.slurm.max_requeues"
    assert "signal" not in derived(lab, changed(command, slurm={"max_requeues": 0}))  # it has its whole time
    assert derived(h100, command)["no-requeue"].key == "scheduler.requeue"


def test_the_warning_goes_to_the_batch_shell(lab, command):
    assert values(lab, command)["signal"] == "B:USR2@120"
    assert values(lab, changed(command, resources={"time": "1m"}))["signal"] == "B:USR2@15"


def test_more_ranks_than_cores_ask_for_all_cores_since_slurm_grants_no_more(lab, command):
    many = changed(command, resources={"ranks_per_node": 4})

    asked = values(lab, many, oversubscribe=True)

    assert (asked["ntasks-per-node"], asked["cpus-per-task"]) == ("2", "1")


def test_a_name_is_one_word_in_the_queue(lab):
    hostile = "my run\n#SBATCH --partition=urgent"  # a job file cannot say this; a directive would still be one word
    job = CommandJob(name="mine", command=("true",)).model_copy(update={"name": hostile})

    assert values(lab, job)["job-name"] == "my-run-SBATCH---partition-urgent"


@pytest.mark.parametrize(
    ("seconds", "written"), [(90, "00:01:30"), (59.2, "00:01:00"), (5400, "01:30:00"), (90000, "1-01:00:00")]
)
def test_times_are_written_as_slurm_reads_them(seconds, written):
    assert slurm_time(seconds) == written
