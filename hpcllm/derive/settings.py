"""Everything that a script needs to know of the site, for one stage."""

from __future__ import annotations

import shlex
import sys

from hpcllm.cluster.profile import Profile
from hpcllm.cluster.software import Software
from hpcllm.cluster.user import NOBODY, User
from hpcllm.derive.directives import directives
from hpcllm.derive.environment import environment
from hpcllm.derive.launcher import launcher
from hpcllm.derive.setting import Layout, Settings
from hpcllm.derive.striping import striping
from hpcllm.job.spec import AnyJob

THIS_PYTHON = "this"


def settings(
    profile: Profile,
    job: AnyJob,
    layout: Layout,
    user: User = NOBODY,
    python: str = sys.executable,
) -> Settings:
    """Derive a stage's settings. `python` is the interpreter that renders, for a profile whose python is `this`.

    Raises UserError when the site wants an account and nobody gave one.
    """
    return Settings(
        layout=layout,
        directives=directives(profile, job, layout, user),
        environment=environment(profile, job, layout),
        launcher=launcher(profile, layout),
        software=software_lines(profile.software, profile.node_type(layout.partition).modules),
        python=python if profile.software.python == THIS_PYTHON else profile.software.python,
        prepare=striping(profile, job),
    )


def software_lines(software: Software, of_node: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Shell lines: the modules from a clean slate, the node type's first; then the site's own, which are code."""
    modules = (*of_node, *software.modules)
    purge = ("module purge",) if modules and software.purge else ()
    use = tuple(f"module use {shlex.quote(folder)}" for folder in software.module_paths)
    load = (f"module load {shlex.join(modules)}",) if modules else ()
    return (*purge, *use, *load, *software.setup)
