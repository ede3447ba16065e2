"""YAML as people write it: every mistake of a file at once, each with its place; no input gives a traceback."""

import os
import time
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcllm import source, yaml_text
from hpcllm.errors import SourceError, UserError
from hpcllm.source import Record
from hpcllm.units import Bytes, Seconds


class Inner(Record):
    memory_bytes: Bytes
    count: int = 1


class Outer(Record):
    name: str
    time_s: Seconds = 60.0
    flag: bool = False
    inner: Inner | None = None
    many: dict[str, Inner] = {}


def problems(text: str) -> list[str]:
    with pytest.raises(SourceError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


def read(text: str) -> Outer:
    return source.whole(source.examine(yaml_text.read(text, "file.yaml"), Outer, "file.yaml"))


def test_a_quantity_loses_its_unit_in_the_key_and_gains_it_in_the_name():
    assert read("name: x\ninner: {memory: 80GiB}").inner == Inner(memory_bytes="80GiB")


def test_all_mistakes_are_told_at_once_each_with_line_and_column():
    found = problems("name: 3\ntimee: 4h\ninner:\n  memory: 80\n  count: many\nmany:\n  a: {memory: 4Gb}\n")

    assert [line.split(": ")[0] + ": " + line.split(": ")[1] for line in found] == [
        "file.yaml:1:1: name",
        "file.yaml:2:1: timee",
        "file.yaml:4:3: inner.memory",
        "file.yaml:5:3: inner.count",
        "file.yaml:7:7: many.a.memory",
    ]


def test_a_misspelt_key_is_answered_with_the_one_that_was_meant():
    assert problems("name: x\ntimee: 4h\n")[0].endswith("unknown key; did you mean time?")


def test_a_strange_key_is_answered_with_the_allowed_ones():
    assert "allowed here: count, memory" in problems("name: x\ninner: {memory: 1GiB, zzz: 1}")[0]


def test_a_key_that_stands_twice_is_refused():
    assert problems("name: x\nname: y\n") == ["file.yaml:2:1: name: this key stands twice, first in line 1; keep one"]


def test_a_clock_time_is_a_time_and_not_a_number_to_base_60():
    assert read("name: x\ntime: 12:30:00").time_s == 45000


@pytest.mark.parametrize("word", ["no", "on", "yes", "off", "NO"])
def test_words_that_yaml_1_1_takes_for_booleans_stay_words(word):
    assert read(f"name: {word}").name == word


@pytest.mark.parametrize(("number", "octal"), [("010", 8), ("0o17", 15)])
def test_a_number_that_may_be_octal_is_refused(number, octal):
    found = problems(f"name: x\ninner: {{memory: 1GiB, count: {number}}}")[0]

    assert f"found '{number}'; expected a whole number ({number} is the octal number {octal} to some readers" in found


def test_a_tab_is_named():
    assert "a tab; YAML is indented with spaces" in problems("name: x\ninner:\n\tmemory: 1GiB\n")[0]


def test_every_line_indented_with_a_tab_is_told_and_the_rest_is_read():
    found = problems("name: x\ninner:\n\tmemory: 1GiB\n\tcount: many\n")

    assert [line.partition(" ")[2] for line in found] == [
        "a tab; YAML is indented with spaces",
        "a tab; YAML is indented with spaces",
        "inner.count: found 'many'; expected a whole number",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flag: no", "flag: found 'no'; expected true or false: write false"),
        ("flag: ON", "flag: found 'ON'; expected true or false: write true"),
        ("flag: 1", "flag: found 1; expected true or false"),
        ("inner: {memory: 1GiB, count: true}", "inner.count: found true; expected a whole number"),
        ("flag: 'true'", "flag: found 'true'; expected true or false, without quotes"),
        ("inner: {memory: 1GiB, count: '12'}", "inner.count: found '12'; expected a whole number, without quotes"),
        ("inner: {memory: 1GiB, count: 1:30}", "count: found '1:30'; expected a whole number (1:30 is the number 90"),
        ("inner: {memory: 1GiB, count: 1_000}", "found '1_000'; expected a whole number (1_000 is the number 1000"),
        ("inner: {memory: 1GiB, count: 1.5}", "inner.count: found 1.5; expected a whole number"),
        ("inner: [memory, 1GiB]", "inner: found a list; expected a map of keys"),
        ("inner: 1GiB", "inner: found '1GiB'; expected a map of keys"),
        ("many:", "many: found nothing; expected a map of keys"),
        ("? [a, b]\n: c", "found a list or a map as a key; expected a word"),
        ("3: x", "3: unknown key; allowed here: "),
        ("true: x", "true: unknown key"),
        ("flag: !!set {a, b}", "flag: found the tag 'tag:yaml.org,2002:set'"),
        ("flag: !!int many", "flag: found 'many', which is no int"),
        ("<<: 3", "<<: a merge key takes a map, as an alias (*name) of one"),
        ("---\nname: y", "not YAML: a second document (---); expected one"),
    ],
)
def test_a_trap_of_yaml_is_told_in_a_sentence(text, said):
    assert any(said in line for line in problems(f"name: x\n{text}\n"))


