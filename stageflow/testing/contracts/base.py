"""The base of all contracts, and the stages that a contract tests."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

from stageflow.engine import Pipeline, StageSpec
from stageflow.errors import Portable

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound=object)

_REPLACES = "__overrides_contract__"
_SKIPS = "__skip_contract_tests__"


class ContractOverrideError(Portable, TypeError):
    """A subclass replaces a test of its contract and does not say why."""

    def __init__(self, subclass: str, test: str) -> None:
        super().__init__(
            f"{subclass} replaces the contract's {test}: give the method another name, or say why"
            ' it has to be replaced, @overrides_contract(reason="…")'
        )
        self.subclass = subclass
        self.test = test


def _check_reason(decorator: str, bare: tuple[object, ...], reason: object) -> None:
    if bare:
        raise TypeError(f'{decorator} takes a reason only: write @{decorator}(reason="…")')
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(
            f'{decorator} has the reason {reason!r}; say why: @{decorator}(reason="…")'
        )


def overrides_contract(*bare: object, reason: str = "") -> Callable[[F], F]:
    """Declare that a method replaces a test of the contract, and why that does not fit.

    Raises:
        TypeError: It is used without parentheses.
        ValueError: The reason is empty.
    """
    _check_reason("overrides_contract", bare, reason)

    def declare(method: F) -> F:
        setattr(method, _REPLACES, reason)
        return method

    return declare


class Contract:
    """Base of all contracts: a subclass that replaces a test has to say why."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Raise `ContractOverrideError` if the class replaces a test and does not say why."""
        super().__init_subclass__(**options)
        inherited = {
            name
            for base in cls.__mro__[1:]
            for name in vars(base)
            if name.startswith("test_") and issubclass(base, Contract)
        }
        for name, method in vars(cls).items():
            if name in inherited and not hasattr(method, _REPLACES):
                raise ContractOverrideError(cls.__name__, name)

    def _unwritten(self, method: str) -> NotImplementedError:
        name = type(self).__name__
        return NotImplementedError(f"{name} does not say what is under test: write {method}")


@dataclass(frozen=True)
class FoundStage:
    """A stage that a module defines; its pipeline is one of the module, or of this stage alone."""

    module: str
    pipeline: Pipeline
    spec: StageSpec
    skipped: str | None  # why contracts skip it

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.spec.name

    def __str__(self) -> str:
        return f"{self.pipeline.name}.{self.name}"


def skip_contract_tests(*bare: object, reason: str = "") -> Callable[[T], T]:
    """Mark a stage, its runner, or a `StageContractTest`, to be skipped; pytest shows the reason.

    Raises:
        TypeError: It is used without parentheses, or on what cannot carry a mark.
        ValueError: The reason is empty.
    """
    _check_reason("skip_contract_tests", bare, reason)

    def mark(stage: T) -> T:
        if isinstance(stage, StageSpec):  # its runner may be another stage's as well
            return dataclasses.replace(stage, runner=mark(partial(stage.execute)))
        if not callable(stage) and not hasattr(stage, "execute"):
            fix = "mark a StageSpec, its runner, or a test class"
            raise TypeError(f"{stage!r} is not a stage; {fix}")
        try:
            setattr(stage, _SKIPS, reason)
        except AttributeError:
            raise TypeError(f"{stage!r} cannot carry a mark; mark the StageSpec") from None
        return stage

    return mark


def reason_to_skip(*marked: object) -> str | None:
    """Return the reason of the first that was marked; None if none was."""
    return next((getattr(one, _SKIPS) for one in marked if hasattr(one, _SKIPS)), None)


def get_all_stages(*places: ModuleType | Pipeline) -> list[FoundStage]:
    """Return the stages that modules define, or that pipelines have, each once.

    A stage of no pipeline of its module is found by itself, without its dependencies.

    Args:
        places: Modules, packages and pipelines to look in; the ready pipelines if left out.
    """
    found: dict[int, FoundStage] = {}
    for place in places or (importlib.import_module("stageflow.kernels"),):
        for stage in _stages_of(place):
            found.setdefault(id(stage.spec), stage)
    return list(found.values())


def _stages_of(place: ModuleType | Pipeline) -> Iterator[FoundStage]:
    if isinstance(place, Pipeline):
        for spec in place.stages:
            yield FoundStage(place.name, place, spec, reason_to_skip(spec.runner))
        return
    if hasattr(place, "__path__"):
        for module in pkgutil.iter_modules(place.__path__, f"{place.__name__}."):
            yield from _stages_of(importlib.import_module(module.name))
    defined = list(vars(place).values())
    for pipeline in (value for value in defined if isinstance(value, Pipeline)):
        yield from _stages_of(pipeline)
    for spec in (value for value in defined if isinstance(value, StageSpec)):
        # Alone it has no ancestors: the run's inputs provide what it reads.
        unbound = dataclasses.replace(spec, dependencies=())
        alone = Pipeline(place.__name__.rpartition(".")[2], [unbound], inputs=tuple(spec.inputs))
        yield FoundStage(place.__name__, alone, spec, reason_to_skip(spec.runner))
