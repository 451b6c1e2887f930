"""Run the pulse commands as ``python -m stageflow.pulse``."""

import sys

from stageflow.pulse.cli import main

sys.exit(main())
