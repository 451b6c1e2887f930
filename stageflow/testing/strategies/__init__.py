"""Hypothesis strategies for everything that a pipeline is made of.

All that is drawn comes from Hypothesis, ids and times included: a failure replays, and shrinks.
"""

import dataclasses
import functools
import string
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any, TypeAlias

from stageflow._utils.extras import needs_extra
from stageflow.engine import ContextBag, Pipeline, PipelineContext, RunResult, StageSpec
from stageflow.events.log import Event
from stageflow.testing.faults import FaultInjector, FaultPlan, FaultType, PlannedFault
from stageflow.testing.faults.injector import OF_PORTS
from stageflow.testing.scripted import ScriptedStage, do_nothing, never
from stageflow.testing.simulation import EPOCH_S, Scenario, Schedule, SimulationLoop, run_in

with needs_extra("testing"):
    from hypothesis import strategies as st
    from hypothesis.errors import InvalidArgument

__all__ = [
    "RecordedRun",
    "context_bags",
    "context_keys",
    "context_values",
    "dependencies",
    "event_sequences",
    "events",
    "fault_plans",
    "pipelines",
    "scenarios",
    "stage_names",
    "stage_specs",
]

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]

_HEAD = string.ascii_letters + string.digits + "_"


@functools.cache  # a strategy is costly to make, and this one is drawn from a hundred times a test
def stage_names() -> st.SearchStrategy[str]:
    """Valid names of stages."""
    tails = st.text(_HEAD + "-", max_size=6)
    return st.builds(str.__add__, st.sampled_from(_HEAD), tails)


def chosen_from(given: Iterable[str], parameter: str) -> tuple[str, ...]:
    """Return what a strategy chooses from, in the same order in each process."""
    if isinstance(given, str):
        raise InvalidArgument(f"{parameter}={given!r} is one string: give a list of strings")
    return tuple(sorted(given) if isinstance(given, Set) else given)


