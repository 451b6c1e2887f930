"""Faults for any provider, by the name under which it is registered.

Three lines put a provider of your own in trouble::

    with inject_fault("llm", FaultType.TIMEOUT, duration_ms=5000) as llm:
        result = await pipeline.run(ctx)
        assert llm.injected == 1
"""

from stageflow.testing.faults.errors import InjectedDatabaseError, InjectedHTTPError
from stageflow.testing.faults.injector import (
    DbFaultInjector,
    FaultInjector,
    FaultType,
    LlmFaultInjector,
    SpeakerFaultInjector,
    SttFaultInjector,
    TtsFaultInjector,
    inject_fault,
)
from stageflow.testing.faults.plan import FaultPlan, PlannedFault

__all__ = [
    "DbFaultInjector",
    "FaultInjector",
    "FaultPlan",
    "FaultType",
    "InjectedDatabaseError",
    "InjectedHTTPError",
    "LlmFaultInjector",
    "PlannedFault",
    "SpeakerFaultInjector",
    "SttFaultInjector",
    "TtsFaultInjector",
    "inject_fault",
]
