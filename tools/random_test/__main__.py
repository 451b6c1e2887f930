"""Run ``python -m tools.random_test``."""

import sys

from tools.random_test.command import main

sys.exit(main(sys.argv[1:]))
