"""Every stage of the kernels, and one of each sort that a test can make, keeps the contract."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest

from stageflow import Pipeline, StageSpec, kernels
from stageflow.kernels.chat import chat
from stageflow.kernels.defaults import default_providers
from stageflow.kernels.voice import voice
from stageflow.providers.fake import speech_of_text
from tests.contract.base import StageCase, StageContractTest
from tests.utils.factories import sample_pipeline

KERNELS = (voice(), chat())

#: A value for each input that some stage of a kernel declares.
INPUTS: dict[str, Any] = {
    "answer": "Good morning, Ada.",
    "audio": speech_of_text("Good morning"),
    "history": [{"user": "Hello", "assistant": "Hello, Ada.", "refused": False}],
    "profile": {"name": "Ada"},
    "refusal": None,
    "text": "Good morning",
    "transcript": "Good morning",
    "user_id": "ada",
}


def cases(pipelines: tuple[Pipeline, ...]) -> list[Any]:
    """A parameter for each stage of some pipelines."""
    return [
        pytest.param((pipeline, spec.name), id=f"{pipeline.name}.{spec.name}")
        for pipeline in pipelines
        for spec in pipeline.stages
    ]


class TestKernelStages(StageContractTest):
    @pytest.fixture(params=cases(KERNELS))
    def case(self, request: pytest.FixtureRequest) -> StageCase:
        pipeline, name = request.param
        return StageCase(pipeline, name, INPUTS, default_providers())


class TestSampleStages(StageContractTest):
    @pytest.fixture(params=cases((sample_pipeline(),)))
    def case(self, request: pytest.FixtureRequest) -> StageCase:
        pipeline, name = request.param
        return StageCase(pipeline, name, {"text": "one please", "words": ["one", "please"]})


def test_no_stage_of_a_kernel_goes_without_the_contract() -> None:
    """Whatever spec a module of the kernels defines is among those that are checked."""
    defined = {
        id(value): f"{module.name}.{name}"
        for module in pkgutil.iter_modules(kernels.__path__, "stageflow.kernels.")
        for name, value in vars(importlib.import_module(module.name)).items()
        if isinstance(value, StageSpec)
    }
    checked = {id(spec) for pipeline in KERNELS for spec in pipeline.stages}
    assert len(defined) >= 10
    assert {name for key, name in defined.items() if key not in checked} == set()
