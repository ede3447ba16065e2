"""The shape of the project: which folder may import which, and what the login half never loads."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hpcllm
from hpcllm.launch.pipeline import ADMIN, PIPELINE

PACKAGE = Path(hpcllm.__file__).parent

# docs/architecture.md, "Reading order". A name imports only from itself and from names before it; the files of the
# top, in the first row, import each other only.
ORDER = [
    {"__init__", "errors", "units", "names", "yaml_text", "mistakes", "source", "schema", "run_directory", "progress"},
    *({name} for name in ("cluster", "job", "plan", "derive", "launch", "report")),
    *({name} for name in ("parallel", "data", "model", "train", "evaluate", "deploy", "stages")),
    {"cli", "__main__"},
]
LOGIN_HALF = {name for row in ORDER[:7] for name in row}
HEAVY = ("torch", "mpi4py", "h5py")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def owner(module: str) -> str:
    """The folder (or top-level file) of hpcllm that a dotted name belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def place(name: str) -> int:
    return next(i for i, row in enumerate(ORDER) if name in row)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "hpcllm" else {node.module}
            )
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "hpcllm"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_folder_imports_only_from_folders_above_it(path):
    relative = path.relative_to(PACKAGE)
    own = relative.parts[0].removesuffix(".py")
    if own in ("cli", "__main__"):
        return
    for module in imports(path):
        target = owner(module)
        if (PACKAGE / f"{target}.py").exists() or (PACKAGE / target).is_dir():
            assert place(target) <= place(own), f"{relative} imports {module}, which stands below it"
        else:
            assert target == "__version__", f"{relative} imports {module}, which does not exist"


def test_nobody_imports_a_stage_program():
    importers = [path for path in modules() if any(m.startswith("hpcllm.stages.") for m in imports(path))]
    assert importers == []


def test_the_login_half_loads_no_torch_mpi4py_or_h5py():
    names = [
        info.name
        for info in pkgutil.walk_packages([str(PACKAGE)], "hpcllm.")
        if owner(info.name) in LOGIN_HALF | {"cli"} and not info.ispkg
    ]
    script = f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\nprint(*sorted(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert "hpcllm.cli" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_every_row_of_the_pipeline_names_a_program_and_every_program_is_used():
    programs = {row.program for row in (*PIPELINE, *ADMIN)}
    for program in programs:
        module, function = program.split(":")
        assert callable(getattr(importlib.import_module(module), function))
    files = {f"hpcllm.stages.{path.stem}:main" for path in (PACKAGE / "stages").glob("*.py") if path.stem != "__init__"}
    assert files == programs


def test_a_stage_comes_only_after_stages_before_it():
    seen: set[str] = set()
    for row in (*PIPELINE, *ADMIN):
        assert set(row.after) <= seen, row.name
        seen.add(row.name)
