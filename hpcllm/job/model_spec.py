"""The shape of a Transformer: enough to count its parameters and operations without building it.

Letters in the formulas: V vocabulary, T context (S of the source), d width, f feed-forward width, L layers.
A test asserts that `parameters` is the sum of `numel` over the built model.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, model_validator

from hpcllm.job import presets
from hpcllm.source import Record


def _preset_or_shape(schema: dict[str, Any]) -> None:
    """For editors: what a shape requires, a preset brings."""
    schema["anyOf"] = [{"required": ["preset"]}, {"required": schema.pop("required")}]


class ModelSpec(Record):
    """A Transformer's shape. `preset` fills it in; keys beside it win."""

    model_config = ConfigDict(json_schema_extra=_preset_or_shape)

    preset: str | None = None
    """A published shape by its name, such as gpt2-124m."""
    architecture: Literal["decoder", "seq2seq"] = "decoder"
    """decoder: one stack that continues text. seq2seq: an encoder and a decoder, for translation."""
    layers: int
    """Number of layers; of each of the two stacks for seq2seq."""
    width: int
    """Size of a token's vector (d_model)."""
    heads: int
    """Attention heads; divides the width."""
    feed_forward: int
    """Width of the hidden layer of the feed-forward block; 4 × width is usual."""
    context: int
    """Longest sequence in tokens; of each side for seq2seq."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    norm: Literal["pre", "post"] = "pre"
    """LayerNorm before each block (GPT-2) or after it (the 2017 Transformer)."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """Positions as learned vectors (GPT-2) or as sines (the 2017 Transformer)."""

    @model_validator(mode="before")
    @classmethod
    def _filled_by_preset(cls, value: Any) -> Any:
        return presets.expand(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _shape_is_possible(self) -> ModelSpec:
        if min(self.layers, self.width, self.heads, self.feed_forward, self.context) < 1:
            raise ValueError("layers, width, heads, feed_forward and context are at least 1")
        if self.width % self.heads:
            near = [h for h in range(1, self.width + 1) if self.width % h == 0]
            best = min(near, key=lambda h: abs(h - self.heads))
            raise ValueError(f"heads: {self.heads} does not divide the width {self.width}; {best} does")
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"width: found {self.width}; sinusoidal positions need an even width")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: found {self.dropout}; allowed are 0 up to, not including, 1")
        return self

    def parameters(self, vocabulary: int) -> int:
        """N, every trainable number.

        The embedding (of both sides) and the output share one V·d matrix; learned positions are one T·d table; a
        pre-norm stack ends in a norm of its own.
        """
        positions = self.context * self.width if self.positions == "learned" else 0
        stacks = 2 if self.architecture == "seq2seq" else 1
        final_norms = stacks * self._norm() if self.norm == "pre" else 0
        return vocabulary * self.width + positions + self.layers * self._layer() + final_norms

    def flops_per_sequence(self, vocabulary: int, target_tokens: int, source_tokens: int = 0) -> float:
        """Operations of forward and backward for one sequence (and its source): every matmul, nothing else.

        A matmul of m×k by k×n is 2·m·k·n; backward does each twice more. A token meets every weight matrix of its side
        once; the scores and the weighted sum of an attention are 2·d operations each for every pair of positions, the
        masked ones too. Source tokens go through the encoder and, for cross-attention, the decoder's keys and values.
        """
        d, f, layers = self.width, self.feed_forward, self.layers
        block = 4 * d * d + 2 * d * f
        weights = target_tokens * (layers * block + vocabulary * d)
        pairs = target_tokens**2
        if self.architecture == "seq2seq":
            weights += target_tokens * layers * 2 * d * d + source_tokens * layers * (block + 2 * d * d)
            pairs += source_tokens**2 + source_tokens * target_tokens
        return 3.0 * (2 * weights + 4 * layers * d * pairs)

    def flops_per_token(self, vocabulary: int) -> float:
        """Operations of forward and backward for one token of full sequences: 6·N + 12·L·d·T (PaLM, appendix B).

        N here is the weights of matmuls (the tied output among them): biases, norms and learned positions, under 1 %,
        multiply nothing. For seq2seq a token is one *target* token, and the same share of the source goes with it:
        6·N + 36·L·d·T where both sides are T long.
        """
        return self.flops_per_sequence(vocabulary, self.context, self.context) / self.context

    def largest_layer_parameters(self) -> int:
        """Of what FSDP gathers at a time: a decoder's layer, which of seq2seq is larger than an encoder's."""
        one = self._attention() + self._feed_forward() + 2 * self._norm()
        return one + self._attention() + self._norm() if self.architecture == "seq2seq" else one

    def parameters_outside_layers(self, vocabulary: int) -> int:
        """Embedding, positions and the last norms."""
        return self.parameters(vocabulary) - self.layers * self._layer()

    def _layer(self) -> int:
        """Parameters of one layer; for seq2seq of one of the encoder and one of the decoder together."""
        one = self._attention() + self._feed_forward() + 2 * self._norm()
        return 2 * one + self._attention() + self._norm() if self.architecture == "seq2seq" else one

    def _norm(self) -> int:
        return 2 * self.width

    def _attention(self) -> int:
        return 4 * self.width * self.width + 4 * self.width

    def _feed_forward(self) -> int:
        return 2 * self.width * self.feed_forward + self.feed_forward + self.width
