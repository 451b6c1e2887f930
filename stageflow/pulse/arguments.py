"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from pathlib import Path

from stageflow.telemetry.place import place


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add ``--repository``: the clone that a command works on."""
    parser.add_argument(
        "--repository",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="the clone with asv.conf.json (default: the current folder)",
    )


def add_store(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--store``: the telemetry that a command looks at."""
    parser.add_argument(
        "--store",
        type=place,
        metavar="STORE",
        help=f"{what}: a SQLite file, or postgresql://user@host/database",
    )
