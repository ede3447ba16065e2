"""The state of a training on disk: complete and verified, or absent.

checkpoints/
  LATEST                   `step-400`: the newest that was read back and found whole
  step-400/
    model.safetensors      weights in fp32, by their names in the module
    optimizer.safetensors  `<weight>/exp_avg` and so on
    state.json             step, precision, position in the data; what model, order and code this is of
    manifest.json          size and sha256 of the three

No file is a pickle. There is no random state among them, because none is needed: the order of the data and the dropout
masks are functions of seed and step (`loop.seed_dropout`).
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hpcllm.errors import HpcllmError, UserError
from hpcllm.job.spec import Job, frozen_job
from hpcllm.model.build import Model, build
from hpcllm.parallel.pieces import Piece, joined, local, optimizer_parts, pieces_of, weight_parts
from hpcllm.parallel.strategy import bare, updated_pieces
from hpcllm.parallel.world import World
from hpcllm.run_directory import Run, atomic_path, read_json, write_json, write_text
from hpcllm.train.kept import best, chosen, steps

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class State:
    """What a training is, besides its tensors."""

    step: int
    """Optimizer steps done."""
    samples: int
    """Samples of the order that were used: the next one is the k-th, k = samples."""
    precision: str
    world_size: int
    commit: str | None
    identity: dict[str, Any]
    """What must not change when it goes on: shape, vocabulary, seed, global batch, tokenizer."""


def save(
    run: Run, job: Job, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, precision: str, world: World
) -> int:
    """Write `checkpoints/step-N`, read it back, name it in LATEST, drop all but the newest. Returns its bytes.

    All ranks call it, with the model as `data_parallel` gave it: what they hold comes together on rank 0, which writes;
    the others return 0 when they have sent theirs. Raises HpcllmError when the disk cannot take it; the checkpoints
    before it stay as they are.
    """
    weights, moments = _whole(model, optimizer, world)
    if world.rank > 0:
        return 0
    _remove_leftovers(run)
    commit = read_json(run.software_json).get("commit")
    state = State(step, step * job.train.global_batch, precision, world.size, commit, _identity(run, job))
    target = run.checkpoint(step)
    try:
        with atomic_path(target) as temporary:
            temporary.mkdir()
            save_file(weights, temporary / MODEL)
            save_file(moments, temporary / OPTIMIZER)
            write_json(temporary / STATE, asdict(state))
            written = {name: _fingerprint(temporary / name) for name in (MODEL, OPTIMIZER, STATE)}
            write_json(temporary / MANIFEST, written)
    except (OSError, SafetensorError) as error:
        raise HpcllmError(
            f"{target}: cannot be written: {error}; make room (train.checkpoint.keep: how many stay) and start again"
        ) from None
    if damage := damage_of(target):
        raise HpcllmError(f"{damage}: it was just written, so the disk or the memory is at fault; use another one")
    write_text(run.latest, f"{target.name}\n")
    _drop(run, job, step)
    return sum(entry["bytes"] for entry in written.values())


def latest(run: Run) -> tuple[int | None, list[str]]:
    """The newest step whose checkpoint is whole (None: there is none), and what is wrong with any newer one."""
    damages: list[str] = []
    for step in steps(run):
        damage = damage_of(run.checkpoint(step))
        if damage is None:
            return step, damages
        damages.append(damage)
    return None, damages


def load_model(run: Run, job: Job, model: nn.Module, step: int) -> State:
    """Put the weights of a checkpoint that `latest` found whole into a model that is not yet spread over ranks.

    Raises UserError when it is of another training than the job describes.
    """
    directory = run.checkpoint(step)
    state = State(**read_json(directory / STATE))
    for name, wanted in _identity(run, job).items():
        if state.identity.get(name) != wanted:
            raise UserError(
                f"{directory}: {name}: found {state.identity.get(name)!r}; this job has {wanted!r}; "
                f"render the job into a new directory, or delete {run.checkpoints} to train from the beginning"
            )
    model.load_state_dict(load_file(directory / MODEL))
    return state


def load_optimizer(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, world: World) -> None:
    """Put the state of the optimizer into this rank's, as much of it as this rank updates of the spread model."""
    pieces = {piece.name: piece for piece in updated_pieces(model, world)}
    with safe_open(run.checkpoint(step) / OPTIMIZER, "pt") as file:
        for name in file.keys():  # noqa: SIM118  (it is no mapping)
            weight, _, key = name.rpartition("/")
            if weight in pieces:
                optimizer.state[pieces[weight].parameter][key] = _state(pieces[weight], file.get_tensor(name))


