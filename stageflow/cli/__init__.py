"""The command line ``stageflow``."""

from stageflow.cli.app import completion_script, main, make_parser

__all__ = ["completion_script", "main", "make_parser"]
