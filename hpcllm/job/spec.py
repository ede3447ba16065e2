"""A job as a researcher writes it: data, model, training, evaluation, deployment; or a command of their own.

A quantity is a string with its unit (`time: 30m`); its field here carries the unit in its name (`time_s`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hpcllm import source, yaml_text
from hpcllm.cluster.software import SoftwareEnvironment
from hpcllm.errors import SourceError, UserError
from hpcllm.job.model_spec import ModelSpec
from hpcllm.job.own_stage import NO_PROGRAM, OwnStage, doubled_or_unknown
from hpcllm.names import Argument, Directives, Environment, Word
from hpcllm.run_directory import Run
from hpcllm.source import FieldPath, Record
from hpcllm.units import Bytes, Fraction, Positive, Seconds, Tokens

NotNegative = Annotated[float, Field(ge=0)]


# ---- data ------------------------------------------------------------------------------------------------------------


class TextFiles(Record):
    """Plain text: every file is one document."""

    files: tuple[str, ...]
    """Paths or globs (`corpus/**/*.txt`). `stdlib:**/*.py` is inside Python's own standard library,
    `package:NAME/**/*.txt` inside an installed Python package; a relative path starts at the job file."""
    exclude: tuple[str, ...] = ()
    """Globs of what to leave out, in the same form."""


class Pairs(Record):
    """Parallel text: sentences and their translations."""

    target_language: str
    """Language code of the translations, such as zh_CN; stands for {target_language} in the paths below."""
    gettext: tuple[str, ...] = ()
    """Gettext catalogs (.mo or .po), paths or globs as for text."""
    source_file: str | None = None
    """Of two aligned text files, the one to translate from: a sentence a line."""
    target_file: str | None = None
    """Of two aligned text files, the translations, line by line."""
    minimum_words: Positive = 1
    """Shorter source sentences are left out."""
    limit: Positive | None = None
    """Use only the first so many pairs (in the order of their hashes)."""

    @model_validator(mode="after")
    def _one_reader(self) -> Pairs:
        aligned = (self.source_file is not None) + (self.target_file is not None)
        if aligned == 1 or bool(self.gettext) == (aligned == 2):
            raise ValueError("expected either gettext, or source_file and target_file together")
        return self


class Split(Record):
    """What is held out. A document (or pair) goes to one part by a hash of its name (or source sentence), for ever."""

    validation: Fraction = 0.05
    """Share that is looked at during training."""
    test: Fraction = 0.05
    """Share that only the evaluation reads."""

    @model_validator(mode="after")
    def _leaves_some(self) -> Split:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave nothing to train on")
        return self


class TokenizerSpec(Record):
    """How text becomes numbers."""

    kind: Literal["bpe", "word", "byte"] = "bpe"
    """bpe: byte-level subwords, lossless. word: whole words, rare ones unknown. byte: the 256 bytes."""
    vocabulary: Annotated[int, Field(ge=260, le=2**31)] = 32768
    """Number of different tokens, special ones included (byte: fixed, so this is not read)."""

    @property
    def most_tokens(self) -> int:
        """V, the vocabulary that a plan counts on; a tokenizer learned from little text may end with less."""
        return 260 if self.kind == "byte" else self.vocabulary  # the 256 bytes and four special tokens

    @property
    def token_bytes(self) -> int:
        """Of one token in a shard: uint16 below a vocabulary of 65,536, else uint32."""
        return 2 if self.most_tokens < 2**16 else 4


class Data(Record):
    """What to train on: text or pairs."""

    text: TextFiles | None = None
    """Documents, for a decoder."""
    pairs: Pairs | None = None
    """Sentences and translations, for seq2seq."""
    split: Split = Split()
    """What is held out."""
    tokenizer: TokenizerSpec = TokenizerSpec()
    """How text becomes numbers."""
    shard_tokens: Tokens = 64_000_000
    """Most tokens in one HDF5 file."""
    shard_jobs: Positive = 1
    """Slurm jobs that write the shards, as an array, each on all ranks. The shards are the same at any number."""

    @model_validator(mode="after")
    def _one_kind(self) -> Data:
        if (self.text is None) == (self.pairs is None):
            raise ValueError("expected either text or pairs")
        return self


# ---- training --------------------------------------------------------------------------------------------------------


class Optimizer(Record):
    """AdamW (Loshchilov & Hutter 2019)."""

    name: Literal["adamw"] = "adamw"
    """AdamW is the only one."""
    learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    """The highest of the schedule."""
    weight_decay: NotNegative = 0.1
    """On matrices; not on norms, biases and positions."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Memory of the mean of the gradients."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Memory of the mean of their squares."""
    clip_norm: NotNegative = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""


class Schedule(Record):
    """Learning rate over the steps: up in a line, then down."""

    name: Literal["cosine", "linear", "constant"] = "cosine"
    """The way down: half a cosine, a line, or none."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps to reach the learning rate."""
    minimum: Fraction = 0.1
    """Share of the learning rate left at the end."""


