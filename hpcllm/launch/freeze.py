"""A user's code, frozen: what git tracks where a command starts, copied, so that a queued job never runs a later edit.

Copied is what git tracks, as it lies there now, and every small file that git would track if asked. All else in the
working tree (ignored files, data, environments) is linked, so that relative paths lead where they led before; none of
it is copied. Without git, or above the bounds below, a command runs in place, and its script says so.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from hpcllm.launch.software import GIT_TIMEOUT_S, git
from hpcllm.run_directory import Run, atomic_path

MOST_BYTES = 256 * 2**20  # of a copy
MOST_FILES = 20_000
UNTRACKED_BYTES = 2**20  # larger ones are data, not code
FOR_GIT_APPLY = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")
NEVER_LINKED = ("__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache")  # written beside the code, and made anew


@dataclass(frozen=True)
class Code:
    """The code that a command starts in."""

    cwd: Path
    root: Path | None = None
    """Of the working tree; None where there is no git."""
    commit: str | None = None
    branch: str | None = None
    diff: bytes = b""
    """Of what git tracks, against the commit."""
    untracked: tuple[str, ...] = ()
    """Files that git neither tracks nor ignores."""
    files: tuple[str, ...] = ()
    """To be copied, from the root; none when it runs in place."""
    links: tuple[str, ...] = ()
    """Files and folders to be linked, from the root."""
    in_place: str = ""
    """Why it is not copied."""

    def start(self, run: Run) -> Path:
        """Where the command starts."""
        if self.root is None or self.in_place:
            return self.cwd
        return run.command / self.cwd.relative_to(self.root)

    def moved(self, word: str, run: Run) -> str:
        """A word of the command: the absolute path of a copied file becomes that of its copy."""
        if self.root is None or self.in_place or not word.startswith("/"):
            return word
        path = Path(word).parent.resolve() / Path(word).name  # a home is often reached by a link
        inside = str(path.relative_to(self.root)) if path.is_relative_to(self.root) else ""
        return str(run.command / inside) if inside in self.files else word

    def packages(self, run: Run) -> list[Path]:
        """Folders for PYTHONPATH: an editable install (pip install -e) would still give the working tree."""
        if not {"pyproject.toml", "setup.py", "setup.cfg"} & set(self.files):
            return []
        has_src = any(name.startswith("src/") for name in self.files)
        return [run.command / "src"] * has_src + [run.command]

    def said(self) -> str:
        """For the script's header: which code it runs."""
        state = " with uncommitted changes" if self.diff or self.untracked else ""
        commit = f"commit {self.commit}" if self.commit else "a repository without a commit"
        on = f" ({self.branch})" if self.branch else ""
        if self.root is None:
            return f"Runs in {self.cwd} as it is when the job starts: {self.in_place}."
        if self.in_place:
            return (
                f"Runs in {self.cwd} as it is when the job starts: {self.in_place}. When rendered: {commit}{on}{state}."
            )
        return f"Runs a copy of {self.root}: {commit}{on}{state}. New files stay in the copy."

    def record(self) -> dict[str, Any]:
        """What env/software.json says of it."""
        return {
            "root": None if self.root is None else str(self.root),
            "commit": self.commit,
            "branch": self.branch,
            "diff_sha256": hashlib.sha256(self.diff).hexdigest() if self.diff else None,
            "untracked": [_shown(name) for name in self.untracked],
            "linked": [_shown(name) for name in self.links],
            "in_place": self.in_place or None,
            "sha256": None if self.in_place else self._sha256(),
        }

    def copy(self, target: Path) -> None:
        """The working tree's copy, with its links."""
        assert self.root is not None
        for name in self.files:
            _parent(target / name)
            shutil.copy2(self.root / name, target / name, follow_symlinks=False)
        for name in self.links:
            _parent(target / name)
            (target / name).symlink_to(self.root / name)
        (target / self.cwd.relative_to(self.root)).mkdir(parents=True, exist_ok=True)

    def _sha256(self) -> str:
        """Hash of every copied file, with its name."""
        assert self.root is not None
        digest = hashlib.sha256()
        for name in sorted(self.files):
            path = self.root / name
            content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
            digest.update(name.encode(errors="surrogateescape") + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()


def code_of(cwd: Path, out: Path, freeze: bool = True) -> Code:
    """What a command started in `cwd` runs, by git's word. `out` is the run directory, which is no part of it."""
    cwd = cwd.resolve()
    top = git(cwd, "rev-parse", "--show-toplevel")
    if top is None:
        return Code(cwd, in_place="git knows no working tree there")
    root = Path(_text(top).rstrip("\n"))
    commit = git(root, "rev-parse", "--verify", "-q", "HEAD")
    branch = git(root, "symbolic-ref", "-q", "--short", "HEAD")
    diff = git(root, "diff", *FOR_GIT_APPLY, "HEAD") if commit else b""
    listed = _listed(root, out.resolve())
    code = Code(cwd, root, _word(commit), _word(branch), diff or b"")
    if listed is None:
        return replace(code, in_place=f"git took more than {GIT_TIMEOUT_S:g} s to list its files")
    tracked, untracked, others = listed
    small = [name for name in untracked if _bytes(root / name) <= UNTRACKED_BYTES]
    files = [name for name in (*tracked, *small) if _is_file(root / name)]
    links = [*others, *(name for name in untracked if name not in set(small))]
    code = replace(code, untracked=tuple(untracked))
    reason = _too_much(root, files, links) if freeze else "asked for by freeze: false"
    return replace(code, in_place=reason) if reason else replace(code, files=tuple(files), links=tuple(links))


def write_code(code: Code, run: Run) -> None:
    """The copy and the diff into a run directory."""
    if code.diff:
        with atomic_path(run.command_diff, durable=False) as new:
            new.write_bytes(code.diff)
    if not code.in_place:
        with atomic_path(run.command, durable=False) as new:
            code.copy(new)


def _listed(root: Path, out: Path) -> tuple[list[str], list[str], list[str]] | None:
    """What git tracks, what it would track, and what is there besides (ignored, or a run of ours)."""
    tracked = _names(root, "--cached", "--recurse-submodules")
    untracked = _names(root, "--others", "--exclude-standard")
    ignored = _names(root, "--others", "--ignored", "--exclude-standard", "--directory")
    if tracked is None or untracked is None or ignored is None:
        return None
    runs = {PurePosixPath(name).parent for name in untracked if PurePosixPath(name).name == "resolved.json"}
    in_run = {name for name in untracked if runs & set(PurePosixPath(name).parents)}
    folders = {name for name in untracked if name.endswith("/")}  # repositories inside this one
    others = [*ignored, *folders, *map(str, runs)]
    linked = {name.rstrip("/") for name in others if PurePosixPath(name).name not in NEVER_LINKED}
    linked = {name for name in linked if not name.endswith(".pyc") and not (root / name).is_relative_to(out)}
    outermost = sorted(name for name in linked if not linked & {str(above) for above in PurePosixPath(name).parents})
    return tracked, [name for name in untracked if name not in in_run | folders], outermost


def _names(root: Path, *options: str) -> list[str] | None:
    said = git(root, "ls-files", "-z", *options)
    return None if said is None else [name for name in _text(said).split("\0") if name]


def _too_much(root: Path, files: list[str], links: list[str]) -> str:
    """Why there is too much to copy; empty when there is not."""
    number, size = len(files) + len(links), sum(_bytes(root / name) for name in files)
    if number > MOST_FILES:
        return f"its {number} files are more than the {MOST_FILES} that are copied; have git ignore the data"
    if size > MOST_BYTES:
        mebibytes = size // 2**20
        return f"its {mebibytes} MiB are more than the {MOST_BYTES // 2**20} that are copied; have git ignore the data"
    return ""


def _is_file(path: Path) -> bool:
    """A file or a link: not what was deleted, nor a submodule that was never fetched."""
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _bytes(path: Path) -> int:
    return path.lstat().st_size if _is_file(path) else 0


def _parent(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)


def _word(said: bytes | None) -> str | None:
    return _text(said).strip() or None if said else None


def _text(said: bytes) -> str:
    """Names of files need not be UTF-8."""
    return said.decode(errors="surrogateescape")


def _shown(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="replace")
