"""Which GPUs a process sees, by the driver's files and the variables, on a made-up node."""

from pathlib import Path

import pytest

from hpcllm.parallel.gpus import amd_gpus, chosen, gpus_here, nvidia_gpus

CARDS = ("GPU-aa11", "GPU-bb22", "GPU-cc33")


@pytest.mark.parametrize(
    ("variable", "named"),
    [
        (None, CARDS),
        ("0,1,2", CARDS),
        ("2,0", ("GPU-cc33", "GPU-aa11")),
        ("GPU-bb", ("GPU-bb22",)),  # the beginning of a UUID is enough
        ("1,7,0", ("GPU-bb22",)),  # ends at the first that there is not
        ("MIG-5f,MIG-60", ("MIG-5f", "MIG-60")),
        ("", ()),
        ("-1", ()),
    ],
)
def test_a_variable_chooses_by_number_or_uuid(variable, named):
    assert chosen(CARDS, variable) == named


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Two GPUs of NVIDIA, the second of which this process may not open, and two of AMD beside a CPU."""
    for address, uuid, minor in (("0000:3b:00.0", "GPU-aa11", 0), ("0000:5e:00.0", "GPU-bb22", 1)):
        folder = tmp_path / "nvidia" / address
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t Some GPU\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n")
    for number, (simds, minor, unique) in enumerate(((0, 0, 0), (440, 128, 0xAB), (440, 129, 0xCD))):
        folder = tmp_path / "kfd" / str(number)
        folder.mkdir(parents=True)
        (folder / "properties").write_text(f"simd_count {simds}\ndrm_render_minor {minor}\nunique_id {unique}\n")
    (tmp_path / "dev/dri").mkdir(parents=True)
    for device in ("nvidia0", "dri/renderD128", "dri/renderD129"):
        (tmp_path / "dev" / device).touch()
    return tmp_path


def test_of_nvidia_those_that_it_may_open(node: Path):
    assert nvidia_gpus({}, node / "nvidia", node / "dev") == ("GPU-aa11",)
    assert nvidia_gpus({"CUDA_VISIBLE_DEVICES": "1"}, node / "nvidia", node / "dev") == ()


def test_of_amd_by_two_variables_one_after_the_other(node: Path):
    def seen(**variables: str) -> tuple[str, ...]:
        return amd_gpus(variables, node / "kfd", node / "dev")

    assert seen() == ("GPU-ab", "GPU-cd")
    assert seen(ROCR_VISIBLE_DEVICES="1") == ("GPU-cd",)
    assert seen(ROCR_VISIBLE_DEVICES="1", HIP_VISIBLE_DEVICES="0") == ("GPU-cd",)


def test_a_machine_without_a_driver_has_none(tmp_path: Path):
    assert nvidia_gpus({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path, tmp_path) == ()
    assert isinstance(gpus_here({}), tuple)
