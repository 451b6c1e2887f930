"""The random tester: the engine passes, a planted bug does not, and a number repeats its plan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest

from stageflow.dlq import DeadLetter
from stageflow.engine import ContextBag, StageContext, StreamReader, plan, run
from stageflow.engine.stepping import resume_in_context
from tools.random_test.command import Played, conditions, main, play, show, shrink
from tools.random_test.plans import Act, Plan, StagePlan, acts_of, smaller

#: How many plans may be needed to find a planted bug.
ENOUGH = 600
#: The first plans that find a bug that few find: those before them find nothing.
FIRST = {"lost_cancellation": 440}
#: In real time, a busy machine decides how long a play takes.
LOOPS = ("simulated", "virtual")

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log nothing: what stages are made to raise is logged, too."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def first_finding(runs: int, seed: int = 0) -> Played | None:
    """Return the first finding among so many plans."""
    for number in range(seed, seed + runs):
        finding = play(number, loops=LOOPS)
        if finding.texts:
            return finding
    return None


def test_the_engine_keeps_its_promises() -> None:
    """200 random plans find nothing."""
    finding = first_finding(200)
    assert finding is None, show(shrink(finding))


def two_ends(patch: pytest.MonkeyPatch) -> None:
    """Record the end of a skipped stage twice."""
    record = run.Run._record_end

    def twice(self: Any, node: Any, what: str, *rest: Any) -> None:
        for _ in range(2 if what == "skipped" else 1):
            record(self, node, what, *rest)

    patch.setattr(run.Run, "_record_end", twice)


def no_waiting(patch: pytest.MonkeyPatch) -> None:
    """Return from a run that stops as soon as one of its drivers has ended."""
    remove = run.Run._remove

    def early(self: Any, token: object) -> None:
        if self._stopping is None:
            remove(self, token)
        elif self._drivers:
            self._drivers = {token: None}
            remove(self, token)

    patch.setattr(run.Run, "_remove", early)


def lost_cancellation(patch: pytest.MonkeyPatch) -> None:
    """Go on although the caller was cancelled."""
    stop = run.Run._stop

    def deaf(self: Any, reason: str) -> None:
        if "cancelled" not in reason:
            stop(self, reason)

    patch.setattr(run.Run, "_stop", deaf)


def no_deadline(patch: pytest.MonkeyPatch) -> None:
    """Let the deadline pass."""
    patch.setattr(run.Run, "_pass_deadline", lambda self: None)


def siblings_go_on(patch: pytest.MonkeyPatch) -> None:
    """Cancel nobody when a required stage fails."""
    patch.setattr(run.Run, "_cancel_suspended", lambda self, *_: None)


def early_start(patch: pytest.MonkeyPatch) -> None:
    """Start a stage before the last of its dependencies has ended."""
    prepare = run.Run.__init__

    def impatient(self: Any, *arguments: Any, **options: Any) -> None:
        prepare(self, *arguments, **options)
        self._waiting = [max(1, count - 1) for count in self._waiting]

    patch.setattr(run.Run, "__init__", impatient)


def no_timeout(patch: pytest.MonkeyPatch) -> None:
    """Set no timer for a stage."""
    limit = StageContext.limit
    patch.setattr(StageContext, "limit", lambda self, _, call: limit(self, 1e9, call))


def lost_output(patch: pytest.MonkeyPatch) -> None:
    """Write all outputs of a stage but the last."""
    write = ContextBag.put_all

    def fewer(self: ContextBag, outputs: Any, writer: str) -> None:
        write(self, dict(list(outputs.items())[:-1]), writer)

    patch.setattr(ContextBag, "put_all", fewer)


def lost_item(patch: pytest.MonkeyPatch) -> None:
    """Skip the second item of each reader."""
    following = StreamReader.__anext__

    async def skipping(self: StreamReader) -> Any:
        item = await following(self)
        return await following(self) if self.position == 2 else item

    patch.setattr(StreamReader, "__anext__", skipping)


def nothing_finished(patch: pytest.MonkeyPatch) -> None:
    """Run all stages again in a replay."""
    patch.setattr(DeadLetter, "finished", property(lambda self: {}))


def lost_letter(patch: pytest.MonkeyPatch) -> None:
    """Leave no dead letter."""

    async def none(*_: object) -> None:
        pass

    patch.setattr(run.Run, "_capture", none)


def shared_variables(patch: pytest.MonkeyPatch) -> None:
    """Continue a stage in the context variables of its driver."""
    patch.setattr(
        run,
        "resume_in_context",
        lambda coroutine, _, *rest: resume_in_context(coroutine, copy_context(), *rest),
    )


def task_left(patch: pytest.MonkeyPatch) -> None:
    """Leave a task behind in each run."""
    conclude = run.Run._conclude

    def leaving(self: Any) -> Any:
        self.left = self._loop.create_task(asyncio.sleep(1e6))
        return conclude(self)

    patch.setattr(run.Run, "_conclude", leaving)


def needs_ignored(patch: pytest.MonkeyPatch) -> None:
    """Run a stage although an input without a default is absent."""
    make = plan.Node.__init__

    def needless(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        self.needs = ()

    patch.setattr(plan.Node, "__init__", needless)


def lost_parameters(patch: pytest.MonkeyPatch) -> None:
    """Call a stage without the values of its parameters."""
    arguments = StageContext.arguments

    def lost(self: StageContext, wanted: Any) -> list[Any]:
        first, *rest = arguments(self, wanted)
        return [first, *(None for _ in rest)]

    patch.setattr(StageContext, "arguments", lost)


PLANTS: list[Plant] = [
    two_ends, no_waiting, lost_cancellation, no_deadline, siblings_go_on, early_start, no_timeout,
    lost_output, lost_item, nothing_finished, lost_letter, shared_variables, task_left,
    needs_ignored, lost_parameters,
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_it_finds_a_planted_bug(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each planted bug is found within a few hundred plans."""
    plant(monkeypatch)
    assert first_finding(ENOUGH, FIRST.get(plant.__name__, 0)) is not None


def test_a_number_repeats_its_plan() -> None:
    """The same number draws the same plan and the same world, another one another."""
    drawn = [conditions(number, frozenset(), LOOPS) for number in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_finding_shrinks_to_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of a finding becomes one that has nothing to remove, and is shown with its seed."""
    lost_output(monkeypatch)
    finding = first_finding(ENOUGH)
    assert finding is not None
    small = shrink(finding, limit_s=600)
    assert len(small.plan.stages) == 1
    assert not small.plan.stages[0].body
    assert f"seed {finding.seed}" in show(small)
    assert "StagePlan(" in show(small)


def test_smaller_plans_keep_the_rest() -> None:
    """Without a stage, nobody depends on it; without an act, what it contained stays."""
    inner = Act("sleep", 1)
    first = StagePlan("first", outputs=("a",))
    second = StagePlan("second", (Act("catch", parts=((inner,),)),), dependencies=("first",))
    found = list(smaller(Plan((first, second))))
    assert any(plan.stages == (StagePlan("second", second.body),) for plan in found)
    assert any(list(acts_of(plan.stages[-1].body)) == [inner] for plan in found)


def test_the_command_counts_its_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """It says how many plans ran in which world, and ends with 0 if nothing was found."""
    assert main(["--runs", "3", "--jobs", "1", "--loops", "simulated"]) == 0
    assert "3 random pipelines" in capsys.readouterr().out
