"""int8: how far from the original at most, how small, and what a damaged export says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcllm.deploy.quantize import Int8Matrix, load_int8, quantize, quantize_rows, save_int8, weights_files
from hpcllm.errors import HpcllmError
from hpcllm.job.model_spec import ModelSpec
from hpcllm.model.build import build
from hpcllm.run_directory import read_json, write_json
from hpcllm.train.checkpoint import trained_model

finite = st.floats(-(2.0**100), 2.0**100, width=32)
matrices = st.integers(1, 6).flatmap(lambda columns: st.lists(st.lists(finite, min_size=columns, max_size=columns)))


@settings(max_examples=200, deadline=None)
@given(matrices.filter(len))
def test_no_weight_moves_by_more_than_half_a_step(rows):
    w_ND = torch.tensor(rows, dtype=torch.float32)

    q_ND, s_N = quantize_rows(w_ND)

    error_ND = (w_ND.double() - q_ND.double() * s_N.double()[:, None]).abs()
    assert q_ND.dtype == torch.int8
    assert (error_ND <= s_N.double()[:, None] / 2 * (1 + 1e-4)).all()
    assert (q_ND.abs() <= 127).all()


def test_a_row_of_zeros_stays_zeros():
    q_ND, s_N = quantize_rows(torch.zeros(2, 3))

    assert torch.equal(q_ND * s_N[:, None], torch.zeros(2, 3))


@pytest.mark.parametrize("shape", [(1, 8), (3, 5, 8), (2, 1, 8)])
def test_a_product_is_close_to_the_product_in_fp32(shape):
    torch.manual_seed(0)
    w_ND, x = torch.randn(16, 8), torch.randn(shape)

    y = Int8Matrix(w_ND)(x)

    assert y.shape == (*shape[:-1], 16)
    torch.testing.assert_close(y, x @ w_ND.T, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_logits_are_close_and_the_original_is_untouched(architecture, positions, norm):
    shape = {"layers": 2, "width": 64, "heads": 4, "feed_forward": 128, "context": 16}
    torch.manual_seed(0)
    model = build(ModelSpec(architecture=architecture, positions=positions, norm=norm, **shape), 300).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = [torch.randint(4, 300, (3, 16))] * (2 if architecture == "seq2seq" else 1)

    with torch.inference_mode():
        expected, found = model(*inputs), quantize(model)(*inputs)

    assert (found - expected).pow(2).mean().sqrt() < 0.05 * expected.pow(2).mean().sqrt()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("architecture", ["decoder", "seq2seq"])
def test_what_is_saved_comes_back_to_the_bit(run_with_model, architecture):
    run = run_with_model(architecture)
    quantized = quantize(trained_model(run))

    save_int8(run, quantized)
    loaded = load_int8(run)

    assert sorted(path.name for path in run.export("int8").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert run.export("int8").joinpath("tokenizer.json").read_bytes() == run.tokenizer_json.read_bytes()
    tokens = torch.randint(4, 200, (2, 9))
    inputs = (tokens, tokens) if architecture == "seq2seq" else (tokens,)
    with torch.inference_mode():
        assert torch.equal(loaded(*inputs), quantized(*inputs))


def test_loading_draws_no_random_numbers(run_with_model):
    run = run_with_model("decoder")
    save_int8(run, quantize(trained_model(run)))

    torch.manual_seed(5)
    load_int8(run)
    drawn = torch.rand(1)

    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


def test_the_file_is_about_a_quarter(run_with_model):
    run = run_with_model("decoder")
    save_int8(run, quantize(trained_model(run)))

    sizes = {name: file.stat().st_size for name, file in weights_files(run).items()}

    # A bound for this toy, whose norms, scales and names weigh much; what is 1/4 of a real model nears it from above.
    assert sizes["compressed"] < 0.45 * sizes["trained"]


def test_the_matrices_of_a_larger_model_take_a_quarter_of_the_bytes():
    spec = ModelSpec(layers=2, width=256, heads=4, feed_forward=1024, context=64)
    model = build(spec, 2000)

    def num_bytes(module):
        return sum(tensor.numel() * tensor.itemsize for tensor in module.state_dict().values())

    assert 0.25 < num_bytes(quantize(model)) / num_bytes(model) < 0.27


def test_a_missing_export_names_the_file(run_with_model):
    with pytest.raises(HpcllmError, match=r"exports/int8/config\.json: missing"):
        load_int8(run_with_model("decoder"))


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", lambda data: b"\xff" * 50])
def test_a_damaged_export_names_the_file_and_the_next_step(run_with_model, damage):
    run = run_with_model("decoder")
    save_int8(run, quantize(trained_model(run)))
    file = weights_files(run)["compressed"]
    file.write_bytes(damage(file.read_bytes()))

    with pytest.raises(HpcllmError, match=r"model\.safetensors: damaged: .*run the compress stage again"):
        load_int8(run)


def test_another_format_is_refused(run_with_model):
    run = run_with_model("decoder")
    save_int8(run, quantize(trained_model(run)))
    config = run.export("int8") / "config.json"
    write_json(config, {**read_json(config), "format": 99})

    with pytest.raises(HpcllmError, match="format: found 99"):
        load_int8(run)
