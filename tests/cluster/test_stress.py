"""Every job ends once, whatever dies meanwhile."""

from __future__ import annotations

import os

import pytest

from tools.cluster_stress_test import stress

pytestmark = pytest.mark.slow

#: `python -m tools.cluster_stress_test` sends 10,000.
JOBS = int(os.environ.get("STAGEFLOW_CLUSTER_JOBS", "600"))


@pytest.mark.untraced
async def test_every_turn_ends_once() -> None:
    """With workers killed, the broker crashed and the database stopped; some jobs ran twice."""
    outcome = await stress(JOBS, workers=3, kills=4, seed=1)
    assert outcome.problems(JOBS) == []
    mishaps = {"workers killed": 5, "broker killed": 2, "database stopped": 1}
    assert outcome.events == mishaps
    # Without this, nothing of the above would have been at stake.
    assert any(end.deliveries > 1 for end in outcome.ends.values())
    assert len(outcome.again) == len(range(0, JOBS, 7))
