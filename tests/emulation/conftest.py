"""A Slurm lab for each emulated site, started while the site before is tested (lab/start says what a lab needs).

By hand, what a failing site looks like:

    python -m pytest tests/emulation -k lumi-g
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


class Labs:
    """The sites' labs in the order of their tests: what one needs to start and to stop is waited for by none but the
    first.
    """

    def __init__(self, names: list[str], folder: Path) -> None:
        self.names, self.folder = names, folder
        # As it is now: the next lab starts while a site's shims are in it.
        self.path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        self.workers = ThreadPoolExecutor(2)
        self.starting: dict[str, Future[tuple[SiteLab, Path]]] = {}
        self.stopping: list[Future[None]] = []

    def get(self, name: str) -> tuple[SiteLab, Path]:
        """The lab of a site and its SLURM_CONF; the next one starts."""
        started_now = self._start(name).result()
        for following in self.names[self.names.index(name) + 1 :][:1]:
            self._start(following)
        return started_now

    def give_back(self, lab: SiteLab) -> None:
        """Nobody needs it any more."""
        self.stopping.append(self.workers.submit(stop, lab.folder / "slurm"))

    def close(self) -> None:
        """Wait for the last ones; what did not stop is an error here."""
        self.workers.shutdown()
        for stopped in self.stopping:
            stopped.result()
        for name in self.starting:
            stop(self.folder / name / "slurm")

    def _start(self, name: str) -> Future[tuple[SiteLab, Path]]:
        if name not in self.starting:
            self.starting[name] = self.workers.submit(self._started, name)
        return self.starting[name]

    def _started(self, name: str) -> tuple[SiteLab, Path]:
        site, folder = load_site(name), self.folder / name
        lab = SiteLab(name, site, folder, folder / "calls")
        (folder / "slurm").mkdir(parents=True)
        write_shims(site, folder / "shims", lab.calls)
        return lab, started(folder / "slurm", PATH=self.path, **lab_settings(site, folder))


@pytest.fixture(scope="session")
def labs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labs]:
    """Those of the sites that are tested now."""
    reason = missing()
    if reason and os.environ.get("HPCLLM_REQUIRE_SLURM"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    tested = (item.callspec.params for item in request.session.items if hasattr(item, "callspec"))
    names = dict.fromkeys(params["lab"] for params in tested if params.get("lab") in site_names())
    labs = Labs(list(names), tmp_path_factory.mktemp("sites"))
    try:
        yield labs
    finally:
        labs.close()


@pytest.fixture(scope="module", params=site_names())
def lab(request: pytest.FixtureRequest, labs: Labs) -> Iterator[SiteLab]:
    """The Slurm of one site, with its shims before everything else in PATH."""
    lab, slurm_conf = labs.get(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{lab.folder / 'shims'}:{labs.path}")
        patch.setenv("SLURM_CONF", str(slurm_conf))
        yield lab
    labs.give_back(lab)
