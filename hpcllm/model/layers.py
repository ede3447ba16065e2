"""What both Transformers are built from: embedding, attention, feed-forward, residual, and stacks of layers.

Shape suffixes
    B  sequences            H  heads
    T  length of x          K  width of a head, D/H
    S  length of what       D  width of the model
       x attends to         V  vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hpcllm.job.model_spec import ModelSpec

Activation = Literal["relu", "gelu"]
# relu: Vaswani et al. 2017, §3.3. gelu, by its tanh form: Radford et al. 2019 (GPT-2).
ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": lambda: nn.GELU("tanh")}


def attention(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, mask_BHTS: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ/√d_k)·V (Vaswani et al. 2017, equation 1): the definition that the fused kernel is tested against.

    `mask` (any shape that broadcasts) is True where a position may be attended to. Returns y_BHTK.
    """
    scores_BHTS = q_BHTK @ k_BHSK.transpose(-2, -1) / math.sqrt(q_BHTK.shape[-1])
    if mask_BHTS is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask_BHTS, -math.inf)
    return scores_BHTS.softmax(dim=-1) @ v_BHSK


def look_ahead_mask(length: int) -> Tensor:
    """True where position t may attend to position s: to itself and what came before (lower triangle), (T, T)."""
    return torch.ones(length, length, dtype=torch.bool).tril()


class MultiHeadAttention(nn.Module):
    """`heads` attentions side by side, each of width D/H (Vaswani et al. 2017, §3.2.2). 4D² + 4D parameters.

    It computes `attention` by torch's fused kernel, which never holds the T×S scores. Attention weights have no
    dropout: in the 2017 paper (§5.4) neither, and the kernel for CPUs cannot.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self, x_BTD: Tensor, memory_BSD: Tensor, mask_B11S: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """x attends to memory (to itself, when that is x): where the mask is True; if causal, to no later position."""
        q_BHTK = self._split(self.query(x_BTD))
        k_BHSK, v_BHSK = (self._split(part) for part in self.key_value(memory_BSD).chunk(2, dim=-1))
        y_BHTK = functional.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, mask_B11S, is_causal=causal)
        y_BTD: Tensor = self.output(y_BHTK.transpose(1, 2).flatten(2))
        return y_BTD

    def _split(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.view(*x_BTD.shape[:2], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear maps with a kink between them, at each position alone (Vaswani et al. 2017, §3.3)."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.output = nn.Linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """x_BTD -> y_BTD."""
        y_BTD: Tensor = self.output(self.activation(self.hidden(x_BTD)))
        return y_BTD


class Norm(nn.LayerNorm):
    """LayerNorm (Ba et al. 2016) in the precision of its input: under FSDP bf16 weights meet an fp32 input."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """x_BTD -> y_BTD."""
        weight, bias = (parameter.to(x_BTD.dtype) for parameter in (self.weight, self.bias))
        return functional.layer_norm(x_BTD, self.normalized_shape, weight, bias, self.eps)


class Residual(nn.Module):
    """A block with its shortcut, dropout and LayerNorm.

    pre: x + f(norm(x)), as in GPT-2. post: norm(x + f(x)), as in 2017.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.pre = spec.norm == "pre"
        self.norm = Norm(spec.width)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x_BTD: Tensor, block: Callable[[Tensor], Tensor]) -> Tensor:
        """x_BTD -> y_BTD."""
        y_BTD: Tensor
        if self.pre:
            y_BTD = x_BTD + self.dropout(block(self.norm(x_BTD)))
        else:
            y_BTD = self.norm(x_BTD + self.dropout(block(x_BTD)))
        return y_BTD


class Layer(nn.Module):
    """Self-attention, attention to the other side if `cross`, feed-forward."""

    def __init__(self, spec: ModelSpec, activation: Activation, cross: bool) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(spec.width, spec.heads)
        self.attention_residual = Residual(spec)
        self.cross_attention = MultiHeadAttention(spec.width, spec.heads) if cross else None
        self.cross_residual = Residual(spec) if cross else None
        self.feed_forward = FeedForward(spec.width, spec.feed_forward, activation)
        self.feed_forward_residual = Residual(spec)

    def forward(
        self,
        x_BTD: Tensor,
        mask_B11T: Tensor | None = None,
        causal: bool = False,
        memory_BSD: Tensor | None = None,
        memory_mask_B11S: Tensor | None = None,
    ) -> Tensor:
        """x_BTD -> y_BTD."""
        x_BTD = self.attention_residual(x_BTD, lambda y_BTD: self.attention(y_BTD, y_BTD, mask_B11T, causal))
        if self.cross_attention is not None and self.cross_residual is not None:
            cross = self.cross_attention
            x_BTD = self.cross_residual(x_BTD, lambda y_BTD: cross(y_BTD, memory_BSD, memory_mask_B11S))
        y_BTD: Tensor = self.feed_forward_residual(x_BTD, self.feed_forward)
        return y_BTD


class Stack(nn.Module):
    """L layers; if they are pre-norm, a last LayerNorm, since nothing has normed their sum."""

    def __init__(self, spec: ModelSpec, activation: Activation, cross: bool, activation_checkpointing: bool) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.layers = nn.ModuleList(Layer(spec, activation, cross) for _ in range(spec.layers))
        self.norm = Norm(spec.width) if spec.norm == "pre" else nn.Identity()

    def forward(
        self,
        x_BTD: Tensor,
        mask_B11T: Tensor | None = None,
        causal: bool = False,
        memory_BSD: Tensor | None = None,
        memory_mask_B11S: Tensor | None = None,
    ) -> Tensor:
        """x_BTD -> y_BTD. With activation checkpointing a layer keeps its input alone, and is computed again."""
        for layer in self.layers:
            inputs = (x_BTD, mask_B11T, causal, memory_BSD, memory_mask_B11S)
            recompute = self.activation_checkpointing and self.training
            x_BTD = checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)
        y_BTD: Tensor = self.norm(x_BTD)
        return y_BTD


class Embedding(nn.Module):
    """Tokens to vectors at the entrance, vectors to logits at the exit, by one V×D matrix (Press & Wolf 2017).

    The look-up is what multiplying a one-hot vector (V numbers, a 1 at the token's place) by this matrix would give:
    it picks out the token's row without the V·D multiplications by zero.
    """

    def __init__(self, spec: ModelSpec, vocabulary_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size, spec.width)
        self.dropout = nn.Dropout(spec.dropout)
        # Sines of amplitude 1 would drown the small vectors of tokens; so these are scaled by √D (2017, §3.4).
        self.scale = math.sqrt(spec.width) if spec.positions == "sinusoidal" else 1.0
        if spec.positions == "learned":
            self.positions: Tensor = nn.Parameter(torch.empty(spec.context, spec.width))
        else:
            self.register_buffer("positions", sinusoids(spec.context, spec.width), persistent=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """x_BTD: each token's vector plus its position's. Sequences are no longer than the context."""
        length, context = tokens_BT.shape[1], self.positions.shape[0]
        assert length <= context, f"{length} tokens; the model has {context} positions"
        x_BTD: Tensor = self.dropout(self.tokens(tokens_BT) * self.scale + self.positions[:length])
        return x_BTD

    def logits(self, x_BTD: Tensor) -> Tensor:
        """logits_BTV: the scores of every token of the vocabulary at every place."""
        return functional.linear(x_BTD, self.tokens.weight)


def sinusoids(length: int, width: int) -> Tensor:
    """(T, D): sin(t/10000^(2i/D)) at 2i and its cosine at 2i+1 (Vaswani et al. 2017, §3.5)."""
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
