"""Which of the checkpoints that are kept: the last, the best, or several along the training."""

from __future__ import annotations

from collections.abc import Sequence

from hpcllm.job.spec import Job
from hpcllm.run_directory import Run, read_jsonl


def steps(run: Run) -> list[int]:
    """The steps of which a checkpoint is there, the newest first. Temporary names do not count."""
    names = (path.name.removeprefix("step-") for path in run.checkpoints.glob("step-*"))
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def chosen(run: Run, job: Job) -> list[int]:
    """The steps whose checkpoints the job wants to be evaluated; the first of them is the trained model.

    Fewer than asked for where fewer are kept. Several are spread over those that are kept, the last first.
    """
    last = int(run.latest.read_text(encoding="utf-8").strip().removeprefix("step-"))
    kept = [last, *(step for step in steps(run) if step < last)]
    if job.evaluate.checkpoints == "best":
        return [best(run, kept)]
    count = min(job.num_evaluated, len(kept))
    return [kept[round(i * (len(kept) - 1) / max(1, count - 1))] for i in range(count)]


def best(run: Run, of: Sequence[int]) -> int:
    """The one of these steps with the lowest loss on the validation part, of equal ones the later.

    A step at which nobody looked counts as the last look before it did, behind a step that was looked at; without any
    look the last step is the best.
    """
    losses = {line["step"]: line["loss"] for line in read_jsonl(run.metrics_jsonl("validation"))}

    def rank(step: int) -> tuple[float, int, int]:
        seen = max((at for at in losses if at <= step), default=None)
        return (float("inf"), 0, -step) if seen is None else (float(losses[seen]), step - seen, -step)

    return min(of, key=rank)
