"""Everything that a script needs to know of the site, for one stage."""

from __future__ import annotations

import shlex
import sys

from hpcllm.cluster.profile import Profile
from hpcllm.cluster.user import NOBODY, User
from hpcllm.derive.directives import directives
from hpcllm.derive.environment import environment
from hpcllm.derive.launcher import launcher
from hpcllm.derive.setting import SETUP, Layout, Setting, Settings
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

    Raises UserError as `directives` does.
    """
    return Settings(
        layout=layout,
        directives=directives(profile, job, layout, user),
        environment=environment(profile, job, layout),
        launcher=launcher(profile, layout),
        software=software_lines(profile, layout.partition),
        python=python if profile.software.python == THIS_PYTHON else profile.software.python,
        prepare=striping(profile, job),
    )


def software_lines(profile: Profile, partition: str | None) -> tuple[Setting, ...]:
    """Shell lines: the modules from a clean slate, the node type's first; then the site's own, which are code."""
    software, at = profile.software, f"nodes.{profile.node_type_name(partition)}.modules"
    of_node = profile.node_type(partition).modules
    modules = (*of_node, *software.modules)
    lines = []
    if modules and software.purge:
        lines.append(Setting("purge", "module purge", "software.purge", "from a clean slate"))
    for folder in software.module_paths:
        lines.append(Setting("use", f"module use {shlex.quote(folder)}", "software.module_paths", "more modules"))
    if modules:
        key, reason = (at, "these first, then software.modules") if of_node else ("software.modules", "in this order")
        lines.append(Setting("load", f"module load {shlex.join(modules)}", key, reason))
    own = [Setting("setup", line, SETUP, "the site's own lines") for line in software.setup]
    return (*lines, *own)
