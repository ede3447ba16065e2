"""Quantities: a number with its unit, as people write it (`80GiB`, `400Gb/s`, `4h`, `10B tokens`).

One rule for the whole project: **in a file a quantity carries its unit in its value; in code, in its name.**
So the YAML key `memory: 80GiB` becomes the field `memory_bytes`, and `yaml_key` is that rule.

    Bytes            80GiB  2 TB  512 MiB                  -> int, bytes
    BytesPerSecond   400Gb/s (bits)  50 GB/s (bytes)       -> float, bytes per second
    Seconds          4h  90s  2us  1d12h  12:30:00         -> float, seconds
    TimeLimit        24h  unlimited                        -> float, seconds, or infinity
    Tokens           10B tokens  300k tokens  1024 tokens  -> int
    FlopsPerSecond   989 TFLOP/s                           -> float
    Positive         4                                     -> int, at least 1

Decimal and binary prefixes are both understood (`GB` is 10⁹, `GiB` is 2³⁰); `b` is bits and `B` is bytes, and a bare
number is refused, because a reader cannot tell what it counts. So is more than any machine has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

MOST = 1e24  # bytes, tokens, FLOP/s: a yotta of anything
LONGEST_S = 1e12  # some 30,000 years

_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
_PREFIX = {**_DECIMAL, **_BINARY}
_COUNT = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_SECONDS = {
    **{"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0},
    **{"d": 86400.0, "w": 7 * 86400.0, "y": 365 * 86400.0},
}
_SUFFIXES = ("_bytes_per_s", "_flops_per_s", "_bytes", "_tokens", "_s")
_NUMBER = r"(\d+(?:_\d+)*(?:\.\d+)?(?:[eE][+-]?\d+)?)"
_SHOWN = 60  # characters of what was found


def yaml_key(field: str) -> str:
    """The key of a field in a YAML file: its name without the unit (`memory_bytes` -> `memory`)."""
    for suffix in _SUFFIXES:
        if field.endswith(suffix):
            return field.removesuffix(suffix)
    return field


def parse_bytes(text: object) -> int:
    """`80GiB` -> 85899345920. Raises ValueError for bits, a bare number, or anything else."""
    wanted = "a size in bytes such as 80GiB or 500GB"
    number, (prefix,) = _match(text, rf"{_NUMBER}\s*([kKMGTPE]i?)?B", wanted)
    return round(_sensible(number * _PREFIX[prefix], text, wanted))


def parse_bytes_per_s(text: object) -> float:
    """`400Gb/s` -> 5e10 (bits), `50 GB/s` -> 5e10 (bytes). `Gbit/s` and `Gbps` are bits too."""
    wanted = "a rate such as 200Gb/s (bits) or 25GB/s (bytes)"
    number, (prefix, unit) = _match(text, rf"{_NUMBER}\s*([kKMGTPE]i?)?(B/s|b/s|bit/s|bps|bit)", wanted)
    return _sensible(number * _PREFIX[prefix] / (1 if unit == "B/s" else 8), text, wanted)


def parse_seconds(text: object) -> float:
    """`1d12h` -> 129600.0, `12:30:00` -> 45000.0 (hours first), `1-00:00:00` as Slurm writes days."""
    wanted = "a time such as 90s, 4h, 1d12h or 12:30:00"
    if not isinstance(text, str):
        raise _refused(text, wanted)
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text.strip())
    if clock:
        days, hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        if clock[4] is None:
            raise _refused(text, "hours:minutes:seconds", ", which could be hours or minutes")
        return _sensible(days * 86400 + hours * 3600 + minutes * 60 + seconds, text, wanted, LONGEST_S)
    unit = "|".join(sorted(_SECONDS, key=len, reverse=True))
    if not re.fullmatch(rf"(?:{_NUMBER}\s*(?:{unit})\s*)+", text.strip()):
        raise _refused(text, wanted)
    parts = re.findall(rf"{_NUMBER}\s*({unit})", text)
    return _sensible(sum(float(number) * _SECONDS[name] for number, name in parts), text, wanted, LONGEST_S)


def parse_time_limit(text: object) -> float:
    """`24h` -> 86400.0, `unlimited` -> infinity."""
    return math.inf if text == "unlimited" else parse_seconds(text)


def parse_tokens(text: object) -> int:
    """`10B tokens` -> 10000000000."""
    wanted = "a number of tokens such as 10B tokens"
    number, (prefix,) = _match(text, rf"{_NUMBER}\s*([kKMBT])?\s*tokens?", wanted)
    return round(_sensible(number * _COUNT[prefix], text, wanted))


def parse_flops_per_s(text: object) -> float:
    """`989 TFLOP/s` -> 9.89e14."""
    wanted = "a speed such as 989 TFLOP/s"
    number, (prefix,) = _match(text, rf"{_NUMBER}\s*([kKMGTPE])?FLOPS?(?:/s)?", wanted)
    return _sensible(number * _DECIMAL[prefix], text, wanted)


def parse_fraction(text: object) -> float:
    """`5%` or `0.05` -> 0.05. Raises ValueError outside 0…1."""
    wanted = "a share such as 5% or 0.05"
    try:
        value = float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise _refused(text, wanted) from None
    if not 0 <= value <= 1:
        raise _refused(text, f"{wanted}, between 0 and 1")
    return value


def _match(text: object, pattern: str, wanted: str) -> tuple[float, tuple[str, ...]]:
    """The number, and what the other groups of the pattern matched."""
    matched = re.fullmatch(pattern, text.strip()) if isinstance(text, str) else None
    if not matched:
        raise _refused(text, wanted)
    number, *words = (group or "" for group in matched.groups())
    return float(number), tuple(words)


def _sensible(value: float, text: object, wanted: str, most: float = MOST) -> float:
    """The value, unless nothing has so much of it; infinity is what float makes of hundreds of digits."""
    if value > most:
        raise _refused(text, f"{wanted}, at most {most:g}")
    return value


def _refused(text: object, wanted: str, remark: str = "") -> ValueError:
    found = repr(text)
    short = found if len(found) <= _SHOWN else found[: _SHOWN - 3] + "..."
    return ValueError(f"found {short}{remark}; expected {wanted}")


def _schema(*examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "examples": list(examples)})


Bytes = Annotated[int, BeforeValidator(parse_bytes), PlainSerializer(lambda n: f"{n}B"), _schema("80GiB", "500GB")]
BytesPerSecond = Annotated[
    float, BeforeValidator(parse_bytes_per_s), PlainSerializer(lambda n: f"{n!r}B/s"), _schema("200Gb/s", "25GB/s")
]
Seconds = Annotated[
    float, BeforeValidator(parse_seconds), PlainSerializer(lambda n: f"{n!r}s"), _schema("90s", "4h", "1d12h")
]
TimeLimit = Annotated[
    float,
    BeforeValidator(parse_time_limit),
    PlainSerializer(lambda n: "unlimited" if math.isinf(n) else f"{n!r}s"),
    _schema("24h", "2d", "unlimited"),
]
Tokens = Annotated[int, BeforeValidator(parse_tokens), PlainSerializer(lambda n: f"{n} tokens"), _schema("10B tokens")]
FlopsPerSecond = Annotated[
    float, BeforeValidator(parse_flops_per_s), PlainSerializer(lambda n: f"{n!r}FLOP/s"), _schema("989 TFLOP/s")
]
Fraction = Annotated[
    float, BeforeValidator(parse_fraction), WithJsonSchema({"type": ["string", "number"], "examples": ["5%", 0.05]})
]
Positive = Annotated[int, Field(ge=1)]


def format_bytes(count: float) -> str:
    """1234567890 -> `1.15 GiB`."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def format_bytes_per_s(rate: float) -> str:
    """25e9 -> `25.0 GB/s`: decimal, as fabrics and filesystems are sold."""
    return _scaled(rate, 1000, ("B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s"))


