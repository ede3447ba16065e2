"""The software of a stage: modules, then the site's own lines, then what its programs run in."""

from __future__ import annotations

import shlex

from hpcllm.cluster.nodes import NodeType
from hpcllm.cluster.profile import Profile
from hpcllm.cluster.software import SoftwareEnvironment
from hpcllm.derive.environment import is_amd
from hpcllm.derive.setting import SETUP, Container, Layout, Packed, Setting
from hpcllm.errors import UserError
from hpcllm.job.spec import AnyJob

THIS_PYTHON = "this"
PREFIXES = ("venv", "conda")  # a folder whose bin/ comes first on PATH
PYTHON_OF_IMAGES = "python3"
MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}  # as other systems than Linux call them
NODE_DISK = "${TMPDIR:-/tmp}"  # where a profile names no disk of the node's own

# What is given to these runtimes by the script itself; in a profile the bare words stand for "it takes this option".
_OURS = ("--container-image", "--container-env", "--container-workdir", "--environment")
_MOUNTS = "--container-mounts"


def environment_of(profile: Profile, job: AnyJob) -> tuple[SoftwareEnvironment | None, str]:
    """What the programs run in, and the key that says so: the job's own, else the profile's."""
    if job.software.environment:
        return job.software.environment, "job.software.environment"
    return profile.software.environment, "software.environment"


def python_of(profile: Profile, job: AnyJob, layout: Layout, python: str, machine: str) -> tuple[str, str]:
    """The interpreter on the compute nodes, and its key.

    Raises UserError where it would be the one that renders, built for another architecture than the nodes have.
    """
    environment, key = environment_of(profile, job)
    if environment:
        own = f"{environment.path}/bin/python" if environment.kind in PREFIXES else PYTHON_OF_IMAGES
        return environment.python or own, f"{key}.{'python' if environment.python else 'path'}"
    if profile.software.python != THIS_PYTHON:
        return profile.software.python, "software.python"
    node = profile.node_type(layout.partition)
    if _is_foreign(node, machine):
        raise UserError(
            f"software.python: `this` is the interpreter of this machine ({machine}), and "
            f"nodes.{profile.node_type_name(layout.partition)} are {node.architecture}; make an environment on one of "
            "these nodes and name it: --env PATH, or software.environment in the job or the profile"
        )
    return python, "software.python"


def site_python(profile: Profile, job: AnyJob, layout: Layout, python: str, machine: str) -> str:
    """What runs the script's own small programs on a node, beside an environment of the job's; empty without one."""
    environment, _ = environment_of(profile, job)
    if environment is None:
        return ""
    if profile.software.python != THIS_PYTHON:
        return profile.software.python
    return PYTHON_OF_IMAGES if _is_foreign(profile.node_type(layout.partition), machine) else python


def _is_foreign(node: NodeType, machine: str) -> bool:
    """Whether nodes are said to be of another architecture than this machine."""
    return "architecture" in node.model_fields_set and node.architecture != MACHINES.get(machine, machine)


def software_lines(profile: Profile, job: AnyJob, partition: str | None, site_python: str) -> tuple[Setting, ...]:
    """Shell lines: the modules from a clean slate; then the site's own, which are code; then a Python environment."""
    own = [Setting("setup", line, SETUP, "the site's own lines") for line in profile.software.setup]
    return (*_modules(profile, job, partition), *own, *_activation(*environment_of(profile, job), site_python))


def inside(profile: Profile, job: AnyJob, partition: str | None) -> Container | Packed | None:
    """The image that ranks run in, or the environment to unpack on each node."""
    environment, key = environment_of(profile, job)
    if environment is None or environment.kind in PREFIXES:
        return None
    if environment.kind == "packed":
        scratch = profile.node_type(partition).local_scratch
        return Packed(environment.path, scratch.path if scratch else NODE_DISK, key)
    options, mounts = _options(profile, environment, partition)
    return Container(environment.kind, environment.path, options, (*environment.mounts, *mounts), key)


def _modules(profile: Profile, job: AnyJob, partition: str | None) -> list[Setting]:
    """The node type's first, then the site's, the container runtime's, and the job's."""
    software, lines = profile.software, list[Setting]()
    of_node = profile.node_type(partition).modules
    modules = (*of_node, *software.modules, *_runtime(profile, job), *job.software.modules)
    if modules and software.purge:
        ours = "" if "purge" in software.model_fields_set else "; ours, where the profile is silent"
        lines.append(Setting("purge", "module purge", "software.purge", f"from a clean slate{ours}"))
    for folder in software.module_paths:
        lines.append(Setting("use", f"module use {shlex.quote(folder)}", "software.module_paths", "more modules"))
    if modules:
        at = f"nodes.{profile.node_type_name(partition)}.modules"
        key, reason = (at, "these first, then software.modules") if of_node else ("software.modules", "in this order")
        also = "; the job's own last" if job.software.modules else ""
        lines.append(Setting("load", f"module load {shlex.join(modules)}", key, reason + also))
    return lines


def _runtime(profile: Profile, job: AnyJob) -> tuple[str, ...]:
    """Modules of the container runtime that the job uses."""
    environment, _ = environment_of(profile, job)
    found = [c for c in profile.software.containers if environment and c.runtime == environment.kind]
    return found[0].modules if found else ()


def _activation(environment: SoftwareEnvironment | None, key: str, site_python: str) -> list[Setting]:
    if environment is None:
        return []
    python = shlex.quote(site_python)  # its whole path, before another one is the first
    own = f"SITE_PYTHON=$(command -v {python} || echo {python})"
    lines = [Setting("site python", own, "software.python", "for this script's own use")]
    if environment.kind not in PREFIXES:
        return lines
    prefix, name = shlex.quote(environment.path), "VIRTUAL_ENV" if environment.kind == "venv" else "CONDA_PREFIX"
    path = f"export {name}={prefix} PATH={prefix}/bin:$PATH"
    lines.append(Setting("path", path, f"{key}.path", "its python is the first"))
    if environment.kind == "conda":  # what `conda activate` does beside, without a conda on the nodes
        hooks = f'for hook in {prefix}/etc/conda/activate.d/*.sh; do [[ ! -e $hook ]] || source "$hook"; done'
        lines.append(Setting("hooks", hooks, f"{key}.path", "what its packages set"))
    return lines


def _options(
    profile: Profile, environment: SoftwareEnvironment, partition: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Options of the runtime as the site wants them, else what lets the image see the GPUs; and the site's mounts."""
    found = [c for c in profile.software.containers if c.runtime == environment.kind]
    if not found or not found[0].options:
        gpus = profile.node_type(partition).gpus if environment.kind in ("apptainer", "singularity") else None
        return ((("--rocm" if is_amd(gpus.model) else "--nv",) if gpus else ()), ())
    options = [option for option in found[0].options if option.split("=")[0] not in (*_OURS, _MOUNTS)]
    mounts = [option.partition("=")[2] for option in found[0].options if option.startswith(f"{_MOUNTS}=")]
    return tuple(options), tuple(path for listed in mounts for path in listed.split(","))
