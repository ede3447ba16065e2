"""A stage of one's own: any program at any place of the DAG, with everything around it derived."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from hpcllm.names import Argument
from hpcllm.source import FieldPath, Record
from hpcllm.units import Positive, Seconds

NO_PROGRAM = "found nothing; expected a program and its arguments, such as [python, train.py]"


def _stage_name(name: str) -> str:
    """It stands in names of files, and in variables of submit.sh."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"found {name!r}; expected small letters and digits with - between, such as clean-text")
    return name


class OwnStage(Record):
    """Any program as a stage: it runs when the stages before it are done."""

    name: Annotated[str, Field(max_length=40), AfterValidator(_stage_name)]
    """Of the stage, in the queue and in the names of its files."""
    command: tuple[Argument, ...]
    """The program and its arguments, as a list; it starts in the folder of the job file."""
    after: tuple[str, ...] = ()
    """Stages that must be done before it; left out, it begins at once."""
    before: tuple[str, ...] = ()
    """Stages that wait for it."""
    nodes: Positive | None = None
    """Nodes that its ranks are spread over; left out, the job's."""
    ranks_per_node: Positive | None = None
    """Ranks on each of them; left out, the job's, or the profile decides."""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """Left out, the job's, or all that the node has."""
    time_s: Seconds | None = None
    """Wall-clock limit; left out, the job's."""
    tf_config: bool = False
    """Whether its ranks find each other by TF_CONFIG, as TensorFlow's MultiWorkerMirroredStrategy wants it."""

    def contradictions(self) -> Iterable[tuple[FieldPath, str]]:
        """A command without a word."""
        if not self.command:
            yield ("command",), NO_PROGRAM


def doubled_or_unknown(stages: Sequence[OwnStage], others: Sequence[str]) -> Iterable[tuple[FieldPath, str]]:
    """Names that stand twice or are taken, and those that no stage has, by their path from the job."""
    names = [*others, *(stage.name for stage in stages)]
    for i, stage in enumerate(stages):
        if names.index(stage.name) != len(others) + i:
            yield ("stages", i, "name"), f"found {stage.name}; another stage of this job has that name"
        for field, meant in (("after", stage.after), ("before", stage.before)):
            for j, name in enumerate(meant):
                if name not in names or name == stage.name:
                    known = ", ".join(dict.fromkeys(other for other in names if other != stage.name)) or "no other"
                    yield ("stages", i, field, j), f"found {name}; expected a stage of this job: {known}"
