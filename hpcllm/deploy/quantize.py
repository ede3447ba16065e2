"""int8 weights: a quarter of the bytes, and matmuls that CPUs do in integers.

A weight matrix W [N, D] becomes q [N, D] in −127…127 and a scale s [N], a scale for each output, with W ≈ q·s and
|W − q·s| ≤ s/2. Vectors are quantized in the same way as they come in, a scale for each of them; so a product is a sum
of int8 products in int32, times both scales. Norms, biases and positions stay in fp32.

exports/int8/
  model.safetensors   `….values` int8, `….scale` fp32, and what stays in fp32
  config.json         the model's shape, and what it was made from
  tokenizer.json      as in data/

Shape suffixes: N outputs, D inputs, M vectors; B sequences, T tokens.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hpcllm.data.tokenizer import Tokenizer
from hpcllm.errors import HpcllmError
from hpcllm.evaluate.result import commit
from hpcllm.job.model_spec import ModelSpec
from hpcllm.job.spec import frozen_job
from hpcllm.model.build import Model, build
from hpcllm.model.layers import Embedding
from hpcllm.run_directory import Run, atomic_path, read_json, write_json

FORMAT = 1  # of exports/int8
LARGEST = 127  # −128 is left out, so that q and −q are both possible
MODEL, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


def quantize_rows(w_ND: Tensor) -> tuple[Tensor, Tensor]:
    """(q_ND int8, s_N fp32): each row by the scale that makes its largest entry ±127."""
    # A row of zeros still needs a scale to be divided by.
    s_N = (w_ND.abs().amax(dim=-1) / LARGEST).clamp_(min=torch.finfo(w_ND.dtype).tiny)
    return (w_ND / s_N[:, None]).round_().to(torch.int8), s_N


class Int8Matrix(nn.Module):
    """W as q·s: multiplied with vectors, or looked up by row."""

    values: Tensor
    scale: Tensor

    def __init__(self, w_ND: Tensor) -> None:
        super().__init__()
        q_ND, s_N = quantize_rows(w_ND.detach())
        self.register_buffer("values", q_ND)
        self.register_buffer("scale", s_N)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> x·Wᵀ [..., N]."""
        q_MD, s_M = quantize_rows(x.flatten(0, -2))
        sums_MN = torch._int_mm(q_MD, self.values.t())  # int32: exact for any width below 133,144
        y_MN = sums_MN.float().mul_(s_M[:, None]).mul_(self.scale)
        return y_MN.view(*x.shape[:-1], -1)

    def rows(self, numbers: Tensor) -> Tensor:
        """Rows of W by their numbers: [...] -> [..., D]."""
        return self.values[numbers] * self.scale[numbers][..., None]


class Int8Linear(nn.Module):
    """What stands for nn.Linear."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.matrix = Int8Matrix(linear.weight)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> y [..., N]."""
        y: Tensor = self.matrix(x) + self.bias
        return y


class Int8Embedding(nn.Module):
    """What stands for the tied Embedding: one int8 matrix at the entrance and at the exit."""

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.matrix = Int8Matrix(embedding.tokens.weight)
        self.scale = embedding.scale
        if isinstance(embedding.positions, nn.Parameter):
            self.positions: Tensor = embedding.positions
        else:
            self.register_buffer("positions", embedding.positions, persistent=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """x_BTD: each token's vector plus its position's."""
        return self.matrix.rows(tokens_BT) * self.scale + self.positions[: tokens_BT.shape[1]]

    def logits(self, x_BTD: Tensor) -> Tensor:
        """logits_BTV."""
        logits_BTV: Tensor = self.matrix(x_BTD)
        return logits_BTV


INT8 = {nn.Linear: Int8Linear, Embedding: Int8Embedding}


def quantize(model: Model) -> Model:
    """A copy of the model, for inference, whose matrices are int8. The model stays as it is."""
    quantized = copy.deepcopy(model)
    _replace(quantized)
    return quantized.eval()


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        made = INT8.get(type(child))
        if made is None:
            _replace(child)
        else:
            setattr(module, name, made(child))


def save_int8(run: Run, model: Model) -> None:
    """Write exports/int8 of a quantized model, complete or not at all."""
    config = {
        "format": FORMAT,
        "quantization": "int8, symmetric, a scale for each output; vectors quantized as they come in",
        "model": frozen_job(run).model.model_dump(mode="json"),
        "vocabulary_size": Tokenizer.load(run.tokenizer_json).vocabulary_size,
        "checkpoint": run.latest.read_text(encoding="utf-8").strip(),
        "commit": commit(run),
    }
    with atomic_path(run.export("int8")) as folder:
        folder.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / MODEL)
        write_json(folder / CONFIG, config)
        shutil.copyfile(run.tokenizer_json, folder / TOKENIZER)


def weights_files(run: Run) -> dict[str, Path]:
    """The weights of the trained model and of the compressed one, as they are stored."""
    checkpoint = run.checkpoints / run.latest.read_text(encoding="utf-8").strip()
    return {"trained": checkpoint / MODEL, "compressed": run.export("int8") / MODEL}


def load_int8(run: Run) -> Model:
    """The compressed model of a run. Raises HpcllmError when it is missing or damaged."""
    folder = run.export("int8")
    config: dict[str, Any] = read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise HpcllmError(f"{folder / CONFIG}: format: found {config.get('format')!r}; this hpcllm reads {FORMAT}")
    with torch.random.fork_rng(devices=[]):  # the weights that it draws are replaced at once
        model = quantize(build(ModelSpec(**config["model"]), config["vocabulary_size"]))
    try:
        model.load_state_dict(load_file(folder / MODEL))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise HpcllmError(f"{folder / MODEL}: damaged: {error}; run the compress stage again") from None
    return model
