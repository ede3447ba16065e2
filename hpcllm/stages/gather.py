"""The last stage: everything the run has to show, on one page and in one table."""

from __future__ import annotations

from rich.console import Console

from hpcllm.launch.pipeline import Stage
from hpcllm.parallel.world import World
from hpcllm.report import html, terminal
from hpcllm.report.collect import collect_all
from hpcllm.run_directory import Run


def main(run: Run, stage: Stage, world: World) -> None:
    """Write RUN/report.html, print the table and the page's path."""
    if world.rank != 0:
        return
    summaries = collect_all([run])
    html.write(summaries, run.report_html)
    Console(soft_wrap=True).print(terminal.report_text(summaries))
    print(f"report {run.report_html}", flush=True)
