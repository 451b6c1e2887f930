"""Finds the stages that a contract is to be held against."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from stageflow.pipeline import Pipeline
from stageflow.stage import StageSpec

T = TypeVar("T", bound=object)

_MARK = "__skip_contract_tests__"


@dataclass(frozen=True)
class FoundStage:
    """A stage that a module defines.

    Attributes:
        module: The module.
        pipeline: A pipeline that has the stage: one of the module, or one of this stage alone.
        spec: The stage.
        skipped: Why contracts leave it out; None if they do not.
    """

    module: str
    pipeline: Pipeline
    spec: StageSpec
    skipped: str | None

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.spec.name

    def __str__(self) -> str:
        return f"{self.pipeline.name}.{self.name}"


def skip_contract_tests(*, reason: str) -> Callable[[T], T]:
    """Mark a stage, or what runs as one, as not to be held to the contracts.

    Args:
        reason: Why; it is shown wherever the stage is left out.

    Raises:
        ValueError: The reason is empty.
    """
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"skip_contract_tests was given the reason {reason!r}; say why")

    def mark(stage: T) -> T:
        setattr(stage.runner if isinstance(stage, StageSpec) else stage, _MARK, reason)
        return stage

    return mark


def get_all_stages(*places: ModuleType | Pipeline) -> list[FoundStage]:
    """The stages that modules define, or that pipelines have.

    Of a package all modules count. A stage that a pipeline of its module has is found there, and
    any other by itself, without its dependencies; one that several pipelines share is found once.

    Args:
        places: Modules, packages and pipelines to look in; the ready pipelines if left out.
    """
    looked_in = places or (importlib.import_module("stageflow.kernels"),)
    found: dict[int, FoundStage] = {}
    for place in looked_in:
        for stage in _stages_of(place):
            found.setdefault(id(stage.spec), stage)
    return list(found.values())


def _stages_of(place: ModuleType | Pipeline) -> Iterator[FoundStage]:
    if isinstance(place, Pipeline):
        for spec in place.stages:
            yield FoundStage(place.name, place, spec, getattr(spec.runner, _MARK, None))
        return
    if hasattr(place, "__path__"):
        for module in pkgutil.iter_modules(place.__path__, f"{place.__name__}."):
            yield from _stages_of(importlib.import_module(module.name))
    defined = list(vars(place).values())
    for pipeline in (value for value in defined if isinstance(value, Pipeline)):
        yield from _stages_of(pipeline)
    for spec in (value for value in defined if isinstance(value, StageSpec)):
        # Alone it has no ancestors: what it reads, the run's inputs provide.
        alone = Pipeline(
            place.__name__.rpartition(".")[2], [_unbound(spec)], inputs=tuple(spec.inputs)
        )
        yield FoundStage(place.__name__, alone, spec, getattr(spec.runner, _MARK, None))


def _unbound(spec: StageSpec) -> StageSpec:
    return dataclasses.replace(spec, dependencies=())