def test_a_merge_key_is_written_out_and_its_mistakes_are_told_where_they_stand():
    base = "many: {a: &base {memory: 1GiB, count: many}}\n"

    assert problems(f"name: x\n{base}inner: {{<<: *base, memory: 2GiB}}\n") == [
        "file.yaml:2:32: inner.count: found 'many'; expected a whole number",
        "file.yaml:2:32: many.a.count: found 'many'; expected a whole number",
    ]
    assert read(f"name: x\n{base.replace('many}', '3}')}inner: {{<<: *base, memory: 2GiB}}\n").inner == Inner(
        memory_bytes="2GiB", count=3
    )


def test_a_key_is_text_whatever_it_looks_like():
    assert list(read("name: x\nmany: {1: {memory: 1GiB}, no: {memory: 1GiB}}").many) == ["1", "no"]


def test_a_key_that_stands_twice_hides_no_other_mistake():
    assert len(problems("name: x\nname: y\ninner: {memory: 80}\n")) == 2


def test_what_readers_of_yaml_disagree_about_is_noted_unless_it_stands_in_quotes():
    document = yaml_text.read("a: no\nb: 'no'\nc: 12:30:00\nd: [010, 10]\non: x\ne: 00:30:00\n", "file.yaml")

    assert [problem.field for problem in document.ambiguous] == ["a", "c", "d[0]", "on"]


class Choice(Record):
    kind: Literal["infiniband", "ethernet"]
    rate: int = 1


class Choices(Record):
    one: Choice
    other: Choice | None = None

    def contradictions(self):
        if self.other and self.one.rate < self.other.rate:
            yield ("other", "rate"), "faster than one"


def choices(text):
    with pytest.raises(SourceError) as caught:
        source.whole(source.examine(yaml_text.read(text, "f"), Choices, "f"))
    return [str(problem).partition(" ")[2] for problem in caught.value.problems]


def test_a_misspelt_choice_is_answered_with_the_one_that_was_meant():
    assert choices("one: {kind: Infinband}") == [
        "one.kind: found 'Infinband'; allowed are infiniband, ethernet; did you mean infiniband?"
    ]


def test_a_wrong_value_does_not_hide_a_contradiction():
    assert choices("one: {kind: infinband}\nother: {kind: ethernet, rate: 9}\n") == [
        "one.kind: found 'infinband'; allowed are infiniband, ethernet; did you mean infiniband?",
        "other.rate: faster than one",
    ]


def test_nothing_is_said_of_what_stands_in_for_a_wrong_value():
    assert choices("one: {kind: ethernet}\nother: {rate: 9.5}\n") == [
        "other.kind: this key is required",
        "other.rate: found 9.5; expected a whole number",
    ]


