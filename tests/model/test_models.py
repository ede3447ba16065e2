"""What holds for the two Transformers as wholes. Run: pytest tests/model"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional

from hpcllm.job.model_spec import ModelSpec
from hpcllm.model.build import Model, build

VOCABULARY = 40


def spec_of(architecture: str, **changes: object) -> ModelSpec:
    shape = {"architecture": architecture, "layers": 2, "width": 16, "heads": 4, "feed_forward": 24, "context": 12}
    return ModelSpec(**{**shape, **changes})  # type: ignore[arg-type]


def built(architecture: str, **changes: object) -> Model:
    torch.manual_seed(0)
    return build(spec_of(architecture, **changes), VOCABULARY).eval()


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(4, VOCABULARY, shape)


@pytest.mark.parametrize(
    ("architecture", "norm", "positions"),
    list(itertools.product(("decoder", "seq2seq"), ("pre", "post"), ("learned", "sinusoidal"))),
)
def test_the_spec_counts_the_parameters_that_the_model_has(architecture: str, norm: str, positions: str) -> None:
    spec = spec_of(architecture, norm=norm, positions=positions, layers=3)

    model = build(spec, VOCABULARY)

    assert sum(parameter.numel() for parameter in model.parameters()) == spec.parameters(VOCABULARY)


def test_a_later_token_changes_no_earlier_logits_of_a_decoder() -> None:
    model = built("decoder")
    before = tokens(2, 10)
    after = before.clone()
    after[:, 6:] = tokens(2, 4)

    torch.testing.assert_close(model(after)[:, :6], model(before)[:, :6])
    assert not torch.equal(model(after)[:, 6:], model(before)[:, 6:])


def test_a_later_token_changes_no_earlier_logits_of_a_translation() -> None:
    model = built("seq2seq")
    source, before = tokens(2, 8), tokens(2, 10)
    after = before.clone()
    after[:, 6:] = tokens(2, 4)

    torch.testing.assert_close(model(source, after)[:, :6], model(source, before)[:, :6])
    assert not torch.equal(model(source, after)[:, 6:], model(source, before)[:, 6:])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_padding_of_either_side_changes_nothing(norm: str) -> None:
    model = built("seq2seq", norm=norm)
    source, target = tokens(2, 6), tokens(2, 5)

    padded = model(functional.pad(source, (0, 4)), functional.pad(target, (0, 3)))

    torch.testing.assert_close(padded[:, :5], model(source, target))


def test_a_row_of_padding_alone_stays_finite() -> None:
    model = built("seq2seq")

    assert model(torch.zeros(1, 6, dtype=torch.long), torch.zeros(1, 5, dtype=torch.long)).isfinite().all()


def test_a_translation_sees_the_end_of_its_source() -> None:
    model = built("seq2seq")
    source, target = tokens(2, 6), tokens(2, 5)
    other = source.clone()
    other[:, -1] = 4 + (other[:, -1] - 3) % (VOCABULARY - 4)

    assert not torch.allclose(model(source, target)[:, 0], model(other, target)[:, 0])


def test_encode_and_decode_apart_give_what_the_model_gives() -> None:
    model = built("seq2seq")
    source, target = tokens(2, 6), tokens(2, 5)

    apart = model.decode(target, model.encode(source), source)

    assert torch.equal(apart, model(source, target))


@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_a_fresh_model_is_about_as_unsure_as_the_uniform_distribution(architecture: str) -> None:
    model = built(architecture)
    inputs = (tokens(8, 12),) if architecture == "decoder" else (tokens(8, 12), tokens(8, 12))

    loss = functional.cross_entropy(model(*inputs).flatten(0, 1), tokens(96))

    assert abs(loss.item() - math.log(VOCABULARY)) < 1


@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_activation_checkpointing_gives_the_same_gradients(architecture: str) -> None:
    spec = spec_of(architecture, dropout=0.2)
    inputs = (tokens(2, 12),) if architecture == "decoder" else (tokens(2, 12), tokens(2, 12))

    def gradients(activation_checkpointing: bool) -> list[torch.Tensor | None]:
        torch.manual_seed(0)
        model = build(spec, VOCABULARY, activation_checkpointing)
        model(*inputs).square().mean().backward()
        return [parameter.grad for parameter in model.parameters()]

    torch.testing.assert_close(gradients(True), gradients(False))


def test_the_seed_draws_the_weights() -> None:
    assert all(map(torch.equal, built("decoder").parameters(), built("decoder").parameters()))


def test_residual_projections_begin_smaller_by_the_depth() -> None:
    torch.manual_seed(0)
    model = build(spec_of("decoder", width=128, layers=8), VOCABULARY)
    layer = model.stack.layers[0]

    assert layer.attention.query.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.attention.output.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
