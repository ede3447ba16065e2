"""Each site of systems/: our script beside the published one, and on a Slurm that is configured as the site's.

What the lab changes in a script that it runs, and nothing else: the interpreter is the one that renders; the preflight
is left out (on two real cores it rightly refuses ranks that share them, and it would speak over a fabric that is not
here); and what a fixture names under `shims`, `replaced` and `newer`. `not_emulated` says what no lab could show.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from emulated_site import load_site, site_names
from published_script import broken_rules, differences, read_script
from site_lab import STAGE, TRAINER, SiteLab, hpcllm, log, rendered, request_words, wait

from hpcllm.cluster.find import find_profile
from hpcllm.cluster.profile import shipped_profiles

every_site = pytest.mark.parametrize("name", site_names())
TRAIN = ["python", "trainer.py"]
FEW = 3
CUT = "one after another, which is its limit"


def test_every_shipped_profile_of_a_site_is_emulated() -> None:
    not_sites = {"ethernet-nfs-h100", "ib-lustre-a100", "slurm-lab", "local", "template"}
    # The same rules on other nodes, and another fabric.
    as_another = {"fir": "narval", "gcp-a3-high": "gcp-a3-mega"}

    profiles = {path.stem for path in shipped_profiles().glob("*.yaml")}

    assert set(site_names()) - {"borealis"} == profiles - not_sites - as_another.keys()


@every_site
def test_our_script_differs_from_the_published_one_only_as_explained(name: str, tmp_path: Path) -> None:
    site = load_site(name)
    run = rendered(name, request_words(site, published=True), TRAIN, tmp_path)

    found = differences(site, read_script(run.script(STAGE).read_text()))

    unexplained = [f"not explained: {key}: {text}" for key, text in found.items() if key not in site.differences]
    stale = [f"explained, but no difference: {key}" for key in site.differences if key not in found]
    assert not unexplained + stale, "\n".join(unexplained + stale)


@every_site
def test_our_script_keeps_the_rules_of_the_site(name: str, tmp_path: Path) -> None:
    site = load_site(name)
    run = rendered(name, request_words(site), TRAIN, tmp_path)

    broken = list(broken_rules(site, read_script(run.script(STAGE).read_text())))
    assert not broken, "\n".join(broken)


@every_site
@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_bash_and_shellcheck_find_nothing_in_our_script(name: str, tmp_path: Path) -> None:
    script = rendered(name, request_words(load_site(name)), TRAIN, tmp_path).script(STAGE)

    for command in (["bash", "-n"], ["shellcheck", "--exclude=SC1091"]):  # files of the site, which are not here
        done = subprocess.run([*command, script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slurm
def test_the_sites_slurm_takes_our_script(lab: SiteLab, tmp_path: Path) -> None:
    script = rendered(lab.name, request_words(lab.site), TRAIN, tmp_path).script(STAGE)
    _without_newer_options(script, lab)

    done = subprocess.run(["sbatch", "--test-only", script], capture_output=True, text=True, timeout=30)

    assert done.returncode == 0, done.stderr


@pytest.mark.slurm
def test_our_script_runs_every_rank_on_its_node_with_the_sites_settings(lab: SiteLab, tmp_path: Path) -> None:
    trainer, profile = tmp_path / "trainer.py", tmp_path / f"{lab.name}-on-the-lab.yaml"
    trainer.write_text(TRAINER)
    nodes = find_profile(lab.name)[0].nodes
    here = {
        **{"extends": lab.name, "name": lab.name, "verified": {"how": "emulated", "date": "2026-11-24"}},
        "nodes": {name: {"architecture": platform.machine()} for name in nodes},  # the lab's nodes are this machine
    }
    profile.write_text(yaml.safe_dump(_merged({**here, "software": {"python": "this"}}, lab.site.lab.replaced)))
    run = rendered(profile, request_words(lab.site), ["python3", str(trainer)], tmp_path)
    script = run.script(STAGE)
    ours = read_script(script.read_text())
    literal = _sure(script.read_text())
    _without_newer_options(script, lab)
    _let_it_run(script, list(literal))
    lab.calls.write_text("")

    done = hpcllm("submit", run.root, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert wait(run) == "done", log(run)
    ranks, per_node = int(ours.launcher["ntasks"]), int(ours.directives["ntasks-per-node"])
    places = sorted(map(json.loads, re.findall(r"PLACE (.*)", log(run))), key=lambda place: place["RANK"])
    assert [place["RANK"] for place in places] == list(range(ranks))
    assert [place["LOCAL_RANK"] for place in places] == list(range(per_node)) * lab.site.request.nodes
    assert {(place["WORLD_SIZE"], place["LOCAL_WORLD_SIZE"]) for place in places} == {(ranks, per_node)}
    assert [place["host"] for place in places] == [f"n{place['NODE_RANK'] + 1}" for place in places]
    assert [place["environment"] for place in places] == [literal] * ranks
    missed = [line for line in _shimmed_lines(script, lab) if line not in lab.calls.read_text().splitlines()]
    assert missed == []


@pytest.mark.slurm
def test_what_the_site_refuses_is_refused_with_a_sentence_and_nothing_is_queued(
    lab: SiteLab, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The first few of its refusals; with --long all."""
    taken = []
    refused = lab.site.refused if request.config.getoption("--long") else lab.site.refused[:FEW]
    for number, refusal in enumerate(refused):
        words = [word for word in request_words(lab.site) if word.split("=")[0] not in refusal.without]
        out = tmp_path / str(number)
        done = hpcllm("submit", "--cluster", lab.name, "--out", out, *words, *refusal.flags, "--", "true", cwd=tmp_path)
        if CUT in done.stdout:  # more time than one job may have: several, each within the limit
            assert hpcllm("cancel", out, cwd=tmp_path).returncode == 0
        elif done.returncode not in (2, 3) or not done.stderr.startswith("hpcllm: "):
            taken.append(f"{' '.join([*words, *refusal.flags])} ({refusal.why}): {done.stdout}{done.stderr}")

    assert not taken, "\n".join(taken)
    assert _queued() == ""


