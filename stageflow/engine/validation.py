"""Find all problems of a pipeline's definition at once."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from types import FunctionType, NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from stageflow._utils.checks import is_async, is_duration
from stageflow.engine.graph import StageGraph
from stageflow.engine.stage import FunctionStage, StageKind, StageOutput, StageSpec
from stageflow.engine.stream import StreamReader
from stageflow.errors import InvalidConfigError, Problem, did_you_mean, nearest, shown

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_CO_COROUTINE = inspect.CO_COROUTINE
_CO_VARARGS = inspect.CO_VARARGS
#: How many problems come with a suggestion.
_HINTS = 20


def check_header(name: object, specs: object, inputs: object) -> None:
    """Raise for arguments that cannot make a pipeline at all."""
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
    """Return the specs that a graph can hold, whatever else may be wrong with them."""
    return [
        spec
        for spec in specs
        if isinstance(spec, StageSpec)
        and isinstance(spec.name, str)
        and all(
            isinstance(names, tuple) and all(isinstance(name, str) for name in names)
            for names in (spec.dependencies, spec.inputs, spec.outputs, spec.streams)
        )
    ]


def spec_problems(pipeline: str, specs: Sequence[object]) -> list[Problem]:
    """Return what is wrong with single stages, and with their names taken together."""
    problems: list[Problem] = []
    sound: list[StageSpec] = []
    for spec in specs:
        if isinstance(spec, StageSpec):
            sound.append(spec)
            if not _is_plain(spec):
                problems.extend(_own_problems(pipeline, spec))
        else:
            name = str(getattr(spec, "__name__", type(spec).__name__))
            fix = "write StageSpec(name, runner, …) or use @stage"
            text = f"{shown(spec)} is not a StageSpec; {fix}"
            problems.append(Problem(pipeline, name, "invalid_spec", text))
    names = [spec.name for spec in sound if isinstance(spec.name, str)]
    for name, count in Counter(names).items() if len(set(names)) < len(names) else ():
        if count > 1:
            text = f"{count} stages have this name; give each its own name"
            problems.append(Problem(pipeline, name, "duplicate_stage", text))
    return problems


def _is_plain(spec: StageSpec) -> bool:
    """Return whether a spec is sound at first sight, as nearly all are; a search costs more."""
    before = spec.dependencies
    for keys in (before, spec.inputs, spec.outputs, spec.streams):
        if type(keys) is not tuple:
            return False
        if keys:
            for key in keys:
                if type(key) is not str:
                    return False
            if len(keys) > 1 and len(set(keys)) < len(keys):
                return False
    return (
        type(spec.name) is str
        and _NAME.fullmatch(spec.name) is not None
        and type(spec.required) is bool
        and type(spec.kind) is StageKind
        and (spec.timeout_s is None or is_duration(spec.timeout_s))
        and spec.condition is None
        and (spec.provider is None or (type(spec.provider) is str and spec.provider != ""))
        and spec.name not in before
        and (_is_plain_runner(spec) or not _why_unfit(spec))
    )


def _is_plain_runner(spec: StageSpec) -> bool:
    """Return whether a runner is an async function of one argument, as nearly all are."""
    runner = spec.runner
    if type(runner) is not FunctionType or type(spec) is FunctionStage:
        return False
    code = runner.__code__
    is_coroutine = code.co_flags & _CO_COROUTINE
    return bool(is_coroutine) and code.co_argcount == 1 and not code.co_kwonlyargcount


def _own_problems(pipeline: str, spec: StageSpec) -> Iterator[Problem]:
    name = spec.name if isinstance(spec.name, str) else shown(spec.name)
    if not (name is spec.name and _NAME.fullmatch(name)):
        text = (
            "a name consists of letters, digits, '_' and '-' (dots separate the parts of an"
            f" event's type); rename {shown(spec.name)}"
        )
        yield Problem(pipeline, name, "invalid_name", text)
    for unfit in _why_unfit(spec):
        yield Problem(pipeline, name, "invalid_runner", unfit)
    for field in ("dependencies", "inputs", "outputs", "streams"):
        yield from _name_problems(pipeline, name, field, getattr(spec, field))
    timeout_s = spec.timeout_s
    if timeout_s is not None and not is_duration(timeout_s):
        fix = "give a positive number of seconds, or None for no limit"
        text = f"timeout_s is {shown(timeout_s)}; {fix}"
        yield Problem(pipeline, name, "invalid_timeout", text)
    given: Any = spec  # the values may contradict the annotations
    condition, required, kind = given.condition, given.required, given.kind
    # An async function returns a coroutine, which is always true.
    if condition is not None and (
        not callable(condition) or is_async(condition) or not _takes_one(condition)
    ):
        fix = "give a plain function of the StageContext"
        yield _misfit(pipeline, name, "condition", condition, fix)
    if type(required) is not bool:
        yield _misfit(pipeline, name, "required", required, "give True or False")
    if type(kind) is not StageKind:
        fix = f"give a StageKind: {', '.join(f'StageKind.{kind.name}' for kind in StageKind)}"
        yield _misfit(pipeline, name, "kind", kind, fix)
    if given.provider is not None and not (isinstance(given.provider, str) and given.provider):
        fix = "name the provider, such as 'llm'"
        yield _misfit(pipeline, name, "provider", given.provider, fix)


def _name_problems(pipeline: str, stage: str, field: str, names: object) -> Iterator[Problem]:
    if not isinstance(names, tuple):
        yield _misfit(pipeline, stage, field, names, "give a list of names")
        return
    for name in names:
        if not isinstance(name, str):
            fix = f"write {name.name!r}" if isinstance(name, StageSpec) else "names are strings"
            yield _misfit(pipeline, stage, field, name, fix)
    if len(names) > 1:
        for name, count in Counter(filter(lambda n: isinstance(n, str), names)).items():
            if count > 1:
                times = "twice" if count == 2 else f"{count} times"
                text = f"{field}: {name!r} is listed {times}; list it once"
                yield Problem(pipeline, stage, "invalid_declaration", text, field)
    if field == "dependencies" and stage in names:
        text = f"depends on itself; remove {stage!r} from its dependencies"
        yield Problem(pipeline, stage, "self_dependency", text)


def _misfit(pipeline: str, stage: str, field: str, found: object, fix: str) -> Problem:
    text = f"{field} is {shown(found)}; {fix}"
    return Problem(pipeline, stage, "invalid_declaration", text, field)


def _why_unfit(spec: StageSpec) -> Sequence[str]:
    """Return what is wrong with a runner, or with the function of a stage."""
    problems: tuple[str, ...] = ()
    if type(spec) is FunctionStage:
        problems = spec.problems
        if spec.runner is not spec.function:
            return problems  # the decorator has made the runner
    function: Any = spec.execute
    if isinstance(spec.runner, type):
        why = "is a class; give an object of it"
    elif not is_async(function):
        why = (
            "is neither an async function nor an object with an async execute(ctx);"
            " write 'async def'"
        )
        if inspect.iscoroutine(function):
            why = "is a call; give the function itself"
        elif inspect.isasyncgenfunction(function):
            why = "yields; put each item into a stream, ctx.open(key), and return a StageOutput"
    elif not _takes_one(function):
        why = "is called with the StageContext alone; write 'async def …(ctx)'"
    else:
        return problems
    return [*problems, f"its runner {shown(spec.runner)} {why}"]


def _takes_one(function: object) -> bool:
    """Return whether a function accepts one argument, as far as its code shows."""
    code = getattr(function, "__code__", None)
    if code is None:
        return True
    taken = code.co_argcount - hasattr(function, "__self__")
    defaults = len(getattr(function, "__defaults__", None) or ())
    named = code.co_kwonlyargcount - len(getattr(function, "__kwdefaults__", None) or ())
    return taken - defaults <= 1 <= taken + bool(code.co_flags & _CO_VARARGS) and not named


def structural_problems(graph: StageGraph, inputs: Sequence[str]) -> list[Problem]:
    """Return problems that no composition can fix: cycles, and keys with two producers."""
    problems: list[Problem] = []
    if graph.has_cycles():
        for path in graph.cycles():
            # A stage that depends on itself has a problem of its own.
            if len(path) > 2:
                edges = [(end, _edge(graph[start], graph[end])) for start, end in pairwise(path)]
                steps = "".join(f" → {after}{why}" for after, why in edges)
                text = f"waits for itself along {path[0]}{steps}; remove one of these dependencies"
                problems.append(Problem(graph.name, path[0], "cycle", text, path=path))
    producers: dict[str, str] = dict.fromkeys(inputs, "the run's input")
    for spec in graph.specs:
        for key in spec.outputs + spec.streams:
            if key not in producers:
                producers[key] = f"stage {spec.name!r}"
            elif key in spec.outputs and key in spec.streams:
                text = f"declares {key!r} as an output and as a stream; keep it in one of the two"
                problems.append(Problem(graph.name, spec.name, "output_is_stream", text, key))
            else:
                other = producers[key]
                text = f"declares {key!r}, which {other} already provides; rename one of them"
                problems.append(Problem(graph.name, spec.name, "duplicate_output", text, key))
    return problems


def _edge(producer: StageSpec, reader: StageSpec) -> str:
    """Return why `reader` waits for `producer`, if no dependency says so."""
    if producer.name in reader.dependencies:
        return ""
    keys = sorted({*producer.outputs, *producer.streams}.intersection(reader.inputs))
    return f" (reads {', '.join(map(repr, keys))})"


def unresolved_problems(graph: StageGraph, *, strict: bool) -> list[Problem]:
    """Return problems that composition may fix: missing dependencies, producers, wrong types."""
    problems: list[Problem] = []
    known = [spec.name for spec in graph.specs]
    for number in graph.open_stages:
        spec = graph.specs[number]
        if any(name not in graph for name in spec.dependencies):
            # Finding the nearest name takes long, and nobody reads hints after many errors.
            hinted = len(problems) < _HINTS
            nearby = [name for name in known if name != spec.name] if hinted else ()
            problems.extend(
                _unknown_dependency(graph, spec.name, dependency, nearby)
                for dependency in spec.dependencies
                if dependency not in graph
            )
    problems.extend(_missing_producers(graph, strict=strict))
    problems.extend(_type_problems(graph))
    return problems


def _unknown_dependency(
    graph: StageGraph, stage: str, dependency: str, known: Iterable[str]
) -> Problem:
    specs = graph.specs if known else ()
    owner = next((s.name for s in specs if dependency in s.outputs + s.streams), None)
    suggestion = owner or nearest(dependency, known)
    fix = "add such a stage, or compose with the pipeline that has it"
    if suggestion is not None:
        fix = f"did you mean {suggestion!r}?"
    why = "which does not exist" if owner is None else f"which is a key of stage {owner!r}"
    text = f"depends on {dependency!r}, {why}; {fix}"
    return Problem(graph.name, stage, "unknown_dependency", text, dependency, suggestion=suggestion)


def _missing_producers(graph: StageGraph, *, strict: bool) -> Iterator[Problem]:
    given = {*graph.inputs, *graph.optional_inputs}
    produced: set[str] = set()
    for number in graph.open_stages:
        spec = graph.specs[number]
        own = spec.outputs + spec.streams
        for key in spec.inputs:
            if key in own or (strict and key not in given):
                produced = produced or {k for s in graph.specs for k in s.outputs + s.streams}
                if key in own or key not in produced:
                    why = _why_missing(graph, key, key in own, given | produced)
                    text = f"declares the input {key!r}, {why}"
                    yield Problem(graph.name, spec.name, "missing_producer", text, key)


def _type_problems(graph: StageGraph) -> Iterator[Problem]:
    """Find annotations of producers and readers that cannot fit, where both are plain classes."""
    functions = [spec for spec in graph.specs if type(spec) is FunctionStage]
    if not functions:
        return
    hints = {spec.name: _plain_hints(spec.function) for spec in functions}
    producers = {spec.outputs[0]: spec for spec in functions if len(spec.outputs) == 1}
    streams = {key: spec.name for spec in graph.specs for key in spec.streams}
    for reader in functions:
        optional = inspect.signature(reader.function).parameters if reader.optional else {}
        for key, wanted in hints[reader.name].items():
            default = optional[key].default if key in optional else None
            given = default is not None and default is not inspect.Parameter.empty
            producer = producers.get(key) if key in reader.inputs else None
            returned = hints[producer.name].get("return", ()) if producer is not None else ()
            why = []
            if given and not _fits((type(default),), wanted, narrowed=type(default) is object):
                why += [f"its default is {shown(default)}; change the default or the annotation"]
            if producer is not None and returned and not _fits(returned, wanted):
                names = _names_of(returned)
                why += [f"stage {producer.name!r} returns {names}; change one of the annotations"]
            if key in streams and key in reader.inputs and not _fits((StreamReader,), wanted):
                why += [f"stage {streams[key]!r} streams it; write AsyncIterator[…]"]
            for reason in why:
                text = f"takes {key!r} as {_names_of(wanted)}, and {reason}"
                yield Problem(graph.name, reader.name, "invalid_declaration", text, key)


def _names_of(classes: tuple[type, ...]) -> str:
    return " or ".join("None" if cls is NoneType else cls.__name__ for cls in classes)


def _plain_hints(function: Any) -> dict[str, tuple[type, ...]]:
    try:
        hints = get_type_hints(function)
    except Exception:
        return {}
    return {name: classes for name, hint in hints.items() if (classes := _plain_classes(hint))}


def _plain_classes(hint: Any) -> tuple[type, ...]:
    """Return the plain classes that an annotation allows; none if it also allows something else."""
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        parts = [_plain_classes(part) for part in get_args(hint)]
        return sum(parts, ()) if all(parts) else ()
    root = get_origin(hint) or hint
    # A StageOutput has the values of outputs, whose types its annotation does not say.
    return (root,) if type(root) is type and root is not StageOutput else ()


def _fits(found: tuple[type, ...], wanted: tuple[type, ...], *, narrowed: bool = True) -> bool:
    """Return whether a value may be of both classes; numbers widen as PEP 484 says."""
    widened = {float: (int,), complex: (int, float)}
    return any(
        issubclass(one, (other, *widened.get(other, ()))) or (narrowed and issubclass(other, one))
        for one in found
        for other in wanted
    )


def _why_missing(graph: StageGraph, key: str, itself: bool, known: set[str]) -> str:
    if itself:
        return "which it provides itself: remove it"
    if key in graph and (outputs := graph[key].outputs + graph[key].streams):
        return f"but that is a stage: declare one of its outputs, {list(outputs)}"
    fix = "declare it in a stage's outputs or in the pipeline's inputs"
    return f"but nothing provides it: {fix}{did_you_mean(key, known)}"
