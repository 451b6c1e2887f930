"""The test kit: contracts, faults, recordings, simulation, and strategies for Hypothesis."""

# ruff: noqa: F403, F405 - a type checker takes the lists of the packages below

from typing import TYPE_CHECKING

from stageflow._utils.lazy import lazy_names

if TYPE_CHECKING:
    from stageflow.testing.contracts import *
    from stageflow.testing.faults import *
    from stageflow.testing.invariants import check_events, check_run
    from stageflow.testing.recording import *
    from stageflow.testing.scripted import ScriptedError, ScriptedStage, do_nothing
    from stageflow.testing.simulation import *

__all__ = [
    "EPOCH_S",
    "Contract",
    "ContractOverrideError",
    "DatabaseContractTest",
    "DbFaultInjector",
    "DeadlockError",
    "Exploration",
    "FaultInjector",
    "FaultPlan",
    "FaultType",
    "FoundStage",
    "InjectedDatabaseError",
    "InjectedHTTPError",
    "InterceptorContractTest",
    "LeftBehindError",
    "LivelockError",
    "LlmContractTest",
    "LlmFaultInjector",
    "LoopContract",
    "Outcome",
    "PlannedFault",
    "ProviderContractTest",
    "RealIOError",
    "RecordedTurn",
    "Recorder",
    "RecordingError",
    "RecordingMismatchError",
    "Scenario",
    "Schedule",
    "ScriptedError",
    "ScriptedStage",
    "Simulation",
    "SimulationError",
    "SimulationLoop",
    "SinkContractTest",
    "SpeakerContractTest",
    "SpeakerFaultInjector",
    "StageCase",
    "StageContractTest",
    "StoreContractTest",
    "StreamFaultInjector",
    "SttContractTest",
    "SttFaultInjector",
    "Token",
    "TokenError",
    "ToolContractTest",
    "ToolFaultInjector",
    "TtsContractTest",
    "TtsFaultInjector",
    "check_events",
    "check_run",
    "do_nothing",
    "explore",
    "get_all_stages",
    "inject_fault",
    "overrides_contract",
    "recorded",
    "replay",
    "run_in",
    "simulate",
    "simulate_pipeline",
    "skip_contract_tests",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    """
    contracts: Contract ContractOverrideError DatabaseContractTest FoundStage
    contracts: InterceptorContractTest LlmContractTest LoopContract ProviderContractTest
    contracts: SinkContractTest SpeakerContractTest StageCase StageContractTest
    contracts: StoreContractTest SttContractTest ToolContractTest
    contracts: TtsContractTest get_all_stages overrides_contract skip_contract_tests
    faults: DbFaultInjector FaultInjector FaultPlan FaultType InjectedDatabaseError
    faults: InjectedHTTPError LlmFaultInjector PlannedFault SpeakerFaultInjector
    faults: StreamFaultInjector SttFaultInjector ToolFaultInjector
    faults: TtsFaultInjector inject_fault
    invariants: check_events check_run
    recording: RecordedTurn Recorder RecordingError RecordingMismatchError recorded
    simulation: EPOCH_S DeadlockError Exploration LeftBehindError LivelockError Outcome RealIOError
    simulation: Scenario Schedule Simulation SimulationError SimulationLoop Token TokenError explore
    simulation: replay run_in simulate simulate_pipeline
    scripted: ScriptedError ScriptedStage do_nothing
    """,
)
