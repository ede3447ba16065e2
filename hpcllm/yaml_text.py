"""The text of a YAML file as plain data, with the place of every value and every mistake of the text itself.

Written for what goes wrong. What readers of YAML disagree about stays text here (`12:30:00`, `no`, `010`, `1_000`), so
that a field of text gets what was written, and a field that wants a number or a truth refuses it with a sentence. Keys
are always text. Aliases and merge keys are written out, up to a bound. A mistake does not end the reading, unless
nothing can be read behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from hpcllm.errors import Problem, SourceError

MAX_VALUES = 100_000  # an alias bomb reaches this long before it fills the memory
DEEPEST = 100  # brackets in brackets; PyYAML's time grows with the square
LONGEST_NUMBER = 100  # digits; Python refuses to print some thousands, and takes long before that
TAB_COLUMNS = 8

FieldPath = tuple[str | int, ...]
Place = tuple[str, int, int]  # file, line, column
Places = dict[FieldPath, Place]


@dataclass(frozen=True)
class Document:
    """One file: its data, where each field stands by its path, and what is wrong with the text."""

    data: Any
    places: Places
    problems: tuple[Problem, ...] = ()
    ambiguous: tuple[Problem, ...] = ()
    """Values that other readers of YAML take for something else, and so better stand in quotes."""


def read(text: str, file: str) -> Document:
    """Raises SourceError for text that is not YAML at all."""
    try:
        return _document(text, file)
    except yaml.YAMLError as error:
        tabs = _tabs(text, file)
        if not tabs:
            raise SourceError([_syntax_problem(error, text, file)]) from None
    except RecursionError:
        raise SourceError([Problem(file, 1, 1, "", "nested too deeply, or an alias that contains itself")]) from None
    try:
        document = _document(text.expandtabs(TAB_COLUMNS), file)
    except (yaml.YAMLError, RecursionError):
        raise SourceError(tabs) from None
    return Document(document.data, document.places, (*tabs, *document.problems), document.ambiguous)


def taken_for(text: str) -> str | None:
    """What other readers of YAML take an unquoted word for; None where all agree."""
    if text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    if len(text) > LONGEST_NUMBER:
        return None
    if re.fullmatch(r"[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+", text):
        number = 0
        for part in text.lstrip("+-").replace("_", "").split(":"):
            number = number * 60 + int(part)
        return f"the number {number} (to base 60)"
    if re.fullmatch(r"[-+]?0o?[0-7]+", text):
        return f"the octal number {int(text.replace('o', ''), 8)}"
    if re.fullmatch(r"[-+]?[0-9][0-9_]*", text) and "_" in text:
        return f"the number {text.replace('_', '')}"
    return None


_TRUTHS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


class _Loader(yaml.SafeLoader):
    """SafeLoader with what all readers agree to be a number or a truth. Its C twin crashes on deep nesting."""

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level >= DEEPEST:
            raise yaml.YAMLError(f"nested too deeply; at most {DEEPEST} brackets in each other")
        super().fetch_flow_collection_start(token)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[1] in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9]*\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))

_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": lambda text: int(_short(text), 16 if text.lower().startswith("0x") else 10),
    "float": lambda text: float(_short(text).replace(".inf", "inf").replace(".nan", "nan")),
}


def _document(text: str, file: str) -> Document:
    root = _Loader(text).get_single_node()
    if root is None:
        raise SourceError([Problem(file, 1, 1, "", "the file is empty; expected a map of keys")])
    reader = _Reader(file)
    reader.places[()] = reader.place(root)
    data = reader.value(root, ())
    return Document(data, reader.places, tuple(reader.problems), tuple(reader.ambiguous))


class _Reader:
    """One pass over the nodes of a document."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: Places = {}
        self.problems: list[Problem] = []
        self.ambiguous: list[Problem] = []
        self.count = 0

    def value(self, node: yaml.Node, path: FieldPath) -> Any:
        """Plain data. Raises yaml.YAMLError for an alias bomb."""
        self.count += 1
        if self.count > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES:,} values, each counted as often as an alias brings it")
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        collection = {yaml.MappingNode: "map", yaml.SequenceNode: "seq"}.get(type(node))  # type: ignore[arg-type]
        if kind != collection and (collection or kind not in _SCALARS):
            self.problem(node, path, f"found the tag {node.tag!r}; expected text, a number, a list or a map")
        if isinstance(node, yaml.MappingNode):
            return self.map(node, path)
        if isinstance(node, yaml.SequenceNode):
            return self.list(node, path)
        assert isinstance(node, yaml.ScalarNode)
        return self.scalar(node, path, kind)

    def map(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        """Merged maps first, then the map's own keys, which win."""
        data: dict[str, Any] = {}
        for key, value in node.value:
            if _is_merge(key):
                data.update(self.merged(value, path))
        own: set[str] = set()
        for key, value in node.value:
            if _is_merge(key):
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.problem(key, path, "found a list or a map as a key; expected a word")
                continue
            name, inner = str(key.value), (*path, str(key.value))
            if name in own:
                first = self.places[inner][1]
                self.problem(key, inner, f"this key stands twice, first in line {first}; keep one")
            own.add(name)
            self.places[inner] = self.place(key)
            self.doubt(key, inner)
            data[name] = self.value(value, inner)
        return data

    def merged(self, node: yaml.Node, path: FieldPath) -> dict[str, Any]:
        """What a merge key brings: a map, or a list of maps of which the first wins."""
        maps = node.value[::-1] if isinstance(node, yaml.SequenceNode) else [node]
        data: dict[str, Any] = {}
        for one in maps:
            if isinstance(one, yaml.MappingNode):
                data.update(self.value(one, path))
            else:
                self.problem(one, (*path, "<<"), "a merge key takes a map, as an alias (*name) of one")
        return data

    def list(self, node: yaml.SequenceNode, path: FieldPath) -> list[Any]:
        """Each element placed by its number."""
        data = []
        for i, element in enumerate(node.value):
            self.places[*path, i] = self.place(element)
            data.append(self.value(element, (*path, i)))
        return data

    def scalar(self, node: yaml.ScalarNode, path: FieldPath, kind: str) -> Any:
        """A number, a truth, nothing, or text."""
        self.doubt(node, path)
        try:
            return _SCALARS.get(kind, str)(node.value)
        except (KeyError, ValueError):  # !!int many, or a number that is too long
            self.problem(node, path, f"found {node.value[:40]!r}, which is no {kind}")
            return node.value

    def doubt(self, node: yaml.ScalarNode, path: FieldPath) -> None:
        """Note an unquoted word on which readers disagree."""
        other = taken_for(node.value) if node.style is None and node.tag.endswith(":str") else None
        if other:
            what = f"found {node.value}, which other readers of YAML take for {other}; put it in quotes"
            self.ambiguous.append(Problem(*self.place(node), dotted(path), what))

    def problem(self, node: yaml.Node, path: FieldPath, found: str) -> None:
        """Note a mistake at a node."""
        self.problems.append(Problem(*self.place(node), dotted(path), found))

    def place(self, node: yaml.Node) -> Place:
        """Where a node begins."""
        return self.file, node.start_mark.line + 1, node.start_mark.column + 1


def dotted(path: FieldPath) -> str:
    """("nodes", "a", 0) -> `nodes.a[0]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _short(number: str) -> str:
    if len(number) > LONGEST_NUMBER:
        raise ValueError(f"more than {LONGEST_NUMBER} digits")
    return number


def _is_merge(key: yaml.Node) -> bool:
    return bool(key.tag == "tag:yaml.org,2002:merge")


def _tabs(text: str, file: str) -> list[Problem]:
    """Every line that is indented with a tab."""
    lines = enumerate(text.splitlines(), 1)
    found = [(number, re.match(r" *\t\s*[^\s#]", line)) for number, line in lines]
    return [
        Problem(file, number, matched.group().index("\t") + 1, "", "a tab; YAML is indented with spaces")
        for number, matched in found
        if matched
    ]


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    what = getattr(error, "problem", None) or str(error)
    if isinstance(error, yaml.reader.ReaderError):
        line, column = text[: error.position].count("\n") + 1, error.position - text.rfind("\n", 0, error.position)
        what = f"the character {text[error.position : error.position + 1]!r} is not allowed"
    elif "another document" in what:
        what = "a second document (---); expected one"
    elif "'\\t'" in str(error):
        what = "a tab; YAML is indented with spaces"
    return Problem(file, line, column, "", f"not YAML: {what}")
