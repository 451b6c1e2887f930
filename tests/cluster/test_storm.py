"""Every turn ends once, whatever dies meanwhile."""

from __future__ import annotations

import os

from tests.cluster.storm import storm

#: `make cluster-storm` sends 10,000.
TURNS = int(os.environ.get("STAGEFLOW_CLUSTER_TURNS", "600"))


async def test_every_turn_ends_once() -> None:
    """With workers killed, the broker crashed and the database stopped; some turns ran twice."""
    outcome = await storm(TURNS, workers=3, kills=4, seed=1)
    assert outcome.problems(TURNS) == []
    mishaps = {"workers killed": 5, "broker killed": 2, "database stopped": 1}
    assert outcome.events == mishaps
    # Without this, nothing of the above would have been at stake.
    assert any(end.deliveries > 1 for end in outcome.ends.values())
    assert len(outcome.again) == len(range(0, TURNS, 7))