def dependencies(candidates: Iterable[str] | None = None) -> st.SearchStrategy[tuple[str, ...]]:
    """Some of `candidates`, none twice; shrinks to none.

    Args:
        candidates: The names to choose from; any names of stages if left out.
    """
    if candidates is None:
        return st.lists(stage_names(), unique=True, max_size=4).map(tuple)
    known = list(dict.fromkeys(chosen_from(candidates, "candidates")))
    if not known:
        return st.just(())
    return st.lists(st.sampled_from(known), unique=True, max_size=min(4, len(known))).map(tuple)


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A stage before its dependencies are known; one object, so that it shrinks as one."""

    name: str
    #: Others depend on its group, so removing a stage changes nothing for the others.
    group: int
    follows: tuple[int, ...]  # it depends on the latest stage of each of these groups
    reads: tuple[int, ...]  # positions of outputs, among those that it can reach
    writes: int
    pauses_s: tuple[float, ...]
    ending: str
    rank: int  # its place among the specs
    names_all: bool = True  # its dependencies, also where it reads one of their outputs
    required: bool = True
    condition: Callable[[object], bool] | None = None
    timeout_s: float | None = None


#: Few enough that a stage often finds one that it follows.
_GROUPS = 3
_PLAIN = _Drawn("a", 0, (), (), 0, (), "ok", 0)


def _picks(most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, most), max_size=2, unique=True).map(tuple)


@functools.cache
def _drawn(endings: tuple[str, ...]) -> st.SearchStrategy[_Drawn]:
    limits: dict[str, st.SearchStrategy[Any]] = {
        "required": st.sampled_from([True, False]),
        "condition": st.sampled_from([None, None, None, never]),
        "timeout_s": st.sampled_from([None, 1.5, 100.0]),
    }

    def whole() -> st.SearchStrategy[_Drawn]:
        return st.builds(
            _Drawn,
            stage_names(),
            group=st.integers(0, _GROUPS - 1),
            follows=_picks(_GROUPS - 1),
            reads=_picks(6),
            writes=st.integers(0, 2),
            pauses_s=st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0]), max_size=2).map(tuple),
            ending=st.sampled_from(endings),
            rank=st.integers(0, 20),
            names_all=st.booleans(),
            **(limits if endings != ("ok",) else {}),
        )

    # Hypothesis cuts out of a list only what was drawn in few choices: a stage that does not matter
    # becomes a plain one first. Of equal branches it would see one, so each is made by itself.
    return st.one_of(st.just(_PLAIN), whole(), whole(), whole(), whole())


def stage_specs(
    *, min_size: int = 1, max_size: int = 10, endings: Sequence[str] = ("ok",)
) -> st.SearchStrategy[list[StageSpec]]:
    """The specs of a closed, acyclic pipeline, in any order; shrinks to few stages.

    Each depends on some of those drawn before it, and reads some outputs of its ancestors.

    Args:
        min_size: How many stages at least.
        max_size: How many stages at most.
        endings: As in `ScriptedStage`; anything but "ok" also makes some stages optional,
            conditional or limited in time.
    """
    known = chosen_from(endings, "endings")
    if not known or not set(known) <= {"ok", "raise", "fail", "skip"}:
        raise InvalidArgument(f"endings={known}: give 'ok', 'raise', 'fail' or 'skip'")
    drawn = st.lists(_drawn(known), min_size=min_size, max_size=max_size)
    return drawn.map(_placed)


def _placed(drawn: Sequence[_Drawn]) -> list[StageSpec]:
    specs: list[StageSpec] = []
    readable: dict[str, tuple[str, ...]] = {}
    made: dict[str, tuple[str, ...]] = {}
    latest: dict[int, str] = {}
    for one in drawn:
        name = one.name
        while name in readable:
            name += "_"
        before = tuple(latest[group] for group in one.follows if group in latest)
        latest[one.group] = name
        inherited = tuple(dict.fromkeys(key for other in before for key in readable[other]))
        outputs = tuple(f"{name}.{n}" for n in range(one.writes))
        readable[name] = (*inherited, *outputs)
        inputs = tuple(inherited[n] for n in one.reads if n < len(inherited))
        if not one.names_all:
            before = tuple(b for b in before if not any(key in made[b] for key in inputs))
        made[name] = outputs
        runner = ScriptedStage(outputs, one.pauses_s, one.ending)
        limits: Any = {n: getattr(one, n) for n in ("required", "condition", "timeout_s")}
        specs.append(StageSpec(name, runner, before, inputs=inputs, outputs=outputs, **limits))
    return [specs[n] for n in sorted(range(len(specs)), key=lambda n: drawn[n].rank)]


@st.composite
def pipelines(draw: Draw, *, max_size: int = 8) -> Pipeline:
    """Closed, acyclic pipelines that do nothing and can be composed, over few names."""
    letters = string.ascii_lowercase[:max_size]
    chosen = set(draw(st.sets(st.sampled_from(letters)))) if letters else set()
    # What a stage depends on is fixed by its name, and comes with it.
    universe = {x: tuple(letters[:n][-2:]) if n % 3 else () for n, x in enumerate(letters)}
    while missing := {d for name in chosen for d in universe[name]} - chosen:
        chosen |= missing
    order = draw(st.permutations(sorted(chosen)))
    specs = [StageSpec(x, do_nothing, universe[x], outputs=(f"{x}.out",)) for x in order]
    return Pipeline(draw(stage_names()), specs, inputs=draw(dependencies(["x", "y", "z"])))


@functools.cache
def context_keys() -> st.SearchStrategy[str]:
    """Any string is a key."""
    return st.text(max_size=8)


@functools.cache
def context_values() -> st.SearchStrategy[Any]:
    """Values that can be written as JSON."""
    floats = st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        st.none() | st.booleans() | st.integers() | floats | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )


@st.composite
def context_bags(draw: Draw) -> ContextBag:
    """Bags into which some writers have written."""
    bag = ContextBag()
    for key, value in draw(st.dictionaries(context_keys(), context_values(), max_size=6)).items():
        bag.put(key, value, draw(stage_names()))
    return bag


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
    kind = draw(st.sampled_from(list(OF_PORTS.get(provider, FaultInjector).kinds)))
    known = {} if provider == "db" and kind is FaultType.ERROR else _OPTIONS.get(kind, {})
    if kind in (FaultType.EMPTY, FaultType.INVALID) and provider not in OF_PORTS:
        # Only the injectors of ports know what is empty or malformed.
        known = {"reply": st.sampled_from(["", "???"])}
    options = draw(st.fixed_dictionaries(known))
    if draw(st.booleans()):
        script = draw(st.lists(st.sampled_from(["fail", "ok"]), min_size=1, max_size=5))
        comes_and_goes = {"fault": str(kind), "script": ",".join(script), **options}
        return PlannedFault(provider, FaultType.INTERMITTENT, comes_and_goes)
    return PlannedFault(provider, kind, options)


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
    seed = draw(st.integers(0, 9_999))
    ctx = PipelineContext(deadline_s=deadline_s, seed=seed, wall_clock=lambda: EPOCH_S)
    loop = SimulationLoop(Schedule(draw(st.none() | st.integers(0, 9_999)), order="any"))
    return RecordedRun(pipeline, run_in(loop, pipeline.run(ctx)))


def events() -> st.SearchStrategy[tuple[Event, ...]]:
    """The events of `event_sequences`."""
    return event_sequences().map(lambda run: run.events)
