"""Answers that know their customer: a first pipeline, to be replaced by yours."""

from newproject.turn import APOLOGY, turn

__all__ = ["APOLOGY", "turn"]

__version__ = "0.1.0"
