"""Runs that have been, and their events."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from stageflow.context import PipelineContext
from stageflow.events import Event
from stageflow.pipeline import Pipeline
from stageflow.result import RunResult
from stageflow.testing.simulation import EPOCH_S, Schedule, SimulationLoop, run_in
from stageflow.testing.strategies.definitions import Draw, stage_specs


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """A run that has been, of a pipeline that was drawn.

    Attributes:
        pipeline: What ran.
        result: How it ended.
    """

    pipeline: Pipeline
    result: RunResult

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened, in order."""
        return self.result.events


@st.composite
def event_sequences(draw: Draw) -> RecordedRun:
    """Real runs in virtual time: stages that sleep, fail, are skipped, time out or may fail.

    The order of whatever is ready at the same moment is drawn as well.
    """
    endings = draw(st.sampled_from([("ok",), ("ok", "ok", "ok", "raise", "fail", "skip")]))
    pipeline = Pipeline("drawn", draw(stage_specs(max_size=6, endings=endings)))
    deadline_s = draw(st.sampled_from([None, None, 0.5, 3.5]))
    ctx = PipelineContext(
        deadline_s=deadline_s, seed=draw(st.integers(0, 9_999)), wall_clock=lambda: EPOCH_S
    )
    loop = SimulationLoop(draw(st.builds(Schedule, st.none() | st.integers(0, 9_999))))
    return RecordedRun(pipeline, run_in(loop, pipeline.run(ctx)))


def events() -> st.SearchStrategy[tuple[Event, ...]]:
    """The events of real runs, in order."""
    return event_sequences().map(lambda run: run.events)
