"""The command ``stageflow``: run a pipeline, draw it, draw what happened, look at the pulse."""

from stageflow.cli.app import main

__all__ = ["main"]
