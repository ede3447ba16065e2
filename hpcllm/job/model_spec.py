"""The shape of a Transformer: enough to count its parameters and operations without building it.

Shapes in the formulas: V vocabulary, T context, d width, f feed-forward width, L layers, N parameters.
A test asserts that `parameters` is the sum of `numel` over the built model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from hpcllm.source import Record


class ModelSpec(Record):
    """A Transformer's shape. `preset:` in a job fills these in; keys beside it win."""

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
        """N, every trainable number. The output projection is tied to the embedding, so V·d is counted once."""
        positions = self.context * self.width if self.positions == "learned" else 0
        final_norms = (2 if self.architecture == "seq2seq" else 1) * 2 * self.width if self.norm == "pre" else 0
        return vocabulary * self.width + positions + self.layers * self._parameters_of_a_layer() + final_norms

    def flops_per_token(self, vocabulary: int) -> float:
        """Operations of forward and backward for one token: 6·N + 12·L·d·T (PaLM, appendix B, without 1/(n·peak)).

        N is without learned positions, which are looked up; the tied embedding counts, because it is the output matmul.
        For seq2seq a token is one of either side, so each side's layers count for half of the tokens.
        """
        positions = self.context * self.width if self.positions == "learned" else 0
        attention = 12 * self.layers * self.width * self.context
        if self.architecture == "seq2seq":
            return 6 * (self.parameters(vocabulary) - positions) / 2 + 1.5 * attention
        return 6 * (self.parameters(vocabulary) - positions) + attention

    def _parameters_of_a_layer(self) -> int:
        d, f = self.width, self.feed_forward
        norm = 2 * d
        attention = 4 * d * d + 4 * d
        feed_forward = 2 * d * f + f + d
        one_layer = attention + feed_forward + 2 * norm
        return one_layer + (one_layer + attention + norm) if self.architecture == "seq2seq" else one_layer
