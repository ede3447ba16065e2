"""The page and the terminal's table: every figure is there, nothing of a run can break out, and nothing is loaded.

Run: pytest tests/report
"""

from __future__ import annotations

import html as html_library
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_run import START, new_run, shipped_job, write_result, write_states, write_training

from hpcllm.job.spec import CommandJob
from hpcllm.launch.pipeline import find_stage
from hpcllm.parallel.world import World
from hpcllm.report import html, terminal, words
from hpcllm.report.collect import collect
from hpcllm.run_directory import Run, write_json, write_text
from hpcllm.stages import gather


def _page(*runs: Run) -> str:
    return html.page([collect(run) for run in runs])


def _printed(*runs: Run) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(terminal.report_text([collect(run) for run in runs]))
    return captured.get()


def _text(page: str) -> str:
    """What a reader sees, in one line."""
    without_tags = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html_library.unescape(without_tags))


class _Nesting(HTMLParser):
    """Fails where a tag closes another one than the one that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "figure",
    [
        *("2.134", "1.712", "5.520", "24.6", "4,163", "16.3 MiB", "4.3 MiB", "412 tokens/s", "× 0.26"),
        *("545 ms", "7,515 tokens/s", "48.5 MiB", "811 MiB", "6 min 58 s", "600 steps", "4.27 M parameters"),
        *("bits-per-byte|tok:bpe-4096|n:118034|v:0.1.0", "hpcllm stage evaluate RUN", "numpy==2.4.0", "0a1b2c3"),
        *(
            "def read(",
            "Read up to size bytes",
            "on-site, 2026-02-01",
            "24 (118 k tokens) to test",
            "interrupted",
            "resumed",
            "test part, 24 documents",
        ),
    ],
)
def test_every_figure_of_a_run_is_on_the_page(finished: Run, figure: str) -> None:
    assert figure in _text(_page(finished))


def test_the_verdict_says_what_the_score_is_worth(finished: Run, translated: Run) -> None:
    assert (
        "reaches 2.134 bits per byte (test part, 24 documents), better than the untrained model (5.520), "
        "not better than xz -9 (1.712)." in _text(_page(finished))
    )
    assert (
        "reaches BLEU 14.3 (test part, 24 documents), better than the source copied (5.3) "
        "and the untrained model (0.0)." in _text(_page(translated))
    )


def test_several_checkpoints_are_a_curve_and_the_table_is_of_the_trained_model(unstarted: Run) -> None:
    for model, step, value in (("step-200", 200, 31.5), ("step-400", 400, 27.25), ("trained", 600, 24.75)):
        write_result(unstarted, model, "perplexity", value, "", step=step)

    page, summary = _page(unstarted), collect(unstarted)

    assert "perplexity over the checkpoints" in _text(page)
    assert words.over_checkpoints(summary, "perplexity") == ((200, 31.5), (400, 27.25), (600, 24.75))
    assert [found.model for found in words.scores(summary, "perplexity")] == ["trained"]


def test_one_checkpoint_is_no_curve(finished: Run) -> None:
    assert "over the checkpoints" not in _page(finished)


def test_translations_stand_beside_source_and_reference(translated: Run) -> None:
    page = _page(translated)

    assert 'lang="zh-CN">找不到要打开的路径。' in page
    assert "Could not find the path to open." in page
    assert "无法找到要打开的文件。" in page


HOSTILE = "<script>alert('x')</script>\" onload=\"y"


def test_nothing_that_a_run_says_becomes_markup(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "")  # a job's name holds none
    job = shipped_job("demo.yaml").model_copy(update={"name": name, "description": HOSTILE})
    run = new_run(tmp_path / "run", job)
    write_training(run, steps=12, interrupted_at=None)
    write_states(run, job, upto="evaluate", last_outcome="failed", message=HOSTILE)
    write_result(
        run, "trained", "samples", None, "", samples=[{"prompt": HOSTILE, "text": HOSTILE, "reference": HOSTILE}]
    )
    write_result(run, name, "bleu", 1.0, HOSTILE)
    write_json(run.software_json, {"commit": HOSTILE})

    page = _page(run, run)

    parser = _Nesting()
    parser.feed(page)
    assert "script" not in parser.seen
    assert "onload" not in parser.attributes
    assert _text(page).count(HOSTILE) + _text(page).count(name) > 8


def test_a_prompt_is_not_repeated_by_a_text_that_begins_with_it(finished: Run) -> None:
    write_result(finished, "trained", "samples", None, "", samples=[{"prompt": "Once", "text": "Once upon"}])

    assert '<span class="prompt">Once</span> upon' in _page(finished)


def test_control_characters_are_pictures(finished: Run) -> None:
    write_result(finished, "trained", "samples", None, "", samples=[{"prompt": "a\x1b[31m", "text": "\x00\n\tb"}])

    assert '<span class="prompt">a␛[31m</span>␀\n\tb</pre>' in _page(finished)


def test_the_page_loads_nothing(finished: Run, translated: Run) -> None:
    page = _page(finished, translated)

    assert not re.search(r"https?://|\bsrc=|@import|url\(|<link|<script|<img|<iframe", page)
    assert set(re.findall(r'href="(.)', page)) == {"#"}


def test_the_page_is_well_formed(finished: Run, translated: Run, unstarted: Run) -> None:
    parser = _Nesting()

    parser.feed(_page(finished, translated, unstarted))

    assert parser.open == []
    assert {"svg", "table", "details", "pre"} <= parser.seen


def test_many_runs_begin_with_one_table_that_leads_to_each(finished: Run, translated: Run) -> None:
    page = _page(finished, translated)

    table = page[page.index("<table>") : page.index("</table>")]
    assert 'href="#run-1">demo' in table
    assert 'href="#run-2">translate' in table
    assert ">14.3<" in table
    assert ">2.134<" in table
    assert {'id="run-1"', 'id="run-2"'} <= set(re.findall(r'id="run-\d"', page))


def test_runs_of_one_job_are_told_apart_by_their_directories(finished: Run, unstarted: Run) -> None:
    assert words.labels([collect(finished), collect(unstarted)]) == ["demo in demo", "demo in new"]


def test_runs_on_the_same_data_share_a_chart_of_their_losses(finished: Run, translated: Run, unstarted: Run) -> None:
    write_training(unstarted, steps=120, interrupted_at=None)

    assert "validation loss of each run" in _page(finished, unstarted)
    assert "validation loss of each run" not in _page(finished, translated)


def test_a_figure_that_no_run_has_is_not_a_column(finished: Run, translated: Run) -> None:
    assert "BLEU" in dict(words.headlines([collect(finished), collect(translated)])[0])
    assert "BLEU" not in dict(words.headlines([collect(finished)])[0])


def test_what_is_not_there_yet_is_said(unstarted: Run) -> None:
    text = _text(_page(unstarted))

    assert "Not started." in text
    assert "No steps yet." in text
    assert "Not evaluated yet." in text
    assert "not yet" in text


def test_a_run_in_progress_says_how_far_it_is(unstarted: Run) -> None:
    write_training(unstarted, steps=40, interrupted_at=None)
    write_states(unstarted, shipped_job("demo.yaml"), upto="train", last_outcome="running")

    assert "Train is running at step 40 of 600." in _text(_page(unstarted))


@pytest.mark.parametrize("removed", ["metrics", "results", "state", "env", "plan.json"])
def test_a_page_is_written_whatever_is_missing(finished: Run, removed: str) -> None:
    for path in sorted((finished.root / removed).rglob("*"), reverse=True) or [finished.root / removed]:
        path.rmdir() if path.is_dir() else path.unlink()

    assert "</html>" in _page(finished)
    assert _printed(finished)


def test_a_failed_stage_says_why(unstarted: Run) -> None:
    write_states(unstarted, shipped_job("demo.yaml"), upto="shard", last_outcome="failed", message="disk is full.")

    assert "Failed in shard: disk is full." in _text(_page(unstarted))


def test_the_links_between_nodes_are_a_table_with_the_slow_ones_marked(unstarted: Run) -> None:
    pairs = {("n1", "n2"): 2e9, ("n1", "n3"): 2e7, ("n2", "n3"): 2e9}
    links = [{"hosts": pair, "bytes_per_s": rate, "latency_s": None} for pair, rate in pairs.items()]
    finding = {"what": "n3 is slow", "cause": "its cable"}
    found = {"links": links, "held": "found 2 GB/s (median), over TCP (eth0)", "findings": [finding]}
    write_json(unstarted.preflight_json, found)

    page = _page(unstarted)

    assert page.count('<td class="n slow">0.02*</td>') == 2  # there and back
    assert "Preflight found 2 GB/s (median), over TCP (eth0). Between each two nodes, GB/s each way" in _text(page)
    assert "n3 is slow (its cable)" in _text(page)


def test_a_damaged_file_is_on_the_page(finished: Run) -> None:
    write_text(finished.result_json("xz", "bits-per-byte"), "{")

    assert "results/xz/bits-per-byte.json: damaged" in _text(_page(finished))
    assert "warning: results/xz/bits-per-byte.json: damaged" in _printed(finished)


def test_a_command_of_ones_own_has_a_page_without_what_only_the_pipeline_has(tmp_path: Path) -> None:
    text = _text(_page(new_run(tmp_path / "run", CommandJob(name="mine", command=("python", "train.py")))))

    assert "python train.py" in text
    assert "Not evaluated yet" not in text


def test_one_step_is_enough_for_a_page(unstarted: Run) -> None:
    write_training(unstarted, steps=1, interrupted_at=None)

    assert "No steps yet" not in _text(_page(unstarted))


def test_the_terminal_shows_the_figures_of_the_page(finished: Run, translated: Run) -> None:
    printed = _printed(finished, translated)

    for figure in ("demo", "translate", "2.134", "14.3", "545 ms", "×\u00a00.26", "600/600"):
        assert figure in printed


def test_a_name_is_not_read_as_the_terminals_markup(tmp_path: Path) -> None:
    job = shipped_job("demo.yaml").model_copy(update={"name": "[red]mine[/red]"})

    assert "[red]mine[/red]" in _printed(new_run(tmp_path / "run", job))


def test_json_holds_every_record_and_no_number_that_json_cannot(finished: Run) -> None:
    write_text(finished.result_json("trained", "samples"), '{"value": null, "details": {"entropy": NaN}}')

    document = json.loads(json.dumps(terminal.summary_json([collect(finished)]), allow_nan=False))

    (run,) = document["runs"]
    assert run["plan"]["tokens_per_s"] == 7515.0
    assert run["training"]["last_step"] == 600
    assert run["verdict"][0].startswith("Done")
    assert {"figure", "unit", "before", "after", "note"} <= run["predictions"][0].keys()


def test_gather_writes_the_page_and_says_where(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    job = shipped_job("demo.yaml")
    write_states(finished, job, upto="gather", last_outcome="running")

    gather.main(finished, find_stage(job, "gather"), World.alone())

    assert "Done: all stages took" in _text(finished.report_html.read_text())
    assert f"report {finished.report_html}" in capsys.readouterr().out


def test_a_stage_without_a_sign_of_life_is_told_apart(unstarted: Run) -> None:
    write_states(unstarted, shipped_job("demo.yaml"), upto="train", last_outcome="running")
    os.utime(unstarted.state_json("30-train"), (START, START))

    assert "Train is running but is silent" in _text(_page(unstarted))