def format_bits_per_s(rate_bytes_per_s: float) -> str:
    """25e9 -> `200 Gb/s`: as network adapters are sold."""
    return _scaled(8 * rate_bytes_per_s, 1000, ("b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s"))


def format_flops_per_s(rate: float) -> str:
    """9.89e14 -> `989 TFLOP/s`."""
    return _scaled(rate, 1000, ("FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s", "PFLOP/s", "EFLOP/s"))


def format_count(count: float) -> str:
    """124439808 -> `124 M`."""
    return _scaled(count, 1000, ("", "k", "M", "B", "T")).strip()


def format_seconds(seconds: float) -> str:
    """4.2e-5 -> `42.0 µs`, 5400 -> `1 h 30 min`, 200000 -> `2 d 7 h`."""
    if not math.isfinite(seconds):
        return "never"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for size, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {smaller_name}" if rest else "")
    raise AssertionError(seconds)


def counted(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_ranges(numbers: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> `0-2,5`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def _scaled(number: float, base: int, names: tuple[str, ...]) -> str:
    power = 0
    while abs(number) >= base and power < len(names) - 1:
        number, power = number / base, power + 1
    digits = f"{number:.0f}" if number == round(number) or abs(number) >= 100 else f"{number:.3g}"
    return f"{digits} {names[power]}"
