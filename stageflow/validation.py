"""Everything that can be wrong with a pipeline's definition, found all at once."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import FunctionType
from typing import Any

from stageflow.durations import is_duration
from stageflow.errors import (
    CycleError,
    DefinitionError,
    DuplicateOutputError,
    DuplicateStageError,
    InvalidConfigError,
    InvalidDeclarationError,
    InvalidNameError,
    InvalidRunnerError,
    InvalidSpecError,
    InvalidTimeoutError,
    MissingProducerError,
    OutputIsStreamError,
    SelfDependencyError,
    UnknownDependencyError,
)
from stageflow.graph import StageGraph
from stageflow.stage import StageKind, StageSpec

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_CO_COROUTINE = inspect.CO_COROUTINE
_CO_VARARGS = inspect.CO_VARARGS
#: How many problems come with a suggestion.
_HINTS = 20
#: How many producers are looked up in one pass over the graph; bounds the memory of a pass to
#: 512 bytes a stage.
_BATCH = 4096


def check_header(name: object, specs: object, inputs: object) -> None:
    """Refuse what makes no pipeline at all.

    Raises:
        InvalidConfigError: The name is no text, or the specs or inputs are no list.
    """
    if not isinstance(name, str) or not name:
        raise InvalidConfigError("Pipeline", "name", name, "give a text")
    owner = f"pipeline {name!r}"
    if isinstance(specs, str) or not isinstance(specs, Iterable):
        raise InvalidConfigError(owner, "specs", specs, "give a list of StageSpecs")
    if not isinstance(inputs, list | tuple) or not all(isinstance(key, str) for key in inputs):
        raise InvalidConfigError(owner, "inputs", inputs, "give a list of names")
    if len(set(inputs)) < len(inputs):
        raise InvalidConfigError(owner, "inputs", inputs, "name each input once")


def readable(specs: Sequence[object]) -> list[StageSpec]:
    """The specs that can stand in a graph, whatever else may be wrong with them."""
    return [
        spec
        for spec in specs
        if isinstance(spec, StageSpec)
        and all(
            isinstance(names, tuple) and all(isinstance(name, str) for name in names)
            for names in (
                (spec.name,),
                spec.dependencies,
                spec.inputs,
                spec.outputs,
                spec.streams,
            )
        )
    ]


def spec_problems(pipeline: str, specs: Sequence[object]) -> list[DefinitionError]:
    """What is wrong with single stages, and with their names taken together."""
    problems: list[DefinitionError] = []
    sound: list[StageSpec] = []
    for spec in specs:
        if not isinstance(spec, StageSpec):
            problems.append(InvalidSpecError(pipeline, spec))
        else:
            sound.append(spec)
            problems.extend(_own_problems(pipeline, spec))
    counts = Counter(spec.name for spec in sound if isinstance(spec.name, str))
    problems.extend(
        DuplicateStageError(pipeline, name, count) for name, count in counts.items() if count > 1
    )
    return problems


def _own_problems(pipeline: str, spec: StageSpec) -> Iterator[DefinitionError]:
    name = spec.name
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        yield InvalidNameError(pipeline, name)
    unfit = _runner_problem(pipeline, spec)
    if unfit is not None:
        yield unfit
    timeout_s = spec.timeout_s
    if timeout_s is not None and not is_duration(timeout_s):
        yield InvalidTimeoutError(pipeline, name, timeout_s)
    if not _is_condition(spec.condition):
        yield InvalidDeclarationError(
            pipeline, name, "condition", spec.condition, "give a plain function of the StageContext"
        )
    yield from _manner_problems(pipeline, spec)
    if spec.dependencies != ():
        yield from _declaration_problems(pipeline, name, "dependencies", spec.dependencies)
        if isinstance(spec.dependencies, tuple) and name in spec.dependencies:
            yield SelfDependencyError(pipeline, name)
    if spec.inputs != ():
        yield from _declaration_problems(pipeline, name, "inputs", spec.inputs)
    if spec.outputs != ():
        yield from _declaration_problems(pipeline, name, "outputs", spec.outputs)
    if spec.streams != ():
        yield from _declaration_problems(pipeline, name, "streams", spec.streams)


def _manner_problems(pipeline: str, spec: StageSpec) -> Iterator[DefinitionError]:
    given: Any = spec  # whatever the types say
    required, kind, provider = given.required, given.kind, given.provider
    if type(required) is not bool:
        yield InvalidDeclarationError(
            pipeline, spec.name, "required", required, "give True or False"
        )
    if type(kind) is not StageKind:
        mend = f"give a StageKind: {', '.join(f'StageKind.{kind.name}' for kind in StageKind)}"
        yield InvalidDeclarationError(pipeline, spec.name, "kind", kind, mend)
    if provider is not None and not (isinstance(provider, str) and provider):
        yield InvalidDeclarationError(
            pipeline, spec.name, "provider", provider, "name the provider, such as 'llm'"
        )


def _runner_problem(pipeline: str, spec: StageSpec) -> InvalidRunnerError | None:
    function = spec.execute
    if isinstance(spec.runner, type) or not _is_async(function):
        return InvalidRunnerError(pipeline, spec.name, spec.runner)
    if not _takes_one(function):
        problem = "is called with the StageContext alone; write 'async def …(ctx)'"
        return InvalidRunnerError(pipeline, spec.name, spec.runner, problem)
    return None


def _is_async(function: object) -> bool:
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & _CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - its kind is asked, not whether it is there
    )


def _takes_one(function: object) -> bool:
    """Whether a function can be called with one argument, as far as its code tells."""
    code = getattr(function, "__code__", None)
    if code is None:
        return True
    if code.co_argcount == 1 and not code.co_kwonlyargcount and type(function) is FunctionType:
        return True  # nearly all are like this, and what follows costs a tenth of a build
    taken = code.co_argcount - hasattr(function, "__self__")
    defaults = len(getattr(function, "__defaults__", None) or ())
    named = code.co_kwonlyargcount - len(getattr(function, "__kwdefaults__", None) or ())
    return taken - defaults <= 1 <= taken + bool(code.co_flags & _CO_VARARGS) and not named


def _is_condition(condition: object) -> bool:
    # What an async function returns is a coroutine, and that counts as true.
    return condition is None or (callable(condition) and not _is_async(condition))


def _declaration_problems(
    pipeline: str, stage: str, field: str, names: object
) -> Iterator[DefinitionError]:
    if not isinstance(names, tuple):
        yield InvalidDeclarationError(pipeline, stage, field, names, "give a list of names")
        return
    for name in names:
        if not isinstance(name, str):
            mend = f"write {name.name!r}" if isinstance(name, StageSpec) else "names are strings"
            yield InvalidDeclarationError(pipeline, stage, field, name, mend)
    if len(names) > 1:
        for name, count in Counter(filter(lambda n: isinstance(n, str), names)).items():
            if count > 1:
                yield InvalidDeclarationError(
                    pipeline, stage, field, name, f"it stands there {count} times; once is enough"
                )


def lasting_problems(graph: StageGraph) -> list[DefinitionError]:
    """What no further composition can mend: cycles, and keys with two producers."""
    problems: list[DefinitionError] = []
    if graph.has_cycles():
        # A stage that depends on itself is reported as just that.
        problems.extend(CycleError(graph.name, path) for path in graph.cycles() if len(path) > 2)
    producers: dict[str, str] = dict.fromkeys(graph.inputs, "the run's input")
    for spec in graph.specs:
        for key in spec.outputs + spec.streams:
            if key not in producers:
                producers[key] = f"stage {spec.name!r}"
            elif key in spec.outputs and key in spec.streams:
                problems.append(OutputIsStreamError(graph.name, spec.name, key))
            else:
                problems.append(DuplicateOutputError(graph.name, spec.name, key, producers[key]))
    return problems


def open_problems(graph: StageGraph) -> list[DefinitionError]:
    """What another pipeline may still bring: dependencies, and producers of inputs."""
    problems: list[DefinitionError] = []
    known = [spec.name for spec in graph.specs]
    for number, spec in enumerate(graph.specs):
        if len(graph.predecessors[number]) < len(spec.dependencies):
            # The search for the nearest name is long; after some errors nobody reads the hints.
            hinted = len(problems) < _HINTS
            nearby = [name for name in known if name != spec.name] if hinted else ()
            problems.extend(
                UnknownDependencyError(graph.name, spec.name, dependency, nearby)
                for dependency in spec.dependencies
                if dependency not in graph
            )
    problems.extend(_missing_producers(graph))
    return problems


def _missing_producers(graph: StageGraph) -> Iterator[DefinitionError]:
    producer_of = {
        key: number
        for number, spec in enumerate(graph.specs)
        for key in spec.outputs + spec.streams
    }
    given = set(graph.inputs)
    far: list[tuple[int, int, str]] = []  # consumer, producer, key: not directly connected
    for consumer, spec in enumerate(graph.specs):
        for key in spec.inputs:
            producer = producer_of.get(key)
            if producer is None or producer == consumer:
                if key not in given:
                    yield MissingProducerError(
                        graph.name, spec.name, key, None, given | (producer_of.keys() - {key})
                    )
            elif producer not in graph.predecessors[consumer]:
                far.append((consumer, producer, key))
    for consumer, producer, key in _unreachable(graph, far):
        yield MissingProducerError(
            graph.name, graph.specs[consumer].name, key, graph.specs[producer].name, ()
        )


def _unreachable(
    graph: StageGraph, wanted: Sequence[tuple[int, int, str]]
) -> list[tuple[int, int, str]]:
    """Those of `wanted` whose producer is no ancestor of the consumer.

    A set of bits a stage says which producers stand before it. Doing this for some thousand
    producers at a time bounds the memory; a search per consumer would take quadratic time on a
    long chain.
    """
    result: list[tuple[int, int, str]] = []
    producers = sorted({producer for _, producer, _ in wanted})
    for start in range(0, len(producers), _BATCH):
        bit = {p: 1 << i for i, p in enumerate(producers[start : start + _BATCH])}
        before = [0] * len(graph)
        for number in graph.order:
            bits = 0
            for predecessor in graph.predecessors[number]:
                bits |= before[predecessor] | bit.get(predecessor, 0)
            before[number] = bits
        result.extend(w for w in wanted if w[1] in bit and not before[w[0]] & bit[w[1]])
    return sorted(result)
