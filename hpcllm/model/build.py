"""From a job's `model:` to a torch module."""

from __future__ import annotations

from hpcllm.job.model_spec import ModelSpec
from hpcllm.model.decoder import Decoder
from hpcllm.model.seq2seq import Seq2Seq

Model = Decoder | Seq2Seq
ARCHITECTURES: dict[str, type[Decoder] | type[Seq2Seq]] = {"decoder": Decoder, "seq2seq": Seq2Seq}


def build(spec: ModelSpec, vocabulary_size: int, activation_checkpointing: bool = False) -> Model:
    """A fresh model, its weights drawn from torch's generator. `model(*batch.inputs)` gives logits_BTV.

    With activation checkpointing a layer's activations are computed again in the backward pass instead of kept.
    """
    return ARCHITECTURES[spec.architecture](spec, vocabulary_size, activation_checkpointing)