class CheckpointPolicy(Record):
    """When the state is saved, and what is kept."""

    every_steps: Positive | None = None
    """Steps between saves; left out, the plan's interval (Young 1974) decides."""
    keep: Positive = 2
    """How many of the latest are kept."""


class Train(Record):
    """One training run."""

    steps: Positive
    """Optimizer steps."""
    global_batch: Positive
    """Sequences per optimizer step, over all ranks."""
    micro_batch: Positive | None = None
    """Sequences per rank in one forward; left out, the plan chooses."""
    strategy: Literal["auto", "ddp", "zero1", "fsdp", "hsdp"] = "auto"
    """What the ranks share: nothing (ddp), the optimizer's state (zero1), everything (fsdp), everything inside a node
    (hsdp); auto: the plan takes the one that fits and exchanges least."""
    gradient_compression: Literal["none", "bf16", "bf16-feedback"] = "none"
    """How gradients travel between ranks, under ddp and zero1: in fp32; in bf16; or in bf16 with what a step's rounding
    loses sent in a later one (error feedback)."""
    optimizer: Optimizer = Optimizer()
    """How gradients change the weights."""
    schedule: Schedule = Schedule()
    """Learning rate over the steps."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target's probability that is spread over the vocabulary."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the matmuls; auto measures the machine at the start."""
    seed: int = 1
    """Of the initial weights, the order of the data and dropout."""
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    """When the state is saved, and what is kept."""
    validate_every_steps: Positive = 100
    """Steps between looks at the validation part."""
    log_every_steps: Positive = 10
    """Steps between lines of the log; metrics have every step."""

    def contradictions(self) -> Iterable[tuple[FieldPath, str]]:
        """Sharded gradients, which go another way than the compressed ones."""
        if self.gradient_compression != "none" and self.strategy in ("fsdp", "hsdp"):
            yield (
                ("gradient_compression",),
                f"found {self.gradient_compression} with strategy {self.strategy}; it goes with auto, ddp and zero1",
            )


# ---- evaluation and deployment ---------------------------------------------------------------------------------------


class Bleu(Record):
    """BLEU on the held-out pairs (sacrebleu)."""

    pairs: Positive | None = None
    """Score only the first so many; left out, all."""
    split: Literal["train", "validation", "test"] = "test"
    """train asks whether the pairs were learned by heart."""


class Samples(Record):
    """Text from the model, to look at."""

    prompts: tuple[str, ...] = ()
    """Beginnings to continue; for pairs, sentences to translate; left out, the first held-out ones."""
    count: Positive = 3
    """How many of the held-out ones."""
    new_tokens: Tokens = 120
    """Tokens to add to each prompt."""
    temperature: NotNegative = 0.8
    """0 takes the likeliest token each time."""