def test_a_list_where_a_map_belongs_is_named():
    assert "expected a map of keys" in problems("- name\n- x\n")[0]


def test_an_empty_file_is_named():
    assert "the file is empty" in problems("# nothing\n")[0]


def test_an_alias_bomb_is_refused_before_it_fills_the_memory():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    assert "100,000" in problems(bomb)[0]


def test_an_alias_inside_itself_is_refused():
    assert "contains itself" in problems("name: &a [*a]\n")[0]


def test_python_objects_are_not_made():
    assert "found the tag" in " ".join(problems("name: !!python/object/apply:os.system ['true']\n"))


def test_a_missing_file_is_named_with_its_nearest(tmp_path):
    (tmp_path / "demo.yaml").write_text("name: x")
    with pytest.raises(UserError, match=r"dmeo.yaml: no such file; did you mean .*demo.yaml"):
        source.load(tmp_path / "dmeo.yaml", Outer)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read: it is a folder"):
        source.load(tmp_path, Outer)


def test_a_pipe_or_a_device_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/urandom")):
        with pytest.raises(UserError, match="cannot be read: it is a pipe or a device; write its text into a file"):
            source.load(path, Outer)


def test_a_file_of_megabytes_or_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "large.yaml").write_text("# large\n" * 2**17 + "name: x\n")
    with pytest.raises(UserError, match="found 1,048,584 bytes; a profile or a job has at most 1,048,576"):
        source.load(tmp_path / "large.yaml", Outer)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match="byte 10 is not UTF-8"):
        source.load(tmp_path / "latin.yaml", Outer)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named_with_why(tmp_path):
    (tmp_path / "x.yaml").write_text("name: x")
    (tmp_path / "x.yaml").chmod(0)
    with pytest.raises(UserError, match=r"x.yaml: cannot be read: Permission denied$"):
        source.load(tmp_path / "x.yaml", Outer)


def test_of_thousands_of_mistakes_the_first_are_told_with_how_many_there_are_and_at_once():
    start_s = time.perf_counter()
    found = problems("name: 3\n" + "".join(f"key{i}: 1\n" for i in range(5000)))

    assert time.perf_counter() - start_s < 5  # a second; minutes, once
    assert found[0] == "file.yaml:1:1: 5,001 mistakes; the first 100 follow"
    assert found[1].startswith("file.yaml:1:1: name: found 3; expected text")
    assert len(found) == 101


def test_mistakes_of_the_text_are_counted_too():
    assert problems("name: x\n" + "time: 4h\n" * 300)[0] == "file.yaml:1:1: 299 mistakes; the first 100 follow"


@pytest.mark.parametrize("number", ["9" * 400, "0x" + "f" * 5000, "1" + ":1" * 5000, "0" + "7" * 9000, "." + "1" * 400])
def test_a_number_of_hundreds_of_digits_is_a_mistake_of_its_field(number):
    assert any("inner.count: found" in line for line in problems(f"name: x\ninner: {{memory: 1GiB, count: {number}}}"))


def test_brackets_in_brackets_are_read_up_to_a_depth():
    assert problems("[" * 100_000) == ["file.yaml:1:1: not YAML: nested too deeply; at most 100 brackets in each other"]


fragments = st.sampled_from(
    ["name", ": ", "\n", "  ", "- ", "{", "}", "[", "]", "'", '"', "&a", "*a", "!!int", "!!", "|", ">", "#", "inner",
     "memory", "80GiB", "1e999", "0x", "0o7", ".nan", "2026-13-45", "\x00", "é", "---", "...", "?", "<<",
     "%", "@", "\t"]
)  # fmt: skip


@given(st.lists(fragments, max_size=30).map("".join))
def test_no_text_however_broken_gives_anything_but_a_record_or_located_mistakes(text):
    try:
        read(text)
    except SourceError as error:
        assert all(problem.line >= 1 and problem.found for problem in error.problems)
