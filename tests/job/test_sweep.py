"""A grid over the keys of a job file."""

from pathlib import Path

import pytest
from test_spec import GOOD

from hpcllm.errors import SourceError, UserError
from hpcllm.job.sweep import points

ROWS = "name: mine\nstages:\n  - {name: a, command: [sleep, '1']}\n"


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return path

    return written


def test_every_combination_is_a_job_named_by_it(write):
    found = points(write(GOOD + "sweep:\n  train.optimizer.learning_rate: [1e-3, 3e-4]\n  model.layers: [1, 3]\n"))

    assert [(point.job.train.optimizer.learning_rate, point.job.model.layers) for point in found] == [
        *((1e-3, 1), (1e-3, 3), (3e-4, 1), (3e-4, 3)),
    ]
    assert found[1].job.name == "small learning_rate=0.001 layers=3"
    assert found[1].job.sweep == {}


def test_keys_that_end_alike_are_shown_whole(write):
    (point,) = points(write(GOOD + "sweep: {data.split.validation: [1%], environment.validation: ['x']}\n"))

    assert point.label == "data.split.validation=1% environment.validation=x"


def test_a_variable_and_a_stage_by_its_name_are_swept_too(write):
    found = points(write(ROWS + "sweep: {environment.RATE: ['1', '2'], stages.a.nodes: [2]}\n"))

    assert [(point.job.environment["RATE"], point.job.stages[0].nodes) for point in found] == [("1", 2), ("2", 2)]


def test_a_job_without_a_sweep_has_no_points(write):
    assert points(write(GOOD)) == ()


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("{model.layers: [2, two]}", "sweep: with layers=two:.*model.layers: found 'two'; expected a whole number"),
        ("{model.layres: [2]}", "model.layres: unknown key; did you mean layers"),
        ("{name.x: [2]}", "sweep.name.x: found no map at name"),
        (f"{{train.seed: {list(range(10_001))}}}", "found 10001 combinations; at most 10000"),
    ],
)
def test_a_wrong_combination_is_named(write, sweep: str, said: str):
    with pytest.raises(UserError, match=f"(?s){said}"):
        points(write(GOOD + f"sweep: {sweep}\n"))


@pytest.mark.parametrize(("sweep", "said"), [("{model.layers: 2}", "sweep"), ("{model.layers: []}", "found no value")])
def test_values_are_a_list(write, sweep: str, said: str):
    with pytest.raises(SourceError, match=said):
        points(write(GOOD + f"sweep: {sweep}\n"))
