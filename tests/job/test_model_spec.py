"""Parameters and operations of a Transformer, counted by hand and without torch."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcllm.job.model_spec import ModelSpec
from hpcllm.job.presets import PRESETS


def preset(name: str) -> ModelSpec:
    return ModelSpec(preset=name)


# GPT-2's own vocabulary. The paper's 117M, 345M, 762M and 1542M were corrected to these by its authors' repository.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2-124m", 124_439_808),
        ("gpt2-350m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1.5b", 1_557_611_200),
    ],
)
def test_gpt2_has_the_published_number_of_parameters(name: str, parameters: int):
    assert preset(name).parameters(50257) == parameters


def test_the_transformer_of_2017_has_63_and_210_million_or_so():
    # Table 3 says 65 and 213 million at "about 37000" shared tokens; it rounds, and ties all three embeddings as we do.
    assert preset("transformer-base").parameters(37000) == pytest.approx(65e6, rel=0.04)
    assert preset("transformer-big").parameters(37000) == pytest.approx(213e6, rel=0.01)


def small(**changes: object) -> ModelSpec:
    shape = {"layers": 1, "width": 2, "heads": 1, "feed_forward": 3, "context": 5}
    return ModelSpec.model_validate({**shape, **changes})


def test_a_decoder_counted_on_the_fingers():
    attention, feed_forward, norm = 4 * 4 + 4 * 2, 2 * 2 * 3 + 3 + 2, 2 * 2

    assert small().parameters(7) == 7 * 2 + 5 * 2 + attention + feed_forward + 2 * norm + norm


def test_an_encoder_decoder_counted_on_the_fingers():
    attention, feed_forward, norm = 4 * 4 + 4 * 2, 2 * 2 * 3 + 3 + 2, 2 * 2
    encoder = attention + feed_forward + 2 * norm
    decoder = 2 * attention + feed_forward + 3 * norm

    assert small(architecture="seq2seq").parameters(7) == 7 * 2 + 5 * 2 + encoder + decoder + 2 * norm


def test_sines_and_post_norms_save_their_parameters():
    assert small().parameters(7) - small(positions="sinusoidal").parameters(7) == 5 * 2
    assert small().parameters(7) - small(norm="post").parameters(7) == 2 * 2


def test_operations_of_a_decoder_counted_by_hand():
    # Per token, forward: 2 for each weight of a matmul; 2·d for each score and for each weighted value, of 5 positions.
    forward = 2 * (4 * 4 + 2 * 2 * 3) + 2 * 7 * 2 + (2 * 2 + 2 * 2) * 5

    assert small().flops_per_sequence(7, target_tokens=5) == 3 * 5 * forward
    assert small().flops_per_token(7) == 3 * forward == 6 * (28 + 14) + 12 * 1 * 2 * 5


def test_operations_of_an_encoder_decoder_counted_by_hand():
    spec, source, target = small(architecture="seq2seq"), 4, 3
    d, f, v = 2, 3, 7
    encoder = source * 2 * (4 * d * d + 2 * d * f) + 4 * d * source * source
    own = target * 2 * 4 * d * d + 4 * d * target * target
    cross = 2 * (target * 2 * d * d + source * 2 * d * d) + 4 * d * target * source
    feed_forward, output = target * 2 * 2 * d * f, target * 2 * d * v

    forward = encoder + own + cross + feed_forward + output
    assert spec.flops_per_sequence(v, target_tokens=target, source_tokens=source) == 3 * forward


def test_a_token_of_a_translation_carries_its_share_of_the_source():
    spec = small(architecture="seq2seq")

    weights = 2 * (4 * 4 + 2 * 2 * 3) + 4 * 4 + 7 * 2
    assert spec.flops_per_token(7) == 6 * weights + 36 * 1 * 2 * 5


@settings(deadline=None)
@given(
    layers=st.integers(1, 96), heads=st.integers(1, 16), head=st.integers(1, 64), vocabulary=st.integers(260, 200_000)
)
def test_operations_are_six_a_parameter_and_the_attention(layers: int, heads: int, head: int, vocabulary: int):
    width = heads * head
    spec = ModelSpec(layers=layers, width=width, heads=heads, feed_forward=4 * width, context=64)

    at_most = 6 * spec.parameters(vocabulary) + 12 * layers * width * 64
    assert 0 <= at_most - spec.flops_per_token(vocabulary) == 6 * unmultiplied(spec)


def unmultiplied(spec: ModelSpec) -> int:
    """Positions, biases and norms."""
    d, f = spec.width, spec.feed_forward
    return spec.context * d + spec.layers * (4 * d + f + d + 4 * d) + 2 * d


def test_keys_beside_a_preset_win():
    spec = ModelSpec.model_validate({"preset": "gpt2-124m", "context": 256, "dropout": 0.1})

    assert (spec.context, spec.dropout, spec.width) == (256, 0.1, 768)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_shape(name: str):
    assert preset(name).parameters(1000) > 1000


def test_an_editor_accepts_a_preset_in_place_of_a_shape():
    schema = ModelSpec.model_json_schema()

    assert "required" not in schema
    assert {"required": ["preset"]} in schema["anyOf"]
    assert {"required": ["layers", "width", "heads", "feed_forward", "context"]} in schema["anyOf"]


def test_counting_needs_no_torch():
    script = "import sys, hpcllm.job.spec; print({'torch', 'mpi4py', 'h5py'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "set()"
