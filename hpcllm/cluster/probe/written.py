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
from hpcllm.cluster.probe.found import Probed
from hpcllm.cluster.profile import Profile, shipped_profiles, user_profiles
from hpcllm.errors import UserError
from hpcllm.run_directory import atomic_path
from hpcllm.units import format_bytes_per_s, format_flops_per_s, format_seconds

KEY = "measured"
REMARK = "  # by `hpcllm profile probe`, which replaces this block"
WIDTH = 110


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
    _, fabric_key = profile.fabric_of(probed.partition)
    fabric = {} if f"{fabric_key}.rate" in doubted else _fabric(probed)
    node = _node(probed, f"nodes.{probed.node_type}", doubted)
    files = _files(probed, doubted)
    if fabric_key != "fabric" and fabric:
        node["fabric"] = fabric
    old = {name: _dated(before.get(name) or {}, before.get("date")) for name in ("nodes", "filesystems")}
    old_fabric = _dated({"": before.get("fabric") or {}}, before.get("date"))[""]
    found = {
        "date": date.fromisoformat(probed.date),
        "commit": probed.commit,
        "world_size": probed.world_size,
        "hosts": list(probed.hosts),
        "library": probed.library,
        "nodes": {**old["nodes"], **({probed.node_type: node} if node else {})},
        "fabric": (fabric if fabric_key == "fabric" else {}) or old_fabric,
        "filesystems": {**old["filesystems"], **({probed.filesystem: files} if probed.filesystem and files else {})},
        "clock_skew": format_seconds(probed.clock_skew_s) if len(probed.nodes) > 1 else None,
    }
    return {key: value for key, value in found.items() if value or key == "date"}


def _node(probed: Probed, at: str, doubted: Collection[str]) -> dict[str, Any]:
    rows = (
        ("flops", f"{at}.flops", "flops_per_s", format_flops_per_s),
        ("gpu_flops", f"{at}.gpus.flops", "gpu_flops_per_s", format_flops_per_s),
        ("gpu_memory_rate", f"{at}.gpus memory rate", "gpu_memory_rate_bytes_per_s", format_bytes_per_s),
        ("memory_rate", f"{at}.memory_rate", "memory_rate_bytes_per_s", format_bytes_per_s),
        ("all_reduce", f"{at} all-reduce", "all_reduce_bytes_per_s", format_bytes_per_s),
    )
    found = {name: (probed.lowest(figure), key, shown) for name, key, figure, shown in rows}
    found["gpu_all_reduce"] = probed.gpu_all_reduce_inside_bytes_per_s, f"{at}.gpus.link", format_bytes_per_s
    return {name: shown(value) for name, (value, key, shown) in found.items() if value and key not in doubted}


def _fabric(probed: Probed) -> dict[str, Any]:
    rates = {
        "rate": probed.rate_bytes_per_s(),
        "all_reduce": None if probed.slow_hosts("link_bytes_per_s") else probed.all_reduce_bytes_per_s,
        "gpu_all_reduce": probed.gpu_all_reduce_bytes_per_s if len(probed.nodes) > 1 else None,
    }
    shown = {name: format_bytes_per_s(rate) for name, rate in rates.items() if rate}
    return {**shown, **({"latency": format_seconds(probed.latency_s)} if probed.latency_s else {})}


def _files(probed: Probed, doubted: Collection[str]) -> dict[str, Any]:
    rates = {name.removesuffix("_bytes_per_s"): rate for name, rate in probed.files.items()}
    at = f"filesystems.{probed.filesystem}"
    return {name: format_bytes_per_s(rate) for name, rate in rates.items() if rate and f"{at}.{name}" not in doubted}


def _dated(parts: dict[str, Any], day: Any) -> dict[str, Any]:
    """Parts of an earlier section, each with its day."""
    return {
        name: part and {"date": _date(part.get("date") or day), **_without_date(part)} for name, part in parts.items()
    }


def _without_date(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "date"}


def _date(day: Any) -> Any:
    return date.fromisoformat(day) if isinstance(day, str) else day


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
