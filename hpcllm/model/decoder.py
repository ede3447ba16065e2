"""The decoder-only Transformer of GPT-2 (Radford et al. 2019): continues text.

Shape suffixes: B sequences, T tokens of a sequence, D width, V vocabulary.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from hpcllm.job.model_spec import ModelSpec
from hpcllm.model.layers import Embedding, Stack


class Decoder(nn.Module):
    """One stack of causal layers between a tied embedding."""

    def __init__(self, spec: ModelSpec, vocabulary_size: int, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.embedding = Embedding(spec, vocabulary_size)
        self.stack = Stack(spec, "gelu", cross=False, activation_checkpointing=activation_checkpointing)
        initialize(self, spec.layers)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """logits_BTV: at each place, the scores of the token that comes next.

        Padding needs no mask: it stands behind the text, and nothing looks ahead.
        """
        return self.embedding.logits(self.stack(self.embedding(tokens_BT), causal=True))


def initialize(model: nn.Module, layers: int) -> None:
    """Weights from N(0, 0.02²), biases 0 (Radford et al. 2018, §4.1); norms stay 1 and 0.

    The projections onto the residual path, 2 a layer, are smaller by 1/√(2L), so that their sum does not grow with the
    depth (Radford et al. 2019, §2.3).
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            on_residual_path = name.endswith("output.weight")
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if on_residual_path else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
