"""The strategies of this repository's property tests: those that the package ships."""

from stageflow.testing.strategies import *  # noqa: F403
from stageflow.testing.strategies import __all__ as __all__  # noqa: PLC0414