def _queued() -> str:
    """What is in the queue when what was cancelled has left it."""
    for _ in range(50):
        said = subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True, timeout=30).stdout
        if not said:
            break
        time.sleep(0.2)
    return said


@pytest.mark.slurm
@pytest.mark.parametrize("lab", ["lumi-g"], indirect=True)
def test_a_profile_that_counts_the_reserved_cores_is_found_wrong(lab: SiteLab, tmp_path: Path) -> None:
    """LUMI-G keeps 8 of 64 cores for the system, and a job that asks for all of them never starts."""
    eight_each = [f"{first}-{first + 7}" for first in (48, 56, 16, 24, 0, 8, 32, 40)]
    wrong = {"extends": "lumi-g", "nodes": {"mi250x": {"cores": 64, "gpus": {"cpus": eight_each}}}}
    profile = tmp_path / "wrong.yaml"
    profile.write_text(yaml.safe_dump({**wrong, "name": "wrong", "verified": {"how": "example", "date": "2026-11-24"}}))

    done = hpcllm("submit", "--cluster", profile, *request_words(lab.site), "--", "true", cwd=tmp_path)

    assert done.returncode == 2
    assert "Requested node configuration is not available" in done.stderr


# ---- fitting a script to the lab -------------------------------------------------------------------------------------


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], over[key]) for key in base.keys() & over.keys() if isinstance(base[key], dict)}
    return {**base, **over, **both}


def _sure(text: str) -> dict[str, str]:
    """The variables whose value stands in the script: neither computed, nor set only where a folder is writable."""
    all_of_them = read_script(text).environment
    always = read_script("\n".join(line for line in text.split("\n") if "|| export " not in line)).environment
    return {k: v for k, v in always.items() if v and "$" not in v and all_of_them[k] == v}


def _without_newer_options(script: Path, lab: SiteLab) -> None:
    """Take out what the lab's Slurm is too old for; each must be there."""
    text = script.read_text()
    for option in lab.site.lab.newer:
        text, found = re.subn(rf"(^#SBATCH --{option}\b.*\n| --{option}(=\S+)?(?=\s))", "", text, flags=re.MULTILINE)
        assert found, f"lab.newer.{option}: the script does not have it"
    script.write_text(text)


def _let_it_run(script: Path, names: list[str]) -> None:
    """No preflight; and the trainer is told which variables to show."""
    lines = [line for line in script.read_text().splitlines(keepends=True) if "hpcllm preflight" not in line]
    script.write_text("".join(lines).replace("trainer.py\n", f"trainer.py {shlex.join(names)}\n"))


def _shimmed_lines(script: Path, lab: SiteLab) -> list[str]:
    """The script's own calls of commands that are shims, as these record them."""
    lines = [line.strip() for line in script.read_text().splitlines()]
    ours = [line for line in lines if line.split(" ", 1)[0] in lab.site.lab.shims]
    return [" ".join(shlex.split(line, comments=True)) for line in ours]
