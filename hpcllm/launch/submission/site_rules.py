"""What a submission may run into by the rules of the site: account, QOS, partition, and how much may be queued."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

from hpcllm.cluster.profile import Profile
from hpcllm.launch.submission.ahead import Ahead, Queued, said_of, user
from hpcllm.launch.submission.finding import Finding, good, refusal, warning
from hpcllm.units import format_seconds


@dataclass(frozen=True)
class Site:
    """What Slurm knows of this person and of its partitions; empty where it does not say."""

    associations: tuple[Mapping[str, str], ...] = ()
    qos: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    partitions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def default_partition(self) -> str:
        """Where a job goes that names none."""
        return next((name for name, row in self.partitions.items() if row.get("Default") == "YES"), "")


_ASSOCIATION = ("Account", "Partition", "QOS", "DefaultQOS", "MaxSubmit")
_QOS = ("Name", "Flags", "MaxSubmitPU")


def look_up() -> Site:
    """Three questions, at the same time; one that is not answered in time only explains less."""
    commands = (
        ["sacctmgr", "-nP", "show", "assoc", f"user={user()}", f"format={','.join(_ASSOCIATION)}"],
        ["sacctmgr", "-nP", "show", "qos", f"format={','.join(_QOS)}"],
        ["scontrol", "--oneliner", "show", "partition"],
    )
    with ThreadPoolExecutor(len(commands)) as pool:
        assoc, qos, partitions = pool.map(_lines, commands)
    rows = [dict(zip(_QOS, line.split("|"), strict=False)) for line in qos]
    shown = [dict(word.partition("=")[::2] for word in line.split()) for line in partitions]
    return Site(
        tuple(dict(zip(_ASSOCIATION, line.split("|"), strict=False)) for line in assoc),
        {row["Name"]: row for row in rows},
        {row["PartitionName"]: row for row in shown if "PartitionName" in row},
    )


def _lines(command: Sequence[str]) -> list[str]:
    done = said_of(command)
    return done.stdout.splitlines() if done and done.returncode == 0 else []


# ---- the rules -------------------------------------------------------------------------------------------------------


def account_findings(work: Sequence[Ahead], site: Site, refused: bool) -> Iterator[Finding]:
    """Account and QOS among the person's own. A site may not care, so that they are only an explanation then."""
    say = refusal if refused else warning
    asked = sorted({(one.options.get("account", ""), one.options.get("qos", "")) for one in work})
    for text in dict.fromkeys(text for pair in asked for text in not_ones_own(site, *pair)):
        yield say("account", text)
    for account, qos in asked:
        rows = _rows(site, account)
        if rows and not not_ones_own(site, account, qos):
            yield good(
                "account", f"{account or rows[0]['Account']}, QOS {qos or rows[0]['DefaultQOS'] or 'the default'}"
            )


def not_ones_own(site: Site, account: str, qos: str) -> list[str]:
    """What is wrong with an account and a QOS, and the nearest that this person has; without accounting nothing is."""
    accounts, rows = sorted({row["Account"] for row in site.associations}), _rows(site, account)
    if account and accounts and not rows:
        near = _nearest(account, accounts)
        return [f"account: found {account}; {user()} has {', '.join(accounts)}; give --account {near}"]
    allowed = sorted({name for row in rows for name in row["QOS"].split(",") if name})
    if not rows or not qos or qos.lower() in allowed:
        return []
    has = f"account {rows[0]['Account']} has {', '.join(allowed) or 'none'}"
    return [f"qos: found {qos}; {has}" + (f"; give --qos {_nearest(qos, allowed)}" if allowed else "")]


def _rows(site: Site, account: str) -> list[Mapping[str, str]]:
    """The person's associations with an account; with any where none is named. Slurm's names are in small letters."""
    return [row for row in site.associations if account.lower() in ("", row["Account"])]


def _nearest(name: str, names: Sequence[str]) -> str:
    return next(iter(difflib.get_close_matches(name.lower(), names, n=1)), names[0])


def partition_findings(work: Sequence[Ahead], site: Site) -> Iterator[Finding]:
    """Limits over which some sites let a job wait for ever, rather than refusing it.

    A job that names no partition goes where the site's own rules send it, by its constraint or its account.
    """
    seen = set()
    for one in work:
        for name in filter(None, one.options.get("partition", "").split(",")):
            row = site.partitions.get(name)
            if row is None and site.partitions:
                there = ", ".join(site.partitions)
                seen.add(refusal("partition", f"partition: found {name}; there is {there}; give one by --partition"))
            elif row is not None:
                seen |= set(_of_partition(one, name, row, site))
    yield from sorted(seen, key=lambda finding: finding.says)