def _checkpoints(asked: Any) -> Any:
    if asked in ("last", "best", "all") or (type(asked) is int and asked > 0):
        return asked
    raise ValueError(f"found {asked!r}; expected last, best, all, or how many, from 1")


Checkpoints = Annotated[Literal["last", "best", "all"] | Positive, BeforeValidator(_checkpoints)]


class Evaluate(Record):
    """What is measured after training."""

    perplexity: bool = True
    """Perplexity and bits per byte on the test part."""
    bleu: Bleu | None = None
    """For pairs."""
    samples: Samples = Samples()
    """Text from the model, to look at."""
    checkpoints: Checkpoints = "last"
    """Which of those that are kept: the last; best, by its loss on the validation part; all; or so many, spread over
    the training, with the last. Several become an array of Slurm jobs, one for each checkpoint and task."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of what is measured, in order."""
        asked = {"perplexity": self.perplexity, "bleu": self.bleu is not None, "samples": True}
        return tuple(name for name, wanted in asked.items() if wanted)


class Deploy(Record):
    """What is made of the trained model."""

    quantize: Literal["int8", "none"] = "none"
    """int8: weights as 8-bit numbers with a scale per row."""


# ---- where and how long ----------------------------------------------------------------------------------------------


class Resources(Record):
    """How much of the cluster."""

    nodes: Positive = 1
    """Nodes that the ranks are spread over."""
    ranks_per_node: Positive | None = None
    """One MPI rank a GPU, or as many as asked on CPUs; left out, the profile decides."""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """Left out, all that the node has."""
    time_s: Seconds = 3600.0
    """Wall-clock limit of the longest stage."""


class SlurmSpec(Record):
    """What is handed to Slurm beside what the profile derives."""

    partition: Word | None = None
    """Left out, the first that the job fits in."""
    account: Word | None = None
    """Project that pays; left out, the user's own (~/.config/hpcllm/user.yaml)."""
    qos: Word | None = None
    """Left out, the user's own or the partition's."""
    mail: Word | None = None
    """Address that Slurm writes to at the end."""
    max_requeues: Annotated[int, Field(ge=0)] = 20
    """How often an interrupted job may put itself back into the queue."""
    chained_jobs: Positive | None = None
    """How many jobs one after another a long stage needs, where the site starts none again (scheduler.requeue: false);
    left out, as many as the plan says."""
    at_a_time: Positive | None = None
    """Of a sweep, how many runs may be running at a time, and of a stage that is an array, how many of its jobs; left
    out, as many as there is room for."""
    directives: Directives = {}
    """Further directives by name (`reservation: maintenance`); they win over what is derived."""


class SoftwareSpec(Record):
    """What the job wants of the site's software beside what the profile says."""

    modules: tuple[str, ...] = ()
    """Loaded after the site's own."""
    environment: SoftwareEnvironment | None = None
    """What its programs run in; left out, the profile's."""


def _job_name(name: str) -> str:
    if not name.strip() or not name.isprintable() or "/" in name or name.startswith((".", "-")):
        raise ValueError(f"found {name!r}; expected a name in one line, without / and not beginning with . or -")
    return name


class AnyJob(Record):
    """What every job has."""

    given_stages: ClassVar[tuple[str, ...]] = ()
    """Names of the stages that it has beside those of one's own."""

    name: Annotated[str, Field(max_length=100), AfterValidator(_job_name)]
    """Shown in the queue and the report."""
    description: str = ""
    """The job in a line."""
    resources: Resources = Resources()
    """How much of the cluster."""
    slurm: SlurmSpec = SlurmSpec()
    """What is handed to Slurm beside what the profile derives."""
    software: SoftwareSpec = SoftwareSpec()
    """What the job wants of the site's software beside what the profile says."""
    environment: Environment = {}
    """Variables for every stage; they win over what is derived."""
    stages: tuple[OwnStage, ...] = ()
    """Programs of one's own, as further stages of the DAG."""
    freeze: bool = True
    """Whether they run a copy of their git working tree, made when the run is rendered: no later edit changes it."""
    sweep: dict[str, tuple[Any, ...]] = {}
    """Many runs, one for each combination of values: keys of this job by their dotted path, each with its values."""

    def contradictions(self) -> Iterable[tuple[FieldPath, str]]:
        """Names of stages that do not go together, and a sweep over no value."""
        yield from doubled_or_unknown(self.stages, self.given_stages)
        for key, values in self.sweep.items():
            if not values:
                yield ("sweep", key), "found no value; expected a list of at least one"


