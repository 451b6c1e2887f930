"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add ``--repository``: the clone that a command works on."""
    parser.add_argument(
        "--repository",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="the clone with asv.conf.json (default: the current folder)",
    )
