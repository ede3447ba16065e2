"""BLEU against a score worked out by hand, and the tokenization of each language."""

import math

import pytest

from hpcllm.evaluate.bleu import score, tokenization


def test_a_score_worked_out_by_hand():
    # 5 of 6 words are right; 3 of 5 pairs; 2 of 4 triples; 1 of 3 quadruples; as long as the reference: no penalty.
    translation, reference = "the cat sat on a mat", "the cat sat on the mat"
    by_hand = 100 * math.exp(sum(map(math.log, (5 / 6, 3 / 5, 2 / 4, 1 / 3))) / 4)

    value, _ = score([translation], [reference], "en")

    assert value == pytest.approx(by_hand)


def test_a_translation_that_is_too_short_pays_for_it():
    # All n-grams are right, and 4 words stand for 6: the brevity penalty is exp(1 − 6/4).
    value, _ = score(["the cat sat on"], ["the cat sat on the mat"], "en")

    assert value == pytest.approx(100 * math.exp(1 - 6 / 4))


def test_counts_are_summed_over_all_sentences_before_they_are_divided():
    one = score(["the cat sat on the mat", "no"], ["the cat sat on the mat", "yes"], "en")[0]

    assert 0 < one < 100


def test_chinese_is_scored_by_characters_and_says_so():
    value, signature = score(["打开文件夹"], ["打开文件夹"], "zh_CN")

    assert value == pytest.approx(100)
    assert "tok:zh" in signature
    assert "version:" in signature


@pytest.mark.parametrize(("language", "expected"), [
    ("zh_CN", "zh"), ("zh-TW", "zh"), ("ZH", "zh"), ("ja", "char"), ("ko_KR", "char"), ("fr_FR", "13a"), ("zhu", "13a"),
])  # fmt: skip
def test_each_language_has_its_tokenization(language, expected):
    assert tokenization(language) == expected
