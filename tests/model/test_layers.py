"""The parts of the Transformers against their definitions. Run: pytest tests/model"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from hpcllm.job.model_spec import ModelSpec
from hpcllm.model.layers import Embedding, Layer, attention, look_ahead_mask, sinusoids


def small(**changes: object) -> ModelSpec:
    return ModelSpec(**{"layers": 2, "width": 16, "heads": 4, "feed_forward": 24, "context": 12, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("causal", [False, True])
def test_the_fused_kernel_computes_the_formula(causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 7, 8)
    mask = look_ahead_mask(7) if causal else None

    fused = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    torch.testing.assert_close(attention(q, k, v, mask), fused)


def test_a_masked_position_has_no_weight_in_the_formula_or_the_kernel() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 7, 8)
    mask = torch.tensor([[True] * 5 + [False] * 2, [True] * 7])[:, None, None]
    changed = v.clone()
    changed[0, :, 5:] = 1e6

    expected = attention(q, k, v, mask)

    torch.testing.assert_close(attention(q, k, changed, mask), expected)
    torch.testing.assert_close(functional.scaled_dot_product_attention(q, k, changed, mask), expected)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_layer_with_the_weights_of_torchs_own_gives_its_outputs(norm: str) -> None:
    torch.manual_seed(0)
    spec = small(norm=norm)
    ours = Layer(spec, "relu", cross=False)
    theirs = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True, norm_first=norm == "pre")
    x = torch.randn(3, 9, 16)
    padding = torch.arange(9) >= torch.tensor([[9], [6], [4]])

    a = ours.attention
    theirs.self_attn.in_proj_weight.data = torch.cat((a.query.weight, a.key_value.weight)).data
    theirs.self_attn.in_proj_bias.data = torch.cat((a.query.bias, a.key_value.bias)).data
    theirs.self_attn.out_proj.load_state_dict(a.output.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward.hidden.state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.output.state_dict())

    torch.testing.assert_close(ours(x, ~padding[:, None, None]), theirs(x, src_key_padding_mask=padding))


def test_a_cross_layer_with_the_weights_of_torchs_own_gives_its_outputs() -> None:
    torch.manual_seed(0)
    ours = Layer(small(norm="post"), "relu", cross=True)
    theirs = nn.TransformerDecoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    assert ours.cross_attention is not None

    for mine, other in ((ours.attention, theirs.self_attn), (ours.cross_attention, theirs.multihead_attn)):
        other.in_proj_weight.data = torch.cat((mine.query.weight, mine.key_value.weight)).data
        other.in_proj_bias.data = torch.cat((mine.query.bias, mine.key_value.bias)).data
        other.out_proj.load_state_dict(mine.output.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward.hidden.state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.output.state_dict())

    expected = theirs(x, memory, tgt_mask=~look_ahead_mask(5))
    torch.testing.assert_close(ours(x, causal=True, memory_BSD=memory), expected)


def test_the_embedding_look_up_is_one_hot_times_the_matrix() -> None:
    embedding = Embedding(small(positions="sinusoidal"), 30)
    tokens = torch.tensor([[3, 0, 29], [7, 7, 1]])

    one_hot = functional.one_hot(tokens, 30).float()

    torch.testing.assert_close(embedding.tokens(tokens), one_hot @ embedding.tokens.weight)


def test_sinusoids_are_those_of_the_paper() -> None:
    table = sinusoids(50, 8)

    assert table[0].tolist() == [0, 1] * 4
    torch.testing.assert_close(table[37, 4], torch.sin(torch.tensor(37 / 10000 ** (4 / 8))))
    torch.testing.assert_close(table[37, 5], torch.cos(torch.tensor(37 / 10000 ** (4 / 8))))
