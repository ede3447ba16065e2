"""Everything that a script needs to know of the site, for one stage."""

from __future__ import annotations

import platform
import sys

from hpcllm.cluster.profile import Profile
from hpcllm.cluster.user import NOBODY, User
from hpcllm.derive.directives import directives
from hpcllm.derive.environment import environment
from hpcllm.derive.launcher import launcher
from hpcllm.derive.setting import Layout, Settings
from hpcllm.derive.software import inside, python_of, site_python, software_lines
from hpcllm.derive.striping import striping
from hpcllm.job.spec import AnyJob


def settings(
    profile: Profile,
    job: AnyJob,
    layout: Layout,
    user: User = NOBODY,
    python: str = sys.executable,
    machine: str = platform.machine(),
) -> Settings:
    """Derive a stage's settings. `python` is the interpreter that renders, for a profile whose python is `this`, and
    `machine` the architecture that it was built for.

    Raises UserError as `directives` and `python_of` do.
    """
    interpreter, python_key = python_of(profile, job, layout, python, machine)
    beside = site_python(profile, job, layout, python, machine)
    return Settings(
        layout=layout,
        directives=directives(profile, job, layout, user),
        environment=environment(profile, job, layout),
        launcher=launcher(profile, layout),
        software=software_lines(profile, job, layout.partition, beside),
        python=interpreter,
        prepare=striping(profile, job),
        python_key=python_key,
        site_python=beside,
        inside=inside(profile, job, layout.partition),
    )
