"""A probe's verdicts as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from hpcllm.cluster.probe.found import Probed
from hpcllm.cluster.probe.verdicts import Verdict, Word

SHOWN_HOSTS = 8
_STYLES: dict[Word, str] = {"ok": "green", "slow": "yellow", "broken": "bold red", "not stated": "dim"}


def probe_table(cluster: str, probed: Probed, found: Sequence[Verdict]) -> Group:
    """A line a verdict, its note below it; at the end what to do about what is wrong."""
    more = f" and {len(probed.hosts) - SHOWN_HOSTS} more" if len(probed.hosts) > SHOWN_HOSTS else ""
    title = f"{cluster}: {', '.join(probed.hosts[:SHOWN_HOSTS])}{more}, {probed.date}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("", "measured", "stated", "verdict"):
        table.add_column(name, overflow="fold")
    for verdict in found:
        style = _STYLES[verdict.word]
        table.add_row(verdict.key, verdict.measured, verdict.stated, Text(verdict.word, style=style))
        if verdict.note:
            table.add_row("", Text(verdict.note, style=style))
    actions = dict.fromkeys(f"{one['check']}: {one['action']}" for one in probed.findings)
    return Group(table, *(Text(f"what to do about {action}", style="yellow") for action in actions))