def trained_model(run: Run, step: int | None = None) -> Model:
    """The trained model, or as it was after `step`, in eval mode, on the CPU, in fp32.

    Its weights are the last ones, or the best where the job evaluates the best. Raises HpcllmError when there are none
    yet, or when they are damaged.
    """
    if not run.latest.exists():
        raise HpcllmError(f"{run.latest}: missing; the train stage has not saved anything yet")
    directory = run.checkpoint(chosen(run, frozen_job(run))[0] if step is None else step)
    if damage := damage_of(directory):
        raise HpcllmError(f"{damage}; delete {directory} and run the train stage again: it goes on from the one before")
    state = State(**read_json(directory / STATE))
    model = build(frozen_job(run).model, state.identity["vocabulary_size"])
    model.load_state_dict(load_file(directory / MODEL))
    return model.eval()


def untrained_model(run: Run) -> Model:
    """The model as training began: the same shape, fresh weights of the job's seed, in eval mode."""
    return fresh_model(frozen_job(run), read_json(run.index_json)["vocabulary_size"]).eval()


def fresh_model(job: Job, vocabulary_size: int, activation_checkpointing: bool = False) -> Model:
    """A model whose weights the job's seed determines."""
    torch.manual_seed(job.train.seed)
    return build(job.model, vocabulary_size, activation_checkpointing)


def damage_of(directory: Path) -> str | None:
    """What is wrong with a checkpoint, with the file and what was found; None when every byte is as it was written."""
    try:
        for name, written in read_json(directory / MANIFEST).items():
            found = _fingerprint(directory / name)
            if found["bytes"] != written["bytes"]:
                return f"{directory / name}: {found['bytes']} bytes; {written['bytes']} were written: cut short"
            if found["sha256"] != written["sha256"]:
                return f"{directory / name}: damaged: its sha256 is not the one in {MANIFEST}"
    except HpcllmError as error:
        return str(error)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        return f"{directory}: damaged: {error}"
    return None


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _identity(run: Run, job: Job) -> dict[str, Any]:
    """What a checkpoint must share with the job that goes on from it."""
    index = read_json(run.index_json)
    return {
        "model": job.model.model_dump(mode="json"),
        "vocabulary_size": index["vocabulary_size"],
        "tokenizer_sha256": index["tokenizer_sha256"],
        "seed": job.train.seed,
        "global_batch": job.train.global_batch,
    }


def _drop(run: Run, job: Job, newest: int) -> None:
    """Delete all but the newest, and the best where that one is wanted.

    Steps beyond the one just saved were passed over at the start: damaged.
    """
    found = steps(run)
    kept = (whole := [step for step in found if step <= newest])[: job.train.checkpoint.keep]
    if job.evaluate.checkpoints == "best":
        kept.append(best(run, whole))
    for step in found:
        if step not in kept:
            shutil.rmtree(run.checkpoint(step))


def _remove_leftovers(run: Run) -> None:
    """Delete what a killed writer left half-written; a training has one writer."""
    for path in run.checkpoints.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _whole(
    model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """On rank 0 the weights, and the optimizer's state by `<weight>/<key>`; on the others nothing."""
    names = [name for name, _ in bare(model).named_parameters()]
    mine = {key for state in optimizer.state.values() for key in state}
    keys = sorted(mine.union(*world.all_gather(mine)))  # a rank of more ranks than weights may update none
    moments = optimizer_parts(updated_pieces(model, world), optimizer.state)
    return (
        joined(weight_parts(pieces_of(bare(model), world)), names, world),
        joined(moments, [f"{name}/{key}" for name in names for key in keys], world),
    )


def _state(piece: Piece, whole: Tensor) -> Tensor:
    """The state of a piece, cut from that of the whole weight."""
    if whole.dim() == 0:
        return whole.to(piece.parameter.device)
    state = torch.zeros_like(piece.parameter, requires_grad=False)
    local(state).copy_(piece.of(whole))
    return state
