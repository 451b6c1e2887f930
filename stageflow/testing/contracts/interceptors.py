"""The contract of an interceptor: that a stage behind it keeps its own contract."""

import asyncio
from collections.abc import Sequence
from typing import Any

from stageflow.engine import (
    Interceptor,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
)
from stageflow.testing.contracts.loops import LoopContract
from stageflow.testing.contracts.probes import CancellationProbe
from stageflow.testing.invariants import check_run
from stageflow.testing.scripted import ScriptedStage
from stageflow.testing.simulation import EPOCH_S, Schedule


class InterceptorContractTest(LoopContract):
    """The contract of an interceptor, or of several in a row; each test makes new ones.

    The tests run in simulated time; ``real_io = True`` runs them on a real loop, for an interceptor
    that does real I/O (see `LoopContract` for the limits of that).
    """

    def make_interceptors(self) -> Sequence[Interceptor]:
        """Return what is under test, the outermost first, configured to let everything pass."""
        raise self._unwritten("make_interceptors")

    def test_what_completes_completes(self) -> None:
        """With the stage's outputs."""
        self._ends_as_without(ScriptedStage(("k",), self._pauses_s, "ok"))

    def test_what_does_not_suspend_completes(self) -> None:
        """Also a stage that never gives the loop its turn."""
        self._ends_as_without(ScriptedStage(("k",)))

    def test_what_raises_fails_alike(self) -> None:
        """With the same code and text."""
        self._ends_as_without(ScriptedStage(("k",), self._pauses_s, "raise"))

    def test_what_fails_fails_alike(self) -> None:
        """Also a failure that the stage returns."""
        self._ends_as_without(ScriptedStage(("k",), (), "fail"))

    def test_what_is_skipped_is_skipped(self) -> None:
        """For the stage's own reason."""
        self._ends_as_without(ScriptedStage((), self._pauses_s, "skip"))

    def test_a_cancellation_passes(self) -> None:
        """Wherever: the run is cancelled, its events are sound, and nothing is left behind."""
        seen: set[RunStatus] = set()

        async def attempt(probe: CancellationProbe) -> None:
            seen.add(await self._cancelled(probe))

        self._cancel_everywhere(attempt)
        assert RunStatus.CANCELLED in seen, "no cancellation reached the stage"

    def test_runs_at_once_do_not_mix(self) -> None:
        """In any order, each ends with what is its own."""
        for seed in range(20):
            ends = self._run(self._many(5), Schedule(seed))
            assert ends == list(range(5)), f"runs 0 to 4 ended with {ends}"

    def test_an_instance_serves_many_runs(self) -> None:
        """One after another, each as the first."""
        pipeline = _pipeline(ScriptedStage(("k",), self._pauses_s, "ok"))
        interceptors = self.make_interceptors()

        async def main() -> list[Any]:
            return [await self._told(pipeline, interceptors) for _ in range(6)]

        first, *others = self._run(main())
        assert others == [first] * 5, f"the first run ended as {first}, the others as {others}"

    @property
    def _pauses_s(self) -> tuple[float, ...]:
        return (0.001,) if self.real_io else (1.0,)

    async def _cancelled(self, probe: CancellationProbe) -> RunStatus:
        pipeline = _pipeline(ScriptedStage(("k",), (*self._pauses_s, 0.0), "ok"))
        orchestrator = PipelineOrchestrator(
            pipeline.build(), interceptors=[probe, *self.make_interceptors()]
        )
        context = PipelineContext(seed=1, wall_clock=lambda: EPOCH_S)
        task = asyncio.ensure_future(orchestrator.run(context))
        probe.aim(task)
        await asyncio.wait([task])
        if task.cancelled():
            assert context.status in ("created", "cancelled"), (
                f"the caller was cancelled, and the run {context.status}"
            )
        else:
            check_run(pipeline, task.result())
        assert not probe.swallowed, "a cancelled stage came back: let CancelledError pass"
        ends = [event.what for event in context.get_events() if event.stage]
        assert ends[-1:] != ["failed"], "a cancellation became a failure"
        return context.status

    async def _many(self, runs: int) -> list[Any]:
        async def echo(ctx: StageContext) -> StageOutput:
            number = ctx["number"]
            await asyncio.sleep(self._pauses_s[0])
            return StageOutput.ok(k=number)

        spec = StageSpec("s", echo, inputs=("number",), outputs=("k",))
        graph = Pipeline("p", [spec], inputs=["number"]).build()
        orchestrator = PipelineOrchestrator(graph, interceptors=self.make_interceptors())
        contexts = [PipelineContext({"number": number}) for number in range(runs)]
        results = await asyncio.gather(*map(orchestrator.run, contexts))
        return [result.unwrap()["k"] for result in results]

    def _ends_as_without(self, runner: ScriptedStage) -> None:
        pipeline = _pipeline(runner)
        without = self._run(self._told(pipeline, ()))
        within = self._run(self._told(pipeline, self.make_interceptors()))
        assert within == without, f"ends as {within}, and without it as {without}"

    async def _told(self, pipeline: Pipeline, interceptors: Sequence[Interceptor]) -> Any:
        orchestrator = PipelineOrchestrator(pipeline.build(), interceptors=list(interceptors))
        context = PipelineContext(seed=1, wall_clock=lambda: EPOCH_S)
        result = await orchestrator.run(context)
        check_run(pipeline, result)
        stage = result.stages["s"]
        detail = dict(stage.detail)
        if self.real_io:
            del detail["duration_ms"]  # the machine's, and another one each time
        return result.status, result.outputs, stage.status, detail, result.error


def _pipeline(runner: ScriptedStage) -> Pipeline:
    spec = StageSpec("s", runner, outputs=runner.outputs, provider="llm", timeout_s=100.0)
    return Pipeline("p", [spec])
