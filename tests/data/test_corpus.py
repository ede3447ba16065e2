"""Where text comes from, and which part it belongs to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcllm.data.corpus import PARTS, documents, pairs, part_of
from hpcllm.data.locator import find_files
from hpcllm.errors import UserError
from hpcllm.job.spec import Data, Split, load_job

JOBS = Path(__file__).parents[2] / "jobs"
SPLIT = Split(validation=0.05, test=0.05)
ALL_IN_TRAIN = {"validation": 0, "test": 0}


def text_data(*files: str, exclude: tuple[str, ...] = (), split: dict[str, float] = ALL_IN_TRAIN) -> Data:
    return Data.model_validate({"text": {"files": files, "exclude": exclude}, "split": split})


def pair_data(split: dict[str, float] = ALL_IN_TRAIN, **fields: Any) -> Data:
    return Data.model_validate({"pairs": {"target_language": "zh_CN", **fields}, "split": split})


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# ---- the split -------------------------------------------------------------------------------------------------------

# Whoever changes this line mixes the held-out text of every run there is into its training text.
FROZEN = {
    "打开文件": "train",
    "Open the file": "train",
    "__future__.py": "train",
    "__hello__.py": "train",
    "__phello__/__init__.py": "train",
    "__phello__/spam.py": "validation",
    "_aix_support.py": "train",
    "asynchat.py": "validation",
    "asyncio/subprocess.py": "validation",
    "chunk.py": "test",
    "copyreg.py": "test",
    "distutils/__init__.py": "test",
}


def test_the_split_of_a_name_never_changes() -> None:
    assert {name: part_of(name, SPLIT) for name in FROZEN} == FROZEN


@given(st.text())
def test_a_larger_test_share_keeps_what_was_in_it(name: str) -> None:
    if part_of(name, Split(validation=0.1, test=0.2)) == "test":
        assert part_of(name, Split(validation=0, test=0.5)) == "test"


def test_shares_are_about_as_asked() -> None:
    parts = [part_of(f"file {n}", Split(validation=0.1, test=0.2)) for n in range(5000)]

    assert parts.count("validation") / 5000 == pytest.approx(0.1, abs=0.015)
    assert parts.count("test") / 5000 == pytest.approx(0.2, abs=0.02)


def test_a_document_has_one_part_wherever_the_folder_lies(tmp_path: Path) -> None:
    for place in ("here", "there/deeper"):
        for number in range(40):
            write(tmp_path / place / "corpus" / f"{number}.txt", "text")
    split = {"validation": 0.3, "test": 0.3}

    here, there = (text_data(f"{tmp_path}/{place}/corpus/*.txt", split=split) for place in ("here", "there/deeper"))

    for part in PARTS:
        names = [d.name for d in documents(here, part)]
        assert names
        assert names == [d.name for d in documents(there, part)]


# ---- files -----------------------------------------------------------------------------------------------------------


def test_globs_reach_into_folders_and_come_back_sorted(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/deep/er/y.txt", "c.md"):
        write(tmp_path / name, name)

    found = [d.name for d in documents(text_data(f"{tmp_path}/**/*.txt"), "train")]

    assert found == ["a/deep/er/y.txt", "a/z.txt", "b.txt"]


def test_what_is_excluded_is_left_out_at_any_depth(tmp_path: Path) -> None:
    for name in ("a.txt", "test/b.txt", "x/test/deep/c.txt", "x/tested/d.txt"):
        write(tmp_path / name, name)

    data = text_data(f"{tmp_path}/**/*.txt", exclude=(f"{tmp_path}/**/test/**",))

    assert [d.name for d in documents(data, "train")] == ["a.txt", "x/tested/d.txt"]


def test_a_file_that_two_patterns_name_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "text")
    os.symlink(path, tmp_path / "link.txt")

    assert len(list(documents(text_data(f"{tmp_path}/*.txt", str(path)), "train"))) == 1


def test_a_name_with_brackets_in_it_is_that_file(tmp_path: Path) -> None:
    path = write(tmp_path / "notes [1].txt", "text")

    assert [d.text for d in documents(text_data(str(path)), "train")] == ["text"]


def test_line_ends_stay_and_empty_files_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "empty.txt", "")
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")

    assert [d.text for d in documents(text_data(f"{tmp_path}/*.txt"), "train")] == ["one\r\ntwo\n"]


def test_a_pattern_without_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing/\*\.txt: matches no file"):
        find_files([f"{tmp_path}/nothing/*.txt"])


def test_a_file_of_the_users_own_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))

    with pytest.raises(UserError, match=r"latin\.txt: not UTF-8 \(byte 3"):
        list(documents(text_data(f"{tmp_path}/*.txt"), "train"))


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(UserError, match=r"no_such_package.*hpcllm\[demo\]"):
        find_files(["package:no_such_package/**/*.mo"])


def test_a_package_is_found_without_being_imported() -> None:
    script = (
        "import sys; from hpcllm.data.locator import find_files; "
        "assert find_files(['package:torch/**/__init__.py']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_demo_reads_the_standard_library() -> None:
    data = load_job(JOBS / "demo.yaml").data

    held_out = list(documents(data, "test"))

    assert sum(len(document.text) for document in held_out) > 100_000
    assert not any("site-packages" in document.name or "/test/" in document.name for document in held_out)


# ---- pairs -----------------------------------------------------------------------------------------------------------


def test_aligned_files_pair_line_by_line(tmp_path: Path) -> None:
    source = write(tmp_path / "s.txt", "one\ntwo\x0cparts\nthree\n")
    target = write(tmp_path / "t.txt", "一\n二\n三")

    found = pairs(pair_data(source_file=str(source), target_file=str(target)), "train")

    assert {(p.source, p.target) for p in found} == {("one", "一"), ("two\x0cparts", "二"), ("three", "三")}


def test_files_that_do_not_align_are_told_with_both_counts(tmp_path: Path) -> None:
    source, target = write(tmp_path / "s.txt", "one\ntwo\n"), write(tmp_path / "t.txt", "一\n")

    with pytest.raises(UserError, match=r"s\.txt has 2 lines and .*t\.txt has 1"):
        pairs(pair_data(source_file=str(source), target_file=str(target)), "train")


def test_pairs_that_teach_nothing_are_dropped(tmp_path: Path) -> None:
    lines = [("same", "same"), ("no answer", ""), ("", "无"), ("short", "短"), ("two words", "后"), ("two words", "先")]
    source = write(tmp_path / "s.txt", "\n".join(s for s, _ in lines))
    target = write(tmp_path / "t.txt", "\n".join(t for _, t in lines))

    found = pairs(pair_data(source_file=str(source), target_file=str(target), minimum_words=2), "train")

    assert [(p.source, p.target) for p in found] == [("two words", min("先", "后"))]


def test_a_limit_keeps_the_first_of_an_order_that_is_not_the_split(tmp_path: Path) -> None:
    source = write(tmp_path / "s.txt", "\n".join(f"sentence {n}" for n in range(400)))
    target = write(tmp_path / "t.txt", "\n".join(f"句 {n}" for n in range(400)))
    files = {"source_file": str(source), "target_file": str(target)}
    split = {"validation": 0.3, "test": 0.3}

    limited = {part: pairs(pair_data(split, **files, limit=60), part) for part in PARTS}
    every = {part: pairs(pair_data(split, **files), part) for part in PARTS}

    assert sum(map(len, limited.values())) == 60
    for part in PARTS:
        assert limited[part]
        assert limited[part] == every[part][: len(limited[part])]


@pytest.mark.parametrize("language", ["zh_CN", "fr_FR"])
def test_the_language_packs_hold_thousands_of_pairs(language: str) -> None:
    pytest.importorskip(f"jupyterlab_language_pack_{language}")
    job = load_job(JOBS / "translate.yaml").data
    assert job.pairs is not None
    data = job.model_copy(update={"pairs": job.pairs.model_copy(update={"target_language": language})})

    found = {part: pairs(data, part) for part in PARTS}

    assert sum(map(len, found.values())) > 2500
    assert not {p.source for p in found["train"]} & {p.source for p in found["test"]}
    assert not any("\x04" in pair.source or "\x00" in pair.target for pair in found["train"])
