"""Published shapes by name: `model: {preset: gpt2-124m, dropout: 0.1}` takes one and changes what stands beside it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails

# Shapes of GPT-2: Radford et al. 2019, table 2. Of the Transformer: Vaswani et al. 2017, table 3.
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2-124m": {"layers": 12, "width": 768, "heads": 12, "feed_forward": 3072, "context": 1024},
    "gpt2-350m": {"layers": 24, "width": 1024, "heads": 16, "feed_forward": 4096, "context": 1024},
    "gpt2-774m": {"layers": 36, "width": 1280, "heads": 20, "feed_forward": 5120, "context": 1024},
    "gpt2-1.5b": {"layers": 48, "width": 1600, "heads": 25, "feed_forward": 6400, "context": 1024},
    "transformer-base": {
        **{"architecture": "seq2seq", "layers": 6, "width": 512, "heads": 8, "feed_forward": 2048, "context": 256},
        **{"dropout": 0.1, "norm": "post", "positions": "sinusoidal"},
    },
    "transformer-big": {
        **{"architecture": "seq2seq", "layers": 6, "width": 1024, "heads": 16, "feed_forward": 4096, "context": 256},
        **{"dropout": 0.3, "norm": "post", "positions": "sinusoidal"},
    },
}


def expand(model: dict[str, Any]) -> dict[str, Any]:
    """A model section with its preset, if it names one, filled in. Raises ValidationError at an unknown name."""
    name = model.get("preset")
    if name is None:
        return model
    if name not in PRESETS:
        found = ValueError(f"found {name!r}; allowed are {', '.join(PRESETS)}")
        details = InitErrorDetails(type="value_error", loc=("preset",), input=name, ctx={"error": found})
        raise ValidationError.from_exception_data("ModelSpec", [details])
    return {**PRESETS[name], **model}
