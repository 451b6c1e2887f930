"""Workloads: pipelines as data, with everything that can go wrong in them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from hypothesis import strategies as st

from stageflow.testing.strategies.definitions import stage_names
from stageflow.testing.workloads import ENDINGS, Workload, WorkStage

_SECONDS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0])


@functools.cache
def _stages() -> st.SearchStrategy[tuple[list[int], int, WorkStage]]:
    """How many steps back its dependencies are, how many keys it writes, and all else."""
    stage = st.builds(
        WorkStage,
        stage_names(),
        naps_s=st.lists(_SECONDS, max_size=2).map(tuple),
        calls=st.sampled_from([0, 1, 1, 2]),
        ending=st.sampled_from([*["ok"] * 6, *ENDINGS[1:], "stubborn", "transient"]),
        recovers_at=st.integers(0, 3),
        required=st.sampled_from([True, False]),
        runs=st.sampled_from([True, True, True, True, False]),
        timeout_s=st.sampled_from([None, None, None, 1.5, 4.0]),
        cleanup_s=st.sampled_from([0.0, 0.0, 0.25, 3.0]),
    )
    return st.tuples(st.lists(st.integers(0, 4), max_size=2, unique=True), st.integers(0, 2), stage)


def workloads(*, max_size: int = 8) -> st.SearchStrategy[Workload]:
    """Workloads of few stages, some with retries, a breaker, timeouts and a deadline.

    Shrinks to one stage that does nothing, without any policy.

    Args:
        max_size: How many stages at most.
    """
    return st.builds(
        _workload,
        st.lists(_stages(), min_size=1, max_size=max_size),
        call_s=st.sampled_from([1.0, 0.0, 3.0]),
        deadline_s=st.sampled_from([None, None, 100.0, 6.0, 2.0]),
        attempts=st.sampled_from([1, 3, 2, 4]),
        failures=st.sampled_from([None, 1, 1, 2, 3]),
        cooldown_s=st.sampled_from([1.0, 0.25, 0.25, 30.0]),
        attempt_timeout_s=st.sampled_from([None, None, 1.25]),
    )


def _workload(drawn: list[tuple[list[int], int, WorkStage]], **policies: Any) -> Workload:
    stages: list[WorkStage] = []
    for steps_back, writes, stage in drawn:
        taken = [one.name for one in stages]
        name = stage.name
        while name in taken:
            name += "_"
        stages.append(
            dataclasses.replace(
                stage,
                name=name,
                dependencies=tuple(taken[-1 - n] for n in steps_back if n < len(taken)),
                outputs=tuple(f"{name}.{n}" for n in range(writes)),
            )
        )
    return Workload(tuple(stages), **policies)
