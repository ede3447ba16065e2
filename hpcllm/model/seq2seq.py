"""The encoder-decoder Transformer of Vaswani et al. 2017: translates.

Shape suffixes: B pairs, S source tokens, T target tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpcllm.data.tokenizer import PADDING
from hpcllm.job.model_spec import ModelSpec
from hpcllm.model.layers import Embedding, Stack


class Seq2Seq(nn.Module):
    """An encoder that sees the whole source, a decoder that attends to it; one embedding for both sides."""

    def __init__(self, spec: ModelSpec, vocabulary_size: int, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.embedding = Embedding(spec, vocabulary_size)
        self.encoder = Stack(spec, "relu", cross=False, activation_checkpointing=activation_checkpointing)
        self.decoder = Stack(spec, "relu", cross=True, activation_checkpointing=activation_checkpointing)
        initialize(self, spec.width)

    def forward(self, source_BS: Tensor, target_BT: Tensor) -> Tensor:
        """logits_BTV: after each target token, the scores of the one that comes next."""
        return self.decode(target_BT, self.encode(source_BS), source_BS)

    def encode(self, source_BS: Tensor) -> Tensor:
        """memory_BSD: the source as the decoder sees it. Once a sentence, however many tokens are then decoded."""
        memory_BSD: Tensor = self.encoder(self.embedding(source_BS), mask_B11T=padding_mask(source_BS))
        return memory_BSD

    def decode(self, target_BT: Tensor, memory_BSD: Tensor, source_BS: Tensor) -> Tensor:
        """logits_BTV, from what `encode` made of this source.

        Padding of the target needs no mask: it stands behind the text, and nothing looks ahead.
        """
        x_BTD = self.decoder(
            self.embedding(target_BT),
            causal=True,
            memory_BSD=memory_BSD,
            memory_mask_B11S=padding_mask(source_BS),
        )
        return self.embedding.logits(x_BTD)


def padding_mask(tokens_BS: Tensor) -> Tensor:
    """(B, 1, 1, S): True where a token may be attended to, because it is none of the padding.

    The first place always may: softmax over nothing is not a number, and a row of padding alone must stay finite.
    """
    mask_BS = tokens_BS != PADDING
    mask_BS[:, 0] = True
    return mask_BS[:, None, None, :]


@torch.no_grad()
def initialize(model: nn.Module, width: int) -> None:
    """Matrices by Glorot & Bengio 2010, the embedding from N(0, 1/D), biases 0; norms stay 1 and 0.

    The 2017 paper is silent on it; this is what its authors' code does (Vaswani et al. 2018, Tensor2Tensor).
    """
    for name, parameter in model.named_parameters():
        if name.startswith("embedding"):
            nn.init.normal_(parameter, std=width**-0.5)
        elif name.endswith("key_value.weight"):
            for matrix in parameter.chunk(2):  # two square matrices, stored as one
                nn.init.xavier_uniform_(matrix)
        elif parameter.dim() >= 2:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
