"""Whether a profile makes sense: every mistake and every doubt of a file, each at its line.

Mistakes of the text and the schema come from `source`; what follows here asks whether the values can be true. An error
cannot be so; a warning can, but hardly ever is; a note is something to know. Each check is a function of the profile in
`hardware.py`, `site.py` or `citations.py`, and yields its doubts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from hpcllm import source, yaml_text
from hpcllm.cluster.known import UNKNOWN
from hpcllm.cluster.lint import citations, hardware, site
from hpcllm.cluster.lint.doubt import Doubt, Severity, note, warning
from hpcllm.cluster.profile import Profile, profile_document
from hpcllm.errors import Problem, SourceError
from hpcllm.source import FieldPath, Places
from hpcllm.yaml_text import Document, dotted

STALE_AFTER = timedelta(days=365)
MOST_NAMED = 6  # unknown values in one line


@dataclass(frozen=True)
class Finding:
    """Something that lint found."""

    problem: Problem
    severity: Severity

    def __str__(self) -> str:
        """As a mistake of any file (`file:line:column: field: …`), with `warning:` or `note:` before the field."""
        words = () if self.severity == "error" else (self.severity,)
        return str(replace(self.problem, field=": ".join(filter(None, (*words, self.problem.field)))))


@dataclass(frozen=True)
class Linted:
    """What lint says of one file."""

    findings: tuple[Finding, ...]
    """In the order of their lines."""
    name: str | None
    """Of what it describes; None where it has an error."""

    @property
    def verdict(self) -> str:
        """`fine, describes NAME`, or how many mistakes there are; and how much there is to look at."""
        counts = {word: sum(finding.severity == word for finding in self.findings) for word in ("error", "warning")}
        said = [f"{count} {word}{'s' * (count != 1)}" for word, count in counts.items() if count]
        return ", ".join([*([f"fine, describes {self.name}"] if self.name else []), *said]) or "nothing could be read"


def lint_record(path: Path, model: type[source.Record]) -> Linted:
    """All the mistakes of a file that holds such a record, a job. Raises UserError where it cannot be read."""
    text = source.read_text(path)
    try:
        document = yaml_text.read(text, str(path))
    except SourceError as error:
        return Linted(tuple(Finding(problem, "error") for problem in error.problems), None)
    return linted(document, source.examine(document, model, str(path)))


def lint_file(path: Path, today: date) -> Linted:
    """All that is to be said of a profile's file, and of what it extends. Raises UserError where it cannot be read."""
    text = source.read_text(path)
    try:
        document = profile_document(path)
    except SourceError as error:
        return Linted(tuple(Finding(problem, "error") for problem in error.problems), None)
    examined = source.examine(document, Profile, str(path))
    doubts: tuple[Finding, ...] = ()
    if examined.record is not None:
        doubts = lint(examined.record, document.data, document.places, text, today, examined.doubtful)
    return linted(document, examined, doubts)


def linted(document: Document, examined: source.Examined[Any], doubts: tuple[Finding, ...] = ()) -> Linted:
    """Mistakes, unquoted words on which readers of YAML disagree, and doubts; of one field the mistakes alone."""
    mistakes = [Finding(problem, "error") for problem in examined.problems]
    wrong = {finding.problem.field for finding in mistakes}
    softer = (*(Finding(problem, "warning") for problem in document.ambiguous), *doubts)
    found = [*mistakes, *(finding for finding in softer if finding.problem.field not in wrong)]
    fine = examined.record is not None and all(finding.severity != "error" for finding in found)
    name = examined.record.name if examined.record is not None and fine else None
    return Linted(tuple(sorted(found, key=lambda finding: finding.problem)), name)


def lint(
    profile: Profile,
    data: Any,
    places: Places,
    text: str,
    today: date,
    doubtful: tuple[FieldPath, ...] = (),
) -> tuple[Finding, ...]:
    """Every doubt about a profile.

    `data` and `places` are its file's, merged over what it extends; `text` is the file's own. Nothing is concluded from
    what stands at a `doubtful` path, or below it.
    """
    doubts = [
        *hardware.doubts(profile),
        *site.doubts(profile),
        *_dates(profile, today),
        *_unknown(data),
        *citations.doubts(profile, data, places, text),
    ]
    clear = [doubt for doubt in doubts if not any(doubt.path[: len(p)] == p for p in doubtful)]
    return tuple(sorted((_located(doubt, places) for doubt in clear), key=lambda finding: finding.problem))


def _located(doubt: Doubt, places: Places) -> Finding:
    known = doubt.path
    while known not in places and known:
        known = known[:-1]
    return Finding(Problem(*places.get(known, ("", 1, 1)), dotted(doubt.path), doubt.found), doubt.severity)


def _dates(profile: Profile, today: date) -> Iterator[Doubt]:
    """What lies in the future, and pages that were read long ago."""
    if profile.verified.date > today:
        yield Doubt(("verified", "date"), f"found {profile.verified.date}, which is to come", "error")
    for name, page in profile.sources.items():
        here = ("sources", name, "read")
        if page.read > today:
            yield Doubt(here, f"found {page.read}, which is to come", "error")
        elif today - page.read > STALE_AFTER:
            days = (today - page.read).days
            yield warning(here, f"read {days} days ago; read it again, and check the values that cite it")
        if page.dated and page.dated > page.read:
            yield warning(("sources", name, "dated"), f"found {page.dated}, after the day it was read, {page.read}")
    if profile.measured and profile.measured.date > today:
        yield Doubt(("measured", "date"), f"found {profile.measured.date}, which is to come", "error")


def _unknown(data: Any) -> Iterator[Doubt]:
    paths = [path for path, value in citations.values(data) if value == UNKNOWN]
    if paths:
        more = ", …" if len(paths) > MOST_NAMED else ""
        names = ", ".join(map(dotted, paths[:MOST_NAMED])) + more
        yield note((), f"{len(paths)} unknown: {names}; whoever needs one is asked for it")
