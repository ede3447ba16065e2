"""Quantities: a number with its unit, as people write it (`80GiB`, `400Gb/s`, `4h`, `10B tokens`).

One rule for the whole project: **in a file a quantity carries its unit in its value; in code, in its name.**
So the YAML key `memory: 80GiB` becomes the field `memory_bytes`, and `yaml_key` is that rule.

    Bytes            80GiB  2 TB  512 MiB                  -> int, bytes
    BytesPerSecond   400Gb/s (bits)  50 GB/s (bytes)       -> float, bytes per second
    Seconds          4h  90s  2us  1d12h  12:30:00         -> float, seconds
    TimeLimit        24h  unlimited                        -> float, seconds, or infinity
    Tokens           10B tokens  300k tokens  1024 tokens  -> int
    FlopsPerSecond   989 TFLOP/s                           -> float

Decimal and binary prefixes are both understood (`GB` is 10⁹, `GiB` is 2³⁰); `b` is bits and `B` is bytes, and a bare
number is refused, because a reader cannot tell what it counts.
"""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
_PREFIX = {**_DECIMAL, **_BINARY}
_COUNT = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_SECONDS = {
    **{"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0},
    **{"d": 86400.0, "w": 7 * 86400.0, "y": 365 * 86400.0},
}
_SUFFIXES = ("_bytes_per_s", "_flops_per_s", "_bytes", "_tokens", "_s")
_NUMBER = r"(\d+(?:[._]\d+)*(?:[eE][+-]?\d+)?)"


def yaml_key(field: str) -> str:
    """The key of a field in a YAML file: its name without the unit (`memory_bytes` -> `memory`)."""
    for suffix in _SUFFIXES:
        if field.endswith(suffix):
            return field.removesuffix(suffix)
    return field


def parse_bytes(text: object) -> int:
    """`80GiB` -> 85899345920. Raises ValueError for bits, a bare number, or anything else."""
    number, prefix = _match(text, rf"{_NUMBER}\s*([kKMGTPE]i?)?B", "a size in bytes such as 80GiB or 500GB")
    return round(number * _PREFIX[prefix])


def parse_bytes_per_s(text: object) -> float:
    """`400Gb/s` -> 5e10 (bits), `50 GB/s` -> 5e10 (bytes). `Gbit/s` and `Gbps` are bits too."""
    wanted = "a rate such as 200Gb/s (bits) or 25GB/s (bytes)"
    pattern = rf"{_NUMBER}\s*([kKMGTPE]i?)?(B/s|b/s|bit/s|bps|bit)"
    matched = re.fullmatch(pattern, str(text).strip()) if isinstance(text, str) else None
    if not matched:
        raise ValueError(f"found {text!r}; expected {wanted}")
    bits = 1 if matched[3] == "B/s" else 8
    return float(matched[1].replace("_", "")) * _PREFIX[matched[2] or ""] / bits


def parse_seconds(text: object) -> float:
    """`1d12h` -> 129600.0, `12:30:00` -> 45000.0 (hours first), `1-00:00:00` as Slurm writes days."""
    wanted = "a time such as 90s, 4h, 1d12h or 12:30:00"
    if not isinstance(text, str):
        raise ValueError(f"found {text!r}; expected {wanted}")
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text.strip())
    if clock:
        days, first, second, third = (int(part or 0) for part in clock.groups())
        if clock[4] is None:
            raise ValueError(f"found {text!r}, which could be hours or minutes; expected hours:minutes:seconds")
        return float(days * 86400 + first * 3600 + second * 60 + third)
    unit = "|".join(sorted(_SECONDS, key=len, reverse=True))
    if not re.fullmatch(rf"(?:{_NUMBER}\s*(?:{unit})\s*)+", text.strip()):
        raise ValueError(f"found {text!r}; expected {wanted}")
    parts = re.findall(rf"{_NUMBER}\s*({unit})", text)
    return sum(float(number.replace("_", "")) * _SECONDS[name] for number, name in parts)


def parse_time_limit(text: object) -> float:
    """`24h` -> 86400.0, `unlimited` -> infinity."""
    return math.inf if text == "unlimited" else parse_seconds(text)


def parse_tokens(text: object) -> int:
    """`10B tokens` -> 10000000000."""
    number, prefix = _match(text, rf"{_NUMBER}\s*([kKMBT])?\s*tokens?", "a number of tokens such as 10B tokens")
    return round(number * _COUNT[prefix])


def parse_flops_per_s(text: object) -> float:
    """`989 TFLOP/s` -> 9.89e14."""
    number, prefix = _match(text, rf"{_NUMBER}\s*([kKMGTPE])?FLOPS?(?:/s)?", "a speed such as 989 TFLOP/s")
    return number * _DECIMAL[prefix]


def parse_fraction(text: object) -> float:
    """`5%` or `0.05` -> 0.05. Raises ValueError outside 0…1."""
    wanted = "a share such as 5% or 0.05"
    try:
        value = float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"found {text!r}; expected {wanted}") from None
    if not 0 <= value <= 1:
        raise ValueError(f"found {text!r}; expected {wanted}, between 0 and 1")
    return value


def _match(text: object, pattern: str, wanted: str) -> tuple[float, str]:
    matched = re.fullmatch(pattern, text.strip()) if isinstance(text, str) else None
    if not matched:
        raise ValueError(f"found {text!r}; expected {wanted}")
    return float(matched[1].replace("_", "")), matched[2] or ""


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


def format_bytes(count: float) -> str:
    """1234567890 -> `1.15 GiB`."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def format_bytes_per_s(rate: float) -> str:
    """25e9 -> `25.0 GB/s`: decimal, as fabrics and filesystems are sold."""
    return _scaled(rate, 1000, ("B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s"))


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


def _scaled(number: float, base: int, names: tuple[str, ...]) -> str:
    power = 0
    while abs(number) >= base and power < len(names) - 1:
        number, power = number / base, power + 1
    digits = f"{number:.0f}" if number == round(number) or abs(number) >= 100 else f"{number:.3g}"
    return f"{digits} {names[power]}"
