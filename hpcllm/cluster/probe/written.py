"""The section `measured:` in the file of a profile: only that block is replaced, every other line stays as it is.

A profile that comes with hpcllm, or that may not be written, is left alone: a file of the user's own extends it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from hpcllm import source
from hpcllm.cluster.find import available_profiles
from hpcllm.cluster.measured import Measured
from hpcllm.cluster.probe.figures import fabric_part, figures
from hpcllm.cluster.probe.found import Probed
from hpcllm.cluster.probe.preferred import Path as FieldPath
from hpcllm.cluster.profile import Profile, load_profile, shipped_profiles, user_profiles
from hpcllm.errors import UserError
from hpcllm.run_directory import atomic_path
from hpcllm.units import format_seconds

KEY = "measured"
REMARK = "  # by `hpcllm profile probe`, which replaces this block"
WIDTH = 110


def measured_before(profile: Profile, path: Path) -> Measured | None:
    """What an earlier probe wrote, into the file that this one will write to."""
    target = target_of(path)
    return load_profile(target).measured if target.exists() else profile.measured


def write_measured(profile: Profile, path: Path, probed: Probed, doubted: Collection[str] = ()) -> Path:
    """Write what a probe found, but for the keys that are `doubted`, and return the file that has it now.

    Raises UserError for a file in which there is no block to write.
    """
    target = target_of(path)
    text = _text_of(target) if target.exists() else _extending(path, profile, probed)
    before = source.parse(text, str(target))[0].get(KEY) or {}
    new = with_section(text, section(profile, probed, before, doubted), str(target))
    target = target.resolve()  # a link stays a link
    with atomic_path(target) as temporary:
        temporary.write_bytes(new.encode())
        if target.exists():
            shutil.copymode(target, temporary)
    return target


# ---- what is written -------------------------------------------------------------------------------------------------


def section(profile: Profile, probed: Probed, before: dict[str, Any], doubted: Collection[str]) -> dict[str, Any]:
    """The section as plain data; what an earlier one says of other nodes and filesystems stays, with its day."""
    parts = _parts_before(before)
    for part, new in _parts_now(profile, probed, doubted).items():
        parts[part] = _standing(new, parts.get(part, {}), bool(doubted) or probed.slow)
    for part in [part for part in parts if len(part) == 3 and "date" in parts.get(part[:2], {})]:
        parts[part] = {"date": date.fromisoformat(probed.date), **parts[part]}  # not that of the node around it
    tree = _tree(parts)
    found = {
        "date": date.fromisoformat(probed.date),
        "commit": probed.commit,
        "world_size": probed.world_size,
        "hosts": list(probed.hosts),
        "library": probed.library,
        **{name: tree.get(name) for name in ("nodes", "fabric", "filesystems")},
        "clock_skew": format_seconds(probed.clock_skew_s) if len(probed.nodes) > 1 else None,
    }
    return {key: value for key, value in found.items() if value or key == "date"}


def _parts_now(profile: Profile, probed: Probed, doubted: Collection[str]) -> dict[FieldPath, dict[str, Any]]:
    """What was measured, but for what is doubted; the figures of a network stand or fall together."""
    parts: dict[FieldPath, dict[str, Any]] = {}
    for figure in figures(profile, probed):
        part = parts.setdefault(figure.part, {})
        if figure.key not in doubted:
            part[figure.name] = figure.shown(figure.value)
    network = fabric_part(profile, probed)
    if any(figure.part == network and figure.key in doubted for figure in figures(profile, probed)):
        parts[network] = {}
    return parts


def _parts_before(before: dict[str, Any]) -> dict[FieldPath, dict[str, Any]]:
    """Those of an earlier section, each with its day."""
    day = before.get("date")
    parts: dict[FieldPath, dict[str, Any]] = {("fabric",): _dated(before.get("fabric"), day)}
    for kind in ("nodes", "filesystems"):
        for name, part in (before.get(kind) or {}).items():
            dated = _dated(part, day)
            network = dated.pop("fabric", None)
            parts[kind, name] = dated
            if network:
                parts[kind, name, "fabric"] = _dated(network, dated["date"])
    return parts


def _dated(part: dict[str, Any] | None, day: Any) -> dict[str, Any]:
    if not part:
        return {}
    own = part.get("date") or day
    return {**part, "date": date.fromisoformat(own) if isinstance(own, str) else own}


def _standing(new: dict[str, Any], old: dict[str, Any], doubtful: bool) -> dict[str, Any]:
    """One part: of a doubtful probe the earlier one stays, whole, where the new one would lose a figure of it."""
    lost = old.keys() - new.keys() - {"date"}
    return old if not new or (lost and doubtful) else new


def _tree(parts: dict[FieldPath, dict[str, Any]]) -> dict[str, Any]:
    """Parts by their path, as maps in maps; none that is empty."""
    tree: dict[str, Any] = {}
    for path in sorted(filter(parts.get, parts), key=len):
        place = tree
        for step in path:
            place = place.setdefault(step, {})
        place.update(parts[path])
    return tree


# ---- where in the text -----------------------------------------------------------------------------------------------


def with_section(text: str, found: dict[str, Any], file: str) -> str:
    """The text with its block `measured:` replaced, or one at the end. Raises UserError where there is no place."""
    newline = "\r\n" if "\r\n" in text else "\n"
    dumped = yaml.safe_dump({KEY: found}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=WIDTH)
    block = dumped.replace(f"{KEY}:\n", f"{KEY}:{REMARK}\n", 1).replace("\n", newline)
    start, end = _place(text)
    between = "" if start < len(text) or text.endswith(("\n\n", f"{newline}{newline}")) else newline
    before = text[:start] if text[:start].endswith("\n") or not text else text[:start] + newline
    new = before + between + block + text[end:]
    _check_rest(text, new, file)
    return new


def _place(text: str) -> tuple[int, int]:
    """First and last character of the lines of the block; both at the end where there is none."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    rows = root.value if isinstance(root, yaml.MappingNode) and not root.flow_style else []
    for key, value in rows:
        if key.value == KEY:
            start = text.rfind("\n", 0, key.start_mark.index) + 1
            return start, _with_comments(text, _line_end(text, max(_ends(value))))
    return len(text), len(text)


