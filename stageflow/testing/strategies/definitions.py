"""Names, specs and pipelines that are valid."""

from __future__ import annotations

import dataclasses
import functools
import string
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from hypothesis import strategies as st

from stageflow.pipeline import Pipeline
from stageflow.stage import StageSpec
from stageflow.testing.scripted import ScriptedStage, do_nothing

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]

_HEAD = string.ascii_letters + string.digits + "_"


@functools.cache  # a strategy is costly to make, and this one is drawn from a hundred times a test
def stage_names() -> st.SearchStrategy[str]:
    """Valid names of stages."""
    tails = st.text(_HEAD + "-", max_size=6)
    return st.builds(str.__add__, st.sampled_from(_HEAD), tails)


def dependencies(candidates: Sequence[str]) -> st.SearchStrategy[tuple[str, ...]]:
    """Some of `candidates`, none twice; shrinks to none.

    Args:
        candidates: The names to choose from.
    """
    if not candidates:
        return st.just(())
    some = st.lists(st.sampled_from(candidates), unique=True, max_size=min(4, len(candidates)))
    return some.map(tuple)


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A stage before it is known what stands before it; in one piece, so that it shrinks as one.

    Attributes:
        name: Its name, if no other has it.
        group: What others know it by. Neither a name nor a position: leaving a stage out then
            changes nothing for the others.
        follows: On which groups it depends: on the latest stage of each that stands before it.
        reads: Which of the outputs that it can reach it reads, by their order.
        writes: How many outputs it has.
        pauses_s: As `ScriptedStage` has it, as is the ending.
        ending: How it ends.
        rank: Where it stands among the specs.
        required: As `StageSpec` has it, as are the others.
    """

    name: str
    group: int
    follows: tuple[int, ...]
    reads: tuple[int, ...]
    writes: int
    pauses_s: tuple[float, ...]
    ending: str
    rank: int
    required: bool = True
    condition: Callable[[object], bool] | None = None
    timeout_s: float | None = None


#: Few enough that a stage often finds one that it follows.
_GROUPS = 3

_PLAIN = _Drawn("a", 0, (), (), 0, (), "ok", 0)


def _picks(most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, most), max_size=2, unique=True).map(tuple)


def _never(ctx: object) -> bool:
    return False


@functools.cache
def _drawn(endings: tuple[str, ...]) -> st.SearchStrategy[_Drawn]:
    limits: dict[str, st.SearchStrategy[Any]] = {}
    if endings != ("ok",):
        limits = {
            "required": st.sampled_from([True, False]),
            "condition": st.sampled_from([None, None, None, _never]),
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
            **limits,
        )

    # Hypothesis cuts out of the middle of a list only what was drawn in very few choices; a stage
    # that does not matter becomes a plain one first, which is a single choice. Of equal branches
    # it would see one, so each is made by itself.
    return st.one_of(st.just(_PLAIN), whole(), whole(), whole(), whole())


def stage_specs(
    *, min_size: int = 1, max_size: int = 10, endings: Sequence[str] = ("ok",)
) -> st.SearchStrategy[list[StageSpec]]:
    """The specs of a closed, acyclic pipeline, in any order; shrinks to few stages.

    Each depends on some that were drawn before it, and reads some outputs of its ancestors.

    Args:
        min_size: How many stages at least.
        max_size: How many stages at most.
        endings: How stages may end, as `ScriptedStage` has it; anything but "ok" also makes some
            of them optional, conditional or limited in time.
    """
    drawn = st.lists(_drawn(tuple(endings)), min_size=min_size, max_size=max_size)
    return drawn.map(_placed)


def _placed(drawn: Sequence[_Drawn]) -> list[StageSpec]:
    """Specs of what was drawn; what it would depend on and is not there is left out."""
    specs: list[StageSpec] = []
    readable: dict[str, tuple[str, ...]] = {}
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
        specs.append(
            StageSpec(
                name,
                ScriptedStage(outputs, one.pauses_s, one.ending),
                before,
                inputs=tuple(inherited[n] for n in one.reads if n < len(inherited)),
                outputs=outputs,
                required=one.required,
                condition=one.condition,
                timeout_s=one.timeout_s,
            )
        )
    ranked = sorted(zip(drawn, specs, strict=True), key=lambda pair: pair[0].rank)
    return [spec for _, spec in ranked]


@st.composite
def pipelines(draw: Draw, *, max_size: int = 8) -> Pipeline:
    """Closed, acyclic pipelines that do nothing, over few names, so that two of them overlap.

    A stage depends on stages of earlier letters only, and a name always means the same stage,
    so any number of them can be composed.

    Args:
        draw: From Hypothesis.
        max_size: How many stages at most.
    """
    letters = string.ascii_lowercase[:max_size]
    chosen = draw(st.sets(st.sampled_from(letters), max_size=max_size))
    # What a stage depends on is fixed by its name, and comes with it.
    universe = {x: tuple(letters[:n][-2:]) if n % 3 else () for n, x in enumerate(letters)}
    while missing := {d for name in chosen for d in universe[name]} - chosen:
        chosen |= missing
    order = draw(st.permutations(sorted(chosen)))
    specs = [StageSpec(x, do_nothing, universe[x], outputs=(f"{x}.out",)) for x in order]
    return Pipeline(draw(stage_names()), specs, inputs=draw(dependencies(["x", "y", "z"])))


@st.composite
def open_pipelines(draw: Draw) -> Pipeline:
    """Pipelines whose dependencies may be missing, and that may conflict with one another.

    Each is sound in itself. Composed, two of them may define a stage differently, close a cycle,
    or produce the same output.
    """
    letters = draw(st.permutations("abcde"))
    names = letters[: draw(st.integers(0, 4))]
    keys = ["k", "l", "m"]
    free = draw(st.permutations(keys))
    specs = []
    for position, name in enumerate(names):
        # Earlier ones here, or ones that are not here: no cycle within this pipeline.
        candidates = [*names[:position], *letters[len(names) :]]
        outputs = tuple(free.pop() for _ in range(draw(st.integers(0, 1))) if free)
        before = draw(dependencies(candidates))
        specs.append(StageSpec(name, do_nothing, before, outputs=outputs))
    return Pipeline(
        draw(st.sampled_from(["p", "q"])), specs, inputs=draw(dependencies(sorted(free)))
    )


@st.composite
def pipeline_pairs(draw: Draw) -> tuple[Pipeline, Pipeline]:
    """Two open pipelines that together are closed, and compose without conflict.

    The stages of one closed pipeline, each given to one of the two, or to both.
    """
    specs = draw(stage_specs(max_size=8))
    shares = draw(st.lists(st.sampled_from("lrb"), min_size=len(specs), max_size=len(specs)))
    left = [spec for spec, share in zip(specs, shares, strict=True) if share in "lb"]
    right = [spec for spec, share in zip(specs, shares, strict=True) if share in "rb"]
    return Pipeline("left", left), Pipeline("right", right)
