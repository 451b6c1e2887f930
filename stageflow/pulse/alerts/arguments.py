"""Arguments that several commands around alerts have."""

from __future__ import annotations

import argparse
from pathlib import Path

from stageflow.pulse.alerts.rules import ALERTS_FILE


def add_rules(parser: argparse.ArgumentParser) -> None:
    """Add ``--rules``: the file of rules that a command works with."""
    parser.add_argument(
        "--rules",
        type=Path,
        default=Path("benchmarks") / ALERTS_FILE,
        metavar="FILE",
        help="the rules, with budgets.toml beside them (default: %(default)s)",
    )
