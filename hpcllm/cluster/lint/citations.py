"""Citations: the comment behind a value that names the page it was taken from.

    sources:
      UG: {what: github.com/site/guide@6c3a26c, read: 2026-11-24}
    nodes:                   # [UG hardware.md]            covers every value of the block that has none of its own
      gpu:
        cores: 56            # [UG jobs.md; assumed] …     its own, with a second one behind it
        memory: 480GB        # [assumed] of 512            ours, with the reason
        mtbf: unknown                                      needs none

The first word in brackets is a name under `sources:`, or `assumed`; what follows is the page. A value has its citation
on its own line, or on the line that opens a block around it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hpcllm.cluster.known import UNKNOWN
from hpcllm.cluster.lint.doubt import Doubt, error, warning
from hpcllm.cluster.profile import Profile
from hpcllm.source import FieldPath, Places

ASSUMED = "assumed"
OURS = ("name", "extends", "verified", "contact", "sources", "measured")  # sections that say where they come from
PROSE = "description"


def doubts(profile: Profile, data: Any, places: Places, text: str) -> Iterator[Doubt]:
    """Values without a citation where the profile is documented; citations of nothing; sources without any."""
    comments = _comments(text)
    cited = {line: _cited(comment) for line, comment in comments.items()}
    own = places[()][0]
    for line, names in cited.items():
        for name in names:
            if name not in (ASSUMED, *profile.sources) and profile.sources:
                yield error(_at_line(places, own, line), _no_source(name, profile.sources))
    everything = {word for comment in comments.values() for word in re.findall(r"[\w.-]+", comment)}
    for name in profile.sources:
        if places.get(("sources", name), ("",))[0] == own and name not in everything:
            yield warning(("sources", name), "cited by no value")
    if profile.verified.how != "documented":
        return
    if not profile.sources:
        yield warning(("verified", "how"), "documented, but no page is named under `sources:`")
    else:
        covered = {line for line, names in cited.items() if names}
        yield from _uncited(data, places, own, covered)


def values(data: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, Any]]:
    """Every single value of a file, by its path."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from values(value, (*path, key))
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from values(value, (*path, i))
    else:
        yield path, data


def _uncited(data: Any, places: Places, own: str, covered: set[int]) -> Iterator[Doubt]:
    """One doubt for each line of values without a citation."""
    told: set[int] = set()
    for path, value in values(data):
        place = _nearest(path, places)
        if value in (None, UNKNOWN) or path[0] in OURS or PROSE in path or place[0] != own or place[1] in told:
            continue
        around = [places[path[:n]] for n in range(1, len(path) + 1) if path[:n] in places]
        if not any(file == own and line in covered for file, line, _ in around):
            told.add(place[1])
            yield warning(path, f"no citation; say behind it where it is from, # [NAME page], or # [{ASSUMED}] and why")


def _nearest(path: FieldPath, places: Places) -> tuple[str, int, int]:
    while path not in places:
        path = path[:-1]
    return places[path]


def _comments(text: str) -> dict[int, str]:
    """The comment of each line that has one. A # in quotes, or inside a word, begins none."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        bare = re.sub(r"""(?:(?<=^)|(?<=[\s\[{,:]))("(?:\\.|[^"\\])*"|'[^']*')""", lambda m: "x" * len(m[0]), line)
        matched = re.search(r"(?:^|\s)#(.*)$", bare)
        if matched:
            found[number] = line[matched.start(1) :]
    return found


def _cited(comment: str) -> list[str]:
    """The names in it: the first word of each pair of brackets."""
    return re.findall(r"\[([A-Za-z][\w.-]*)[^\]]*\]", comment)


def _no_source(name: str, sources: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, [*sources, ASSUMED], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"cites [{name}], which is no source; there are {', '.join(sources)}{hint}"


def _at_line(places: Places, own: str, line: int) -> FieldPath:
    """The last field that begins on a line or before it."""
    before = [(place[1], place[2], path) for path, place in places.items() if place[0] == own and place[1] <= line]
    return max(before, key=lambda found: found[:2])[2] if before else ()
