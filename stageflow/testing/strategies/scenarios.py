"""Faults, and the other conditions of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from stageflow.testing.faults import FaultInjector, FaultPlan, FaultType, PlannedFault
from stageflow.testing.faults.injector import OF_PORTS
from stageflow.testing.simulation import Scenario
from stageflow.testing.strategies.definitions import Draw

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


@st.composite
def fault_plans(
    draw: Draw, *, providers: Sequence[str] = tuple(OF_PORTS), max_size: int = 3
) -> FaultPlan:
    """Some faults that fit their providers; shrinks to none.

    Args:
        draw: From Hypothesis.
        providers: The names under which providers are registered. ``llm``, ``stt``, ``tts``,
            ``db`` and ``speaker`` get the faults that fit these ports, any other name all.
        max_size: How many faults at most.
    """
    names = draw(st.lists(st.sampled_from(providers), max_size=max_size))
    return FaultPlan(tuple(draw(_faults(name)) for name in names))


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
        # What is empty or malformed there, only the port's own injectors know.
        return st.fixed_dictionaries({"reply": st.sampled_from(["", "???"])})
    if kind is FaultType.ERROR and provider == "db":
        return st.just({})
    return st.fixed_dictionaries(_OPTIONS.get(kind, {}))


@st.composite
def scenarios(
    draw: Draw, *, providers: Sequence[str] = (), max_steps: int | None = None
) -> Scenario:
    """Conditions to simulate something under; shrinks to few switches, no fault, no cancellation.

    Args:
        draw: From Hypothesis.
        providers: Whose faults to draw; none by default.
        max_steps: Up to which callback `Simulation.interruptible` may be cancelled; None for no
            cancellation.
    """
    # Less is simpler: without a limit on switches a failure could not shrink to few of them.
    switches = draw(st.integers(0, 200))
    cancel = st.none() if max_steps is None else st.none() | st.integers(1, max_steps)
    return Scenario(
        seed=draw(st.integers(0, 9_999)),
        switches=switches,
        faults=draw(fault_plans(providers=providers)) if providers else FaultPlan(),
        cancel_at_step=draw(cancel),
    )
