"""Faults for any provider, by the name under which it is registered; see `inject_fault`."""

# ruff: noqa: F403, F405 - a type checker takes the list below

from stageflow.testing.faults.injector import *
from stageflow.testing.faults.kinds import *

__all__ = [
    "OF_PORTS",
    "DbFaultInjector",
    "FaultInjector",
    "FaultPlan",
    "FaultType",
    "InjectedDatabaseError",
    "InjectedHTTPError",
    "LlmFaultInjector",
    "PlannedFault",
    "SpeakerFaultInjector",
    "StreamFaultInjector",
    "SttFaultInjector",
    "ToolFaultInjector",
    "TtsFaultInjector",
    "inject_fault",
]
