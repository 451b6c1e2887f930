"""The base of this repository's contract tests: the one that the package ships."""

from stageflow.testing import StageCase, StageContractTest

__all__ = ["StageCase", "StageContractTest"]
