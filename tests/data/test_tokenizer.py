"""Text to numbers and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcllm.data.tokenizer import BEGIN, END, PADDING, SPECIALS, UNKNOWN, Tokenizer
from hpcllm.errors import HpcllmError
from hpcllm.job.spec import TokenizerSpec

TEXTS = [
    "The cat sat on the mat, and the dog sat on the cat.",
    "<end> of the <end>",
    "你好，世界",
    "x = f(y)\n\treturn x\n",
] * 5
KINDS = ("bpe", "word", "byte")


def learn(kind: str, vocabulary: int = 300) -> Tokenizer:
    return Tokenizer.learn(TokenizerSpec.model_validate({"kind": kind, "vocabulary": vocabulary}), TEXTS)


BY_KIND = {kind: learn(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", ["bpe", "byte"])
@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_any_text_comes_back_as_it_was(kind: str, text: str) -> None:
    assert BY_KIND[kind].decode(BY_KIND[kind].encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(text=st.lists(st.sampled_from([*SPECIALS, *"<>end", " ", "padding"])).map("".join))
def test_text_never_becomes_a_special_token(kind: str, text: str) -> None:
    assert not {PADDING, BEGIN, END} & set(BY_KIND[kind].encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_the_special_tokens_have_the_first_ids(kind: str, tmp_path: Path) -> None:
    BY_KIND[kind].save(tmp_path / "tokenizer.json")

    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    assert [theirs.token_to_id(token) for token in SPECIALS] == [PADDING, BEGIN, END, UNKNOWN] == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_not_decoded(kind: str) -> None:
    tokenizer = BY_KIND[kind]

    assert tokenizer.decode([BEGIN, *tokenizer.encode("the cat"), END, PADDING]) == "the cat"


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_is_the_same_one(kind: str, tmp_path: Path) -> None:
    BY_KIND[kind].save(tmp_path / "tokenizer.json")

    loaded = Tokenizer.load(tmp_path / "tokenizer.json")

    assert (loaded.sha256, loaded.vocabulary_size) == (BY_KIND[kind].sha256, BY_KIND[kind].vocabulary_size)
    assert loaded.encode(TEXTS[0]) == BY_KIND[kind].encode(TEXTS[0])


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_another_process_learns_the_same(kind: str) -> None:
    script = f"""
from hpcllm.data.tokenizer import Tokenizer
from hpcllm.job.spec import TokenizerSpec
print(Tokenizer.learn(TokenizerSpec.model_validate({{"kind": {kind!r}, "vocabulary": 300}}), {TEXTS!r}).sha256)
"""
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout

    assert found.strip() == BY_KIND[kind].sha256


def test_subwords_are_shorter_than_bytes() -> None:
    assert len(BY_KIND["bpe"].encode(TEXTS[0])) < len(BY_KIND["byte"].encode(TEXTS[0])) == len(TEXTS[0].encode())


def test_a_vocabulary_is_as_large_as_asked_and_that_of_bytes_is_fixed() -> None:
    assert BY_KIND["bpe"].vocabulary_size == 300
    assert BY_KIND["byte"].vocabulary_size == len(SPECIALS) + 256


def test_words_read_as_people_write_them() -> None:
    tokenizer = BY_KIND["word"]

    assert tokenizer.decode(tokenizer.encode("The cat, and the dog.")) == "The cat, and the dog."
    assert tokenizer.decode(tokenizer.encode("你好，世界")) == "你好，世界"
    assert tokenizer.decode(tokenizer.encode("x = f(y)")) == "x = f (y)"


def test_a_word_that_was_not_learned_is_shown_as_unknown() -> None:
    tokenizer = BY_KIND["word"]

    assert tokenizer.encode("the zebra") == [*tokenizer.encode("the"), UNKNOWN]
    assert tokenizer.decode(tokenizer.encode("the zebra sat")) == "the <unknown> sat"


@pytest.mark.parametrize("content", ["", "{}", "[1", '{"model": {"type": "BPE"}}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)

    with pytest.raises(HpcllmError, match=r"tokenizer\.json: damaged: .*run the tokenizer stage again"):
        Tokenizer.load(path)


def test_a_missing_file_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(HpcllmError, match="missing; run the tokenizer stage first"):
        Tokenizer.load(tmp_path / "tokenizer.json")