def _of_partition(one: Ahead, name: str, row: Mapping[str, str], site: Site) -> Iterator[Finding]:
    flags = site.qos.get(one.options.get("qos", ""), {}).get("Flags", "")
    if row.get("State", "UP") != "UP":
        yield warning("partition", f"partition {name} is {row['State']}: jobs wait until it is up (sinfo -s)")
    most_s, asked_s = slurm_seconds(row.get("MaxTime", "")), slurm_seconds(one.options.get("time", "0"))
    if asked_s > most_s and "PartitionTimeLimit" not in flags and math.isfinite(asked_s):
        asked, most = format_seconds(asked_s), format_seconds(most_s)
        yield refusal("partition", f"time: found {asked}; partition {name} allows {most}; give --time {most}")
    most_nodes, nodes = row.get("MaxNodes", ""), one.options.get("nodes", "1")
    over = most_nodes.isdecimal() and nodes.isdecimal() and int(nodes) > int(most_nodes)
    if over and "PartitionMaxNodes" not in flags:
        yield refusal("partition", f"nodes: found {nodes}; partition {name} gives {most_nodes}; --nodes {most_nodes}")
    for option, allow, deny in (("account", "AllowAccounts", "DenyAccounts"), ("qos", "AllowQos", "DenyQos")):
        value, allowed = one.options.get(option, ""), row.get(allow, "ALL")
        if value and allowed != "ALL" and value not in allowed.split(","):
            yield refusal("partition", f"{option}: found {value}; partition {name} takes {allowed}; --{option}")
        if value and value in row.get(deny, "").split(","):
            yield refusal("partition", f"{option}: found {value}, which partition {name} denies; another --{option}")


def slurm_seconds(text: str) -> float:
    """`1-00:00:00`, `1-12`, `9:58`, `30`, `UNLIMITED`, as Slurm writes times; infinite where there is no limit."""
    days, _, clock = text.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in (*parts, days or "0")) or len(parts) > 3:
        return math.inf
    hours, minutes, seconds = ([*parts, "0", "0"] if days else ["0", *parts, "0"] if len(parts) < 3 else parts)[:3]
    return 86400.0 * int(days or 0) + 3600 * int(hours) + 60 * int(minutes) + int(seconds)


# ---- how much is queued ----------------------------------------------------------------------------------------------


def limit_findings(work: Sequence[Ahead], site: Site, profile: Profile, queued: Sequence[Queued]) -> Iterator[Finding]:
    """How many jobs a person may have waiting and running, by whoever limits it."""
    over = False
    for whose, limit, have, new in _counts(work, site, profile, queued):
        if have + new > limit:
            over = True
            wait = f"wait until {have + new - limit} of them have ended" if new <= limit else "submit fewer stages"
            yield refusal("limits", f"{whose} allows {limit} jobs; {have} are queued, {new} are to come; {wait}")
    if not over:
        new = sum(one.count for one in work)
        yield good("limits", f"{len(queued)} jobs of {user()} are queued, {new} are to come")


def _counts(
    work: Sequence[Ahead], site: Site, profile: Profile, queued: Sequence[Queued]
) -> Iterator[tuple[str, int, int, int]]:
    """Whose limit, the limit, what is queued under it, and what is to come."""
    scheduler, name = profile.scheduler, profile.name
    partitions = Counter[str]()
    qos, accounts = Counter[str](), Counter[str]()
    default = site.associations[0] if site.associations else {}
    for one in work:
        partitions[one.options.get("partition") or site.default_partition] += one.count
        qos[one.options.get("qos") or default.get("DefaultQOS", "")] += one.count
        accounts[one.options.get("account") or default.get("Account", "")] += one.count
    if scheduler.max_submitted:
        yield name, scheduler.max_submitted, len(queued), sum(partitions.values())
    for partition, new in partitions.items():
        most = scheduler.partitions[partition].max_submitted if partition in scheduler.partitions else None
        if most:
            yield f"partition {partition}", most, sum(job.partition == partition for job in queued), new
    for quality, new in qos.items():
        said = site.qos.get(quality, {}).get("MaxSubmitPU", "")
        known = scheduler.qos[quality].max_submitted if quality in scheduler.qos else None
        limit = int(said) if said.isdecimal() else known
        if limit is not None:
            yield f"QOS {quality}", limit, sum(job.qos == quality for job in queued), new
    for account, new in accounts.items():
        rows = [row for row in site.associations if row["Account"] == account and row["MaxSubmit"].isdecimal()]
        if rows:
            have = sum(job.account == account for job in queued)
            yield f"account {account}", int(rows[0]["MaxSubmit"]), have, new
