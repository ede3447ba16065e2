"""Ends with 0 where the Python that runs it can run preflight. A script asks it of a program's own environment:

python -P RUN/env/code/hpcllm/parallel/can_check.py     older ones than 3.11, which cannot, know no -P
"""

import sys
from importlib.util import find_spec

NEEDED = ("torch", "numpy", "pydantic", "yaml", "rich")


def main() -> int:
    """The exit code. Raises what mpi4py raises where there is no MPI to load."""
    import mpi4py

    mpi4py.rc.initialize = False  # loaded is enough
    import mpi4py.MPI

    return int(not all(map(find_spec, NEEDED)))


if __name__ == "__main__":
    sys.exit(main())
