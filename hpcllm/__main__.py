"""`python -m hpcllm` is `hpcllm`."""

import sys

from hpcllm.cli import main

sys.exit(main())
