"""Workloads: pipelines as data, with everything that can go wrong in them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from hypothesis import strategies as st

from stageflow.testing.strategies.definitions import stage_names
from stageflow.testing.workloads import ENDINGS, Workload, WorkStage

_SECONDS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0])


#: How many steps back its dependencies are, how many keys it writes, how many streams it writes and
#: reads, and all else.
_Drawn = tuple[list[int], int, int, int, WorkStage]


@functools.cache
def _stages(streams: bool) -> st.SearchStrategy[_Drawn]:
    """Stages without streams, and with all kinds of trouble; or with streams, and less trouble."""
    trouble = 2 if streams else 1
    stage = st.builds(
        WorkStage,
        stage_names(),
        naps_s=st.lists(_SECONDS, max_size=2 // trouble).map(tuple),
        calls=st.sampled_from([0, 0, 0, 1] if streams else [0, 1, 1, 2]),
        ending=st.sampled_from([*["ok"] * 6 * trouble, *ENDINGS[1:], "stubborn", "transient"]),
        recovers_at=st.integers(0, 3),
        required=st.sampled_from([True, False]),
        runs=st.sampled_from([*[True] * 4 * trouble, False]),
        timeout_s=st.sampled_from([*[None] * 3 * trouble**2, 1.5, 4.0]),
        cleanup_s=st.sampled_from([0.0, 0.0, 0.25, 3.0]),
        **_streaming() if streams else {},
    )
    steps_back: st.SearchStrategy[list[int]] = st.lists(st.integers(0, 4), max_size=2, unique=True)
    if streams:
        steps_back = st.sampled_from([[], [0], [1], [0, 1], [0], [2, 0]])
    return st.tuples(
        steps_back,
        st.integers(0, 2),
        st.sampled_from([0, 1, 2, 1]) if streams else st.just(0),
        st.sampled_from([0, 1, 4, 4]) if streams else st.just(0),
        stage,
    )


def _streaming() -> dict[str, st.SearchStrategy[Any]]:
    return {
        "items": st.sampled_from([0, 5, 3, 5]),
        "capacity": st.sampled_from([16, 1, 2, 1]),
        "takes": st.sampled_from([None, 1, None, 2]),
        "leaves": st.sampled_from([False, False, True]),
    }


def workloads(*, max_size: int = 8, streams: bool = False) -> st.SearchStrategy[Workload]:
    """Workloads of few stages, some with retries, a breaker, timeouts and a deadline.

    Shrinks to one stage that does nothing, without any policy.

    Args:
        max_size: How many stages at most.
        streams: Whether stages stream to each other; fewer of them fail then, since a stream that
            nobody reads on shows little.
    """
    unlimited: list[float | None] = [None] * (8 if streams else 2)
    return st.builds(
        _workload,
        st.lists(_stages(streams), min_size=1, max_size=max_size),
        call_s=st.sampled_from([1.0, 0.0, 3.0]),
        deadline_s=st.sampled_from([*unlimited, 100.0, 6.0, 2.0]),
        attempts=st.sampled_from([1, 3, 2, 4]),
        failures=st.sampled_from([None, 1, 1, 2, 3]),
        cooldown_s=st.sampled_from([1.0, 0.25, 0.25, 30.0]),
        attempt_timeout_s=st.sampled_from([*unlimited, 1.25]),
    )


def _workload(drawn: list[tuple[list[int], int, int, int, WorkStage]], **policies: Any) -> Workload:
    stages: dict[str, WorkStage] = {}
    for steps_back, writes, streams, reads, stage in drawn:
        taken = list(stages)
        name = stage.name
        while name in stages:
            name += "_"
        dependencies = tuple(taken[-1 - n] for n in steps_back if n < len(taken))
        offered = [key for before in dependencies for key in stages[before].streams]
        stages[name] = dataclasses.replace(
            stage,
            name=name,
            dependencies=dependencies,
            outputs=tuple(f"{name}.{n}" for n in range(writes)),
            streams=tuple(f"{name}:{n}" for n in range(streams)),
            reads=tuple(offered[:reads]),
        )
    return Workload(tuple(stages.values()), **policies)
