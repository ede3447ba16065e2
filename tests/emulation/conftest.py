"""A Slurm lab for each emulated site, started once and stopped before the next (lab/start says what a lab needs).

By hand, what a failing site looks like:

    python -m pytest tests/emulation -k lumi-g
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated_site import UNSEEN_PROFILES, lab_settings, load_site, site_names, write_shims
from lab_cluster import missing, started, stop
from site_lab import SiteLab


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person who runs the tests has no facts of their own on any cluster."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HPCLLM_PROFILES", str(UNSEEN_PROFILES))


@pytest.fixture(scope="module", params=site_names())
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteLab]:
    """The Slurm of one site, with its shims before everything else in PATH."""
    reason = missing()
    if reason and os.environ.get("HPCLLM_REQUIRE_SLURM"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    site = load_site(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    lab = SiteLab(request.param, site, folder, folder / "calls")
    write_shims(site, folder / "shims", lab.calls)
    (folder / "slurm").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
        settings = lab_settings(site, folder)
        try:
            patch.setenv("SLURM_CONF", str(started(folder / "slurm", **settings)))
            patch.setenv("PATH", f"{folder / 'shims'}:{os.environ['PATH']}")
            yield lab
        finally:
            stop(folder / "slurm")
