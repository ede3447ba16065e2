"""Quantities as people write them: bits and bytes apart, decimal and binary apart, nothing without a unit."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcllm import units


@pytest.mark.parametrize(
    ("text", "expected"),
    [("80GiB", 80 * 2**30), ("80GB", 80 * 10**9), ("1.5 TiB", 3 * 2**39), ("512 MiB", 2**29), ("7B", 7)],
)
def test_bytes(text, expected):
    assert units.parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("400Gb/s", 50e9), ("50GB/s", 50e9), ("200Gbit/s", 25e9), ("100 Gbps", 12.5e9), ("1GiB/s", 2**30)],
)
def test_rates_tell_bits_from_bytes(text, expected):
    assert units.parse_bytes_per_s(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("4h", 14400), ("1d12h", 129600), ("1d 12h", 129600), ("2us", 2e-6), ("12:30:00", 45000),
     ("1-00:00:00", 86400), ("30m", 1800), ("1.5h", 5400), ("5y", 5 * 365 * 86400)],
)  # fmt: skip
def test_times(text, expected):
    assert units.parse_seconds(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("10B tokens", 10**10), ("300k tokens", 300_000), ("7 tokens", 7)])
def test_tokens(text, expected):
    assert units.parse_tokens(text) == expected


@pytest.mark.parametrize(
    ("parse", "wrong"),
    [
        (units.parse_bytes, "80Gb"),
        (units.parse_bytes, "80"),
        (units.parse_bytes, 80),
        (units.parse_bytes, "GiB"),
        (units.parse_bytes, "-1GiB"),
        (units.parse_bytes, None),
        (units.parse_bytes_per_s, "400Gb"[:-1]),
        (units.parse_bytes_per_s, "400"),
        (units.parse_seconds, "12:30"),
        (units.parse_seconds, "4"),
        (units.parse_seconds, ["4h"]),
        (units.parse_tokens, "10B"),
        (units.parse_fraction, "120%"),
        (units.parse_fraction, "half"),
        (units.parse_fraction, ".nan"),
        (units.parse_fraction, 10**400),
        (units.parse_bytes, "9" * 400 + "GiB"),
        (units.parse_bytes, "1e999B"),
        (units.parse_bytes, "1e30B"),
        (units.parse_bytes, "1.2.3GiB"),
        (units.parse_bytes_per_s, "9" * 400 + "Gb/s"),
        (units.parse_seconds, "9" * 5000 + ":00:00"),
        (units.parse_seconds, "1e12y"),
        (units.parse_time_limit, "9" * 400 + "h"),
        (units.parse_tokens, "1e999 tokens"),
        (units.parse_flops_per_s, "1e999 TFLOP/s"),
    ],
)
def test_what_is_ambiguous_is_refused_with_an_example_of_what_is_allowed(parse, wrong):
    with pytest.raises(ValueError, match="found .* expected"):
        parse(wrong)


@given(st.integers(min_value=0, max_value=2**60))
def test_a_resolved_size_reads_back_as_the_same_number(count):
    assert units.parse_bytes(f"{count}B") == count or count > 2**53  # beyond a double's integers nobody has disks


@given(st.floats(min_value=0, max_value=1e12, allow_nan=False))
def test_a_resolved_time_reads_back_as_the_same_number(seconds):
    assert units.parse_seconds(f"{seconds!r}s") == seconds


PARSERS = (units.parse_bytes, units.parse_bytes_per_s, units.parse_seconds, units.parse_time_limit,
           units.parse_tokens, units.parse_flops_per_s, units.parse_fraction)  # fmt: skip
pieces = st.sampled_from(
    ["9" * 400, "1e999", "1e-999", "1_0", "1.5", ".", "e", "-", ":", "00", " ", "%", "unlimited", "nan", "inf", "GiB",
     "kB", "B/s", "Gb/s", "bps", "h", "us", "y", "B", "tokens", "TFLOP/s", "٣", "²"]
)  # fmt: skip


@given(st.text(max_size=40) | st.lists(pieces, max_size=6).map("".join) | st.integers() | st.floats())
@settings(max_examples=300)
def test_a_parser_gives_a_number_or_a_sentence_with_what_is_allowed(text):
    for parse in PARSERS:
        try:
            value = parse(text)
        except ValueError as error:
            assert re.match(r"found .*; expected ", str(error), re.DOTALL)
            assert len(str(error)) < 200
        else:
            assert 0 <= value <= units.MOST or text == "unlimited"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.2e-5, "42 µs"),
        (0.25, "250 ms"),
        (12.34, "12.3 s"),
        (5400, "1 h 30 min"),
        (200000, "2 d 7 h"),
        (150, "2 min 30 s"),
    ],
)
def test_times_are_written_as_people_say_them(seconds, text):
    assert units.format_seconds(seconds) == text


def test_sizes_and_rates_are_written_with_their_prefix():
    assert units.format_bytes(1234567890) == "1.15 GiB"
    assert units.format_bytes_per_s(25e9) == "25 GB/s"
    assert units.format_flops_per_s(9.89e14) == "989 TFLOP/s"
    assert units.format_count(124439808) == "124 M"
