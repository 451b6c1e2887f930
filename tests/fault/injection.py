"""Fault injection for the tests of this folder, from the kit that ships in the package."""

from stageflow.testing import FaultType, inject_fault

__all__ = ["FaultType", "inject_fault"]
