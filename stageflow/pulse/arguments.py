"""Options that several commands of pulse have."""

from __future__ import annotations

import argparse
from pathlib import Path

from stageflow._utils.arguments import option
from stageflow.telemetry import place


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add ``--repository``: the clone that a command works on."""
    text = "the clone with asv.conf.json (default: the current folder)"
    option(parser, "--repository FOLDER", text, type=Path, default=Path())


def add_store(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--store``: the telemetry that a command reads."""
    text = f"{what}: a SQLite file, or postgresql://user@host/database"
    option(parser, "--store STORE", text, type=place)