def _ends(node: yaml.Node) -> Iterator[int]:
    """Where the values of a block end. A block's own end is that of the comments behind it, which are not its own."""
    inner = node.value if isinstance(node, yaml.CollectionNode) and not node.flow_style else []
    pairs = [one for row in inner for one in (row if isinstance(row, tuple) else (row,))]
    yield from (end for one in pairs for end in _ends(one))
    if not pairs:
        yield node.end_mark.index


def _line_end(text: str, index: int) -> int:
    found = text.find("\n", max(0, index - 1))
    return len(text) if found < 0 else found + 1


def _with_comments(text: str, end: int) -> int:
    """Further, over the comments that stand in the block: they are indented."""
    while end < len(text):
        line = text[end : _line_end(text, end + 1)]
        if not (line[0] in " \t" and line.strip().startswith("#")):
            break
        end += len(line)
    return end


def _check_rest(old: str, new: str, file: str) -> None:
    """Before anything is written: the rest says what it said, and the section can be read."""
    try:
        before, after = source.parse(old, file)[0], source.parse(new, file)[0]
        source.check(after[KEY], Measured, file, {})
        same = {**before, KEY: None} == {**after, KEY: None}
    except (UserError, KeyError, TypeError):
        same = False
    if not same:
        raise UserError(
            f"{file}: {KEY}: cannot be put into this text; write the file with a key a line at its top, without "
            f"`...` and without anchors in {KEY}, and read the run again"
        )


# ---- in which file ---------------------------------------------------------------------------------------------------


def target_of(path: Path) -> Path:
    """The profile's own file; for one that is ours or cannot be written, a file of that name in the user's folder."""
    ours = path.resolve().is_relative_to(shipped_profiles().resolve())
    if not ours and os.access(path, os.W_OK) and os.access(path.resolve().parent, os.W_OK):
        return path
    target = user_profiles() / f"{path.stem}.yaml"
    if target.exists() and source.parse(_text_of(target), str(target))[0].get("extends") != _name_of(path):
        raise UserError(f"{target}: is in the way: it should extend {_name_of(path)}; give it another name")
    return target


def _extending(path: Path, profile: Profile, probed: Probed) -> str:
    how = "emulated" if profile.verified.how == "emulated" else "on-site"
    return (
        f"# {profile.name}, as it was measured; everything else stands in the profile that this one extends.\n"
        f"extends: {_name_of(path)}\n"
        f"verified: {{how: {how}, date: {probed.date}}}\n"
    )


def _name_of(path: Path) -> str:
    """How a file in another folder names it: by its name, where that is found, else by its path."""
    ours = path.resolve().is_relative_to(shipped_profiles().resolve())
    found = available_profiles().get(path.stem)
    return path.stem if ours or (found and found.resolve() == path.resolve()) else str(path.absolute())


def _text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8")
