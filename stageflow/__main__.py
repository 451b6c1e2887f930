"""Run the command as ``python -m stageflow``."""

import sys

from stageflow.cli import main

sys.exit(main())
