"""Faults for any provider, by the name under which it is registered; see `inject_fault`."""

from stageflow.testing.faults.injector import (
    OF_PORTS,
    DbFaultInjector,
    FaultInjector,
    FaultPlan,
    LlmFaultInjector,
    PlannedFault,
    SpeakerFaultInjector,
    SttFaultInjector,
    ToolFaultInjector,
    TtsFaultInjector,
    inject_fault,
)
from stageflow.testing.faults.kinds import (
    FaultType,
    InjectedDatabaseError,
    InjectedHTTPError,
    StreamFaultInjector,
)

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
