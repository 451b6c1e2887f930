"""Fault injection under the name that the specification gives it; the kit ships in the package."""

from stageflow.testing.faults import FaultType, inject_fault

__all__ = ["FaultType", "inject_fault"]
