"""The event log against a list, and the dispatcher that is fed from it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stageflow.events import EventLog
from tests.property.strategies import context_keys, context_values, stage_names

pytestmark = pytest.mark.untraced

STARTED_AT_S = 50.0
WALL_S = 1_000_000.0


class LogAgainstList(RuleBasedStateMachine):
    """For any appends and reads, the log equals a numbered list."""

    def __init__(self) -> None:
        super().__init__()
        self.log = EventLog("run", STARTED_AT_S, WALL_S)
        self.expected: list[tuple[str, str | None, float, dict[str, Any]]] = []
        self.now_s = STARTED_AT_S
        self.seen: tuple[Any, ...] = ()

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0]))
    def pass_time(self, seconds: float) -> None:
        """The run's clock moves on."""
        self.now_s += seconds

    @rule(name=stage_names(), data=st.dictionaries(context_keys(), context_values(), max_size=2))
    def append_with_data(self, name: str, data: dict[str, Any]) -> None:
        """An event that says more."""
        self.log.append((f"stage.{name}.failed", self.now_s, name, data))
        self.expected.append((f"stage.{name}.failed", name, self.now_s, dict(data)))

    @rule(name=stage_names(), since_s=st.sampled_from([0.0, 0.25]))
    def append_completed(self, name: str, since_s: float) -> None:
        """A completed stage, kept as the time of its start."""
        self.log.append((f"stage.{name}.completed", self.now_s, name, self.now_s - since_s))
        self.expected.append(
            (f"stage.{name}.completed", name, self.now_s, {"duration_ms": since_s * 1000.0})
        )

    @rule()
    def append_bare(self) -> None:
        """An event of the run."""
        self.log.append(("pipeline.started", self.now_s, None, None))
        self.expected.append(("pipeline.started", None, self.now_s, {}))

    @rule()
    def read(self) -> None:
        """A snapshot stays as it was, whatever comes later."""
        self.seen = self.log.snapshot()

    @invariant()
    def it_is_the_list(self) -> None:
        """All of it, by every way of reading, and what was read before is its beginning."""
        events = self.log.snapshot()
        assert len(self.log) == len(self.expected)
        assert [e.sequence for e in events] == list(range(1, len(self.expected) + 1))
        found = [(e.type, e.stage, dict(e.data)) for e in events]
        assert found == [(kind, stage, data) for kind, stage, _, data in self.expected]
        for event, (_, _, at_s, _) in zip(events, self.expected, strict=True):
            assert event.offset_ms == (at_s - STARTED_AT_S) * 1000.0
            assert event.timestamp.timestamp() == WALL_S + (at_s - STARTED_AT_S)
            assert event.pipeline_run_id == "run"
        assert tuple(self.log) == events
        assert tuple(self.log.event_at(n) for n in range(len(events))) == events
        assert events[: len(self.seen)] == self.seen


TestLogAgainstList = LogAgainstList.TestCase
