"""A site as its documentation describes it, to be emulated: systems/NAME.yaml, and the Slurm lab that follows from it.

The files are written from the sites' pages, never from the profiles, so that a profile can be found wrong by them.
What no lab of four nodes on one machine can show stands in each file under `not_emulated`. The lab's tasks are bound to
nothing (its cores are made up), its GPUs are null devices, and its Slurm is 22.05: options that are younger stand
under `lab.newer` and are taken out of a script before the lab sees it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from hpcllm import source
from hpcllm.source import Record

SYSTEMS = Path(__file__).parent / "systems"
# A system that was invented for the test. Its profile was written by the guide alone, by somebody who saw neither this
# folder's fixtures nor hpcllm's code.
UNSEEN = Path(__file__).parent / "unseen"
UNSEEN_PROFILES = UNSEEN / "profile"
NOBODY = "none_given"  # the account of a job that names none, on a site that refuses such jobs

Value = str | int | float | bool | None
Section = Literal["directives", "environment", "launcher"]
SECTIONS: tuple[Section, ...] = ("directives", "environment", "launcher")


class Account(Record):
    """What root may charge on the lab."""

    qos: tuple[str, ...] = ()
    """Left out, every QOS."""
    default: bool = False
    """Whether a job that names no account goes here. Where no account is, such a job is refused."""


class SlurmLab(Record):
    """The site's Slurm with four nodes."""

    node: str
    """What slurm.conf says of every node behind its name."""
    partitions: tuple[str, ...]
    """Lines of slurm.conf behind `PartitionName=`."""
    slurm_conf: tuple[str, ...] = ()
    job_submit: str = ""
    """The site's own rules about what is submitted, as the body of Slurm's job_submit.lua: `job_desc` is the request,
    and `return slurm.ERROR` refuses it."""
    accounts: dict[str, Account] = {}
    """None: root has one account, and needs to name none."""
    qos: dict[str, dict[str, Value]] = {}
    """sacctmgr's limits of each."""
    shims: dict[str, str] = {}
    """Commands and options of plugins (`srun --container-image`) that the lab lacks, each with why: calls are recorded,
    nothing is done."""
    replaced: dict[str, Any] = {}
    """What a profile that extends the site's own says otherwise, for the run alone."""
    newer: dict[str, str] = {}
    """Options that the lab's Slurm does not know yet, each with the version that brought it."""


class Request(Record):
    """What a user of the site asks `hpcllm submit` for."""

    nodes: int
    time: str
    flags: tuple[str, ...] = ()


class Refusal(Record):
    """What the site refuses."""

    flags: tuple[str, ...]
    why: str
    without: tuple[str, ...] = ()
    """Flags of the request, such as `--account`, that this one leaves out."""


class Published(Record):
    """The settings of the multi-node script that the site publishes; its rules, where there is none."""

    what: str
    directives: dict[str, Value] = {}
    environment: dict[str, Value] = {}
    launcher: dict[str, Value] = {}
    rules: tuple[str, ...] = ()
    """Sentences that begin with an option or a variable and `must (not) be given` (or `set`), and may give a reason."""


class Site(Record):
    """One emulated system."""

    system: str
    facts: str
    request: Request
    lab: SlurmLab
    published: Published
    refused: tuple[Refusal, ...] = ()
    differences: dict[str, str] = {}
    """`directives.mem`, `environment.NCCL_IB_HCA`, `launcher.cpu-bind` -> one line why ours is another."""
    not_emulated: tuple[str, ...] = ()


def site_names() -> list[str]:
    """Every system that has a file."""
    return sorted(path.stem for folder in (SYSTEMS, UNSEEN) for path in folder.glob("*.yaml"))


def load_site(name: str) -> Site:
    """The site of systems/NAME.yaml, or of unseen/. Raises SourceError with all of the file's mistakes."""
    folder = UNSEEN if (UNSEEN / f"{name}.yaml").exists() else SYSTEMS
    return source.load(folder / f"{name}.yaml", Site)


# ---- the lab's files -------------------------------------------------------------------------------------------------


def lab_settings(site: Site, folder: Path) -> dict[str, str]:
    """The environment with which `lab/start` becomes this site; its files are written into the folder."""
    files = {
        "PARTITIONS": [f"PartitionName={line}" for line in site.lab.partitions],
        "EXTRA_CONF": list(site.lab.slurm_conf),
        "ACCOUNTING": accounting(site.lab),
    }
    if site.lab.job_submit:
        files["EXTRA_CONF"].append("JobSubmitPlugins=lua")
        (folder / "slurm").mkdir(exist_ok=True)
        (folder / "slurm" / "job_submit.lua").write_text(_JOB_SUBMIT.format(site.lab.job_submit), encoding="utf-8")
    for name, lines in files.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    paths = {name: str(folder / name) for name in files}
    return {"NODES": "4", "NODE_CONF": site.lab.node, "TASK_PLUGIN": "task/none", **paths}


def accounting(lab: SlurmLab) -> list[str]:
    """sacctmgr's commands: QOS, accounts, and what root may use."""
    qos = [f"add qos {name}" for name in lab.qos if name != "normal"]
    limits = [
        f"modify qos {name} set " + " ".join(f"{key}={value}" for key, value in values.items())
        for name, values in lab.qos.items()
        if values
    ]
    accounts = lab.accounts or {"everybody": Account(default=True)}
    default = next((name for name, account in accounts.items() if account.default), None)
    in_order = sorted(accounts, key=lambda name: name != default)
    return [
        *qos,
        *limits,
        *([] if default else _user(NOBODY, Account(), f"DefaultAccount={NOBODY} MaxSubmitJobs=0", lab)),
        *(line for name in in_order for line in _user(name, accounts[name], _default(name, default), lab)),
    ]


def _default(name: str, default: str | None) -> str:
    """Said outright: sacctmgr keeps the account that root had before."""
    return f"DefaultAccount={name}" if name == default else ""


def _user(name: str, account: Account, more: str, lab: SlurmLab) -> list[str]:
    qos = account.qos or ("normal", *(name for name in lab.qos if name != "normal"))
    return [
        f"add account {name} Cluster=lab",
        f"add user root Account={name} Cluster=lab {more}".strip(),
        f"modify user root where Account={name} set QOS={','.join(qos)} DefaultQOS={qos[0]}",
    ]


def write_shims(site: Site, folder: Path, calls: Path) -> None:
    """A command for each shim, which writes its words as a line into the file `calls` and does nothing."""
    folder.mkdir()
    record = f'printf "%s\\n" "${{0##*/}} $*" >>{calls}'
    for name in site.lab.shims:
        if " " not in name:
            _executable(folder / name, f"#!/bin/bash\n{record}\n")
    options = [name.split()[1] for name in site.lab.shims if name.startswith("srun ")]
    if options:
        _executable(folder / "srun", _SRUN.format(record=record, options="|".join(f"{o}|{o}=*" for o in options)))


def _executable(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


_JOB_SUBMIT = """\
function slurm_job_submit(job_desc, part_list, submit_uid)
{}
  return slurm.SUCCESS
end
function slurm_job_modify(job_desc, job_rec, part_list, modify_uid) return slurm.SUCCESS end
"""

# srun without the options of plugins that the lab does not have.
_SRUN = """\
#!/bin/bash
{record}
words=()
for word; do case $word in {options}) ;; *) words+=("$word") ;; esac; done
exec /usr/bin/srun "${{words[@]}}"
"""
