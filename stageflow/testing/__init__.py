"""The test kit: contracts, faults, recordings, simulation, and strategies for Hypothesis."""

# ruff: noqa: F403 - a type checker takes the lists of the packages below

from typing import TYPE_CHECKING

from stageflow._utils.lazy import lazy_names

_NAMES = """
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
    simulation: EPOCH_S DeadlockError Exploration Host LeftBehindError LivelockError Network
    simulation: NetworkPlan Outcome PropertyError RealIOError Scenario Schedule Simulation
    simulation: SimulationError SimulationLoop Token TokenError explore replay run_in simulate
    simulation: simulate_pipeline
    scripted: ScriptedError ScriptedStage do_nothing
"""

if TYPE_CHECKING:
    from stageflow.testing.contracts import *
    from stageflow.testing.faults import *
    from stageflow.testing.invariants import *
    from stageflow.testing.recording import *
    from stageflow.testing.scripted import *
    from stageflow.testing.simulation import *
else:
    # A type checker sees the names above.
    _in_order = sorted(_NAMES.split(), key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    __all__ = [name for name in _in_order if name[-1] != ":"]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
