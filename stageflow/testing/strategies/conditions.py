"""Faults, conditions of a simulation, and real runs in virtual time."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from stageflow._utils.extras import needs_extra
from stageflow.engine import Pipeline, PipelineContext, RunResult
from stageflow.events.log import Event
from stageflow.testing.faults import FaultInjector, FaultPlan, FaultType, PlannedFault
from stageflow.testing.faults.injector import OF_PORTS
from stageflow.testing.simulation import EPOCH_S, Scenario, Schedule, SimulationLoop, run_in
from stageflow.testing.strategies.definitions import Draw, chosen_from, stage_specs

with needs_extra("testing"):
    from hypothesis import strategies as st

_DURATIONS_MS = st.sampled_from([0, 1, 500, 3_000, 60_000])
_OPTIONS: dict[FaultType, dict[str, st.SearchStrategy[Any]]] = {
    FaultType.TIMEOUT: {"duration_ms": _DURATIONS_MS},
    FaultType.SLOW: {"duration_ms": _DURATIONS_MS},
    FaultType.ERROR: {"status_code": st.sampled_from([503, 500, 429, 400, 401])},
    FaultType.RATE_LIMITED: {"retry_after_s": st.sampled_from([None, 0, 1, 30])},
    FaultType.STALL: {"after_pieces": st.integers(0, 2)},
    FaultType.CUT: {"after_pieces": st.integers(0, 2)},
    FaultType.DISCONNECT: {"after_call": st.booleans()},
}


def fault_plans(
    *, providers: Iterable[str] = tuple(OF_PORTS), max_size: int = 3
) -> st.SearchStrategy[FaultPlan]:
    """Some faults that fit their providers; shrinks to none.

    Args:
        providers: The names under which providers are registered. ``llm``, ``stt``, ``tts``,
            ``db`` and ``speaker`` get the faults that fit these ports, any other name all faults.
        max_size: How many faults at most.
    """
    known = chosen_from(providers, "providers")
    if not known:
        return st.just(FaultPlan())
    faults = st.lists(st.sampled_from(known).flatmap(_faults), max_size=max_size)
    return faults.map(lambda drawn: FaultPlan(tuple(drawn)))


@st.composite
def _faults(draw: Draw, provider: str) -> PlannedFault:
    kinds = list(OF_PORTS.get(provider, FaultInjector).kinds)
    kind = draw(st.sampled_from(kinds))
    options = draw(_options(provider, kind))
    if draw(st.booleans()):
        script = draw(st.lists(st.sampled_from(["fail", "ok"]), min_size=1, max_size=5))
        comes_and_goes = {"fault": str(kind), "script": ",".join(script), **options}
        return PlannedFault(provider, FaultType.INTERMITTENT, comes_and_goes)
    return PlannedFault(provider, kind, options)


def _options(provider: str, kind: FaultType) -> st.SearchStrategy[dict[str, Any]]:
    if kind in (FaultType.EMPTY, FaultType.INVALID) and provider not in OF_PORTS:
        # Only the injectors of ports know what is empty or malformed.
        return st.fixed_dictionaries({"reply": st.sampled_from(["", "???"])})
    if kind is FaultType.ERROR and provider == "db":
        return st.just({})
    return st.fixed_dictionaries(_OPTIONS.get(kind, {}))


def scenarios(
    *, providers: Iterable[str] = (), max_steps: int | None = None
) -> st.SearchStrategy[Scenario]:
    """Conditions of a simulation; shrinks to few switches, no fault, no cancellation.

    Args:
        providers: The providers whose faults to draw; none by default.
        max_steps: The last callback at which `Simulation.interruptible` may be cancelled; None or
            0 for no cancellation.
    """
    return st.builds(
        Scenario,
        # Less is simpler: without a limit on switches a failure could not shrink to few of them.
        switches=st.integers(0, 200),
        seed=st.integers(0, 9_999),
        faults=fault_plans(providers=providers),
        cancel_at_step=st.none() | st.integers(1, max_steps) if max_steps else st.none(),
    )


@dataclasses.dataclass(frozen=True)
class RecordedRun(Sequence[Event]):
    """The events of a run, with its pipeline and its result."""

    pipeline: Pipeline
    result: RunResult

    @property
    def events(self) -> tuple[Event, ...]:
        """The events, in order."""
        return self.result.events

    def __len__(self) -> int:
        return len(self.result.log)

    def __getitem__(self, index: Any) -> Any:
        return self.events[index]


@st.composite
def event_sequences(draw: Draw) -> RecordedRun:
    """Runs in virtual time and in drawn orders, of stages that sleep, fail, skip or time out."""
    endings = draw(st.sampled_from([("ok",), ("ok", "ok", "ok", "raise", "fail", "skip")]))
    pipeline = Pipeline("drawn", draw(stage_specs(max_size=6, endings=endings)))
    deadline_s = draw(st.sampled_from([None, None, 0.5, 3.5]))
    ctx = PipelineContext(
        deadline_s=deadline_s, seed=draw(st.integers(0, 9_999)), wall_clock=lambda: EPOCH_S
    )
    loop = SimulationLoop(Schedule(draw(st.none() | st.integers(0, 9_999)), order="any"))
    return RecordedRun(pipeline, run_in(loop, pipeline.run(ctx)))


def events() -> st.SearchStrategy[tuple[Event, ...]]:
    """The events of `event_sequences`."""
    return event_sequences().map(lambda run: run.events)