class Job(AnyJob):
    """The whole pipeline: from text to a trained, evaluated, compressed model."""

    given_stages: ClassVar[tuple[str, ...]] = (
        *("tokenizer", "shard", "train", "evaluate", "compress", "evaluate-compressed", "gather"),
    )

    data: Data
    """What to train on: text or pairs."""
    model: ModelSpec
    """The shape of the Transformer."""
    train: Train
    """How it is trained."""
    evaluate: Evaluate = Evaluate()
    """What is measured after training."""
    deploy: Deploy = Deploy()
    """What is made of the trained model."""

    @property
    def num_evaluated(self) -> int:
        """How many checkpoints are evaluated, if training keeps so many."""
        asked, keep, every = self.evaluate.checkpoints, self.train.checkpoint.keep, self.train.checkpoint.every_steps
        if asked in ("last", "best"):
            return 1
        saved = -(-self.train.steps // every) if every else keep
        return min(keep, saved) if asked == "all" else int(asked)

    def contradictions(self) -> Iterable[tuple[FieldPath, str]]:
        """Checkpoints to evaluate that will not be there, and what every job may have."""
        yield from super().contradictions()
        asked, keep = self.evaluate.checkpoints, self.train.checkpoint.keep
        if isinstance(asked, int) and asked > keep:
            yield (
                ("evaluate", "checkpoints"),
                f"found {asked}; training keeps the last {keep} (train.checkpoint.keep); raise that, or ask for fewer",
            )
        if asked == "best" and self.data.split.validation == 0:
            yield (
                ("evaluate", "checkpoints"),
                "found best; nothing tells which is (data.split.validation: 0); hold some text out, or say last",
            )

    @model_validator(mode="after")
    def _parts_agree(self) -> Job:
        if (self.data.pairs is not None) != (self.model.architecture == "seq2seq"):
            raise ValueError("data.pairs goes with model.architecture: seq2seq, and data.text with decoder")
        if self.evaluate.bleu and self.data.pairs is None:
            raise ValueError("evaluate.bleu: needs data.pairs")
        return self


class CommandJob(AnyJob):
    """Anybody's program, with everything around it derived."""

    given_stages: ClassVar[tuple[str, ...]] = ("command",)

    command: tuple[Argument, ...]
    """The program and its arguments, as a list; it starts in the folder of the job file."""
    tf_config: bool = False
    """Whether its ranks find each other by TF_CONFIG, as TensorFlow's MultiWorkerMirroredStrategy wants it."""

    def contradictions(self) -> Iterable[tuple[FieldPath, str]]:
        """A command without a word, and what every job may have."""
        yield from super().contradictions()
        if not self.command:
            yield ("command",), NO_PROGRAM


class StagesJob(AnyJob):
    """Several programs of one's own, as a DAG."""

    def contradictions(self) -> Iterable[tuple[FieldPath, str]]:
        """Not one stage, and what every job may have."""
        yield from super().contradictions()
        if not self.stages:
            yield ("stages",), "found none; expected at least one, such as {name: hello, command: [echo, hello]}"


class Probe(Record):
    """How much is measured."""

    message_bytes: Bytes = 32 * 2**20
    """Largest message of an all-reduce."""
    file_bytes: Bytes = 2**30
    """Most that a rank writes, in a file of its own."""
    time_s: Seconds = 1.0
    """Of one measurement, about."""


class ProbeJob(AnyJob):
    """`hpcllm profile probe`: the cluster measured."""

    probe: Probe


def load_job(path: Path) -> Job:
    """Read the job file of a training. Raises SourceError with all of its mistakes, UserError for another kind."""
    if kind_of_file(path) is not Job:
        raise UserError(
            f"{path}: holds programs of your own, and only a training has a plan; hpcllm render writes its scripts"
        )
    return source.load(path, Job)


JobT = TypeVar("JobT", bound=AnyJob)


def absolute(job: JobT, folder: Path) -> JobT:
    """The job with its relative paths starting at `folder`, where its file lies: a run may start anywhere.

    `stdlib:` and `package:` stay, `~` becomes the user's home, `{target_language}` is left to the reader.
    """
    changes: dict[str, Any] = {"software": _software_at(folder, job.software)}
    if isinstance(job, Job):
        changes["data"] = _data_at(folder, job.data)
    return job.model_copy(update=changes)


def _data_at(folder: Path, data: Data) -> Data:
    if data.text is not None:
        files, exclude = _all_at(folder, data.text.files), _all_at(folder, data.text.exclude)
        data = data.model_copy(update={"text": data.text.model_copy(update={"files": files, "exclude": exclude})})
    if data.pairs is not None:
        paths = {
            "gettext": _all_at(folder, data.pairs.gettext),
            "source_file": data.pairs.source_file and _at(folder, data.pairs.source_file),
            "target_file": data.pairs.target_file and _at(folder, data.pairs.target_file),
        }
        data = data.model_copy(update={"pairs": data.pairs.model_copy(update=paths)})
    return data


def _software_at(folder: Path, software: SoftwareSpec) -> SoftwareSpec:
    """An image may be a name of a registry, so only a path that is there is one."""
    found = software.environment
    if found is None or not (folder / Path(found.path).expanduser()).exists():
        return software
    return software.model_copy(update={"environment": found.model_copy(update={"path": _at(folder, found.path)})})


def _all_at(folder: Path, paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_at(folder, path) for path in paths)


def _at(folder: Path, path: str) -> str:
    if path.startswith(("stdlib:", "package:")):
        return path
    return os.path.normpath(folder.absolute() / Path(path).expanduser())


def frozen_job(run: Run) -> Job:
    """The job of a run directory. Raises UserError for a run of another kind."""
    job = frozen_any_job(run)
    if not isinstance(job, Job):
        raise UserError(f"{run.root}: is no run of the pipeline, which this needs")
    return job


def frozen_any_job(run: Run) -> AnyJob:
    """The job of a run directory, whichever it is."""
    return any_job_in(run.resolved(), run)


def any_job_in(resolved: Mapping[str, Any], run: Run) -> AnyJob:
    """The same, of what its resolved.json says."""
    data = resolved["job"]
    return source.frozen(data, kind_of(data), str(run.resolved_json))


def load_any_job(path: Path) -> AnyJob:
    """Read a job file of whichever kind. Raises SourceError with all of its mistakes."""
    document = yaml_text.read(source.read_text(path), str(path))
    return source.whole(source.examine(document, kind_of(document.data), str(path)))


def kind_of_file(path: Path) -> type[AnyJob]:
    """Which kind of job a file holds, as far as it can be read."""
    try:
        return kind_of(yaml_text.read(source.read_text(path), str(path)).data)
    except SourceError:
        return Job


def kind_of(data: Any) -> type[AnyJob]:
    """Which kind of job data are: each has a key that no other has. A training where nothing else is said."""
    keys = set(data) if isinstance(data, dict) else set()
    if "command" in keys:
        return CommandJob
    if "probe" in keys:
        return ProbeJob
    return StagesJob if "stages" in keys and not keys & {"data", "model", "train"} else Job
