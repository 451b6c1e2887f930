"""Every stage of the kernels, and one of each sort that a test can make, keeps the contract."""

from __future__ import annotations

import importlib
import pkgutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stageflow import Pipeline, ProviderRegistry, StageSpec, Stream, kernels
from stageflow.kernels import chat, default_providers, streaming_voice, voice
from stageflow.providers import SqlDatabase, speech_of_text
from stageflow.testing import (
    FoundStage,
    ScriptedStage,
    do_nothing,
    get_all_stages,
    skip_contract_tests,
)
from tests.contract.base import StageCase, StageContractTest
from tests.utils.factories import sample_pipeline
from tests.utils.http_llm import HttpLLM
from tests.utils.listener import in_a_thread
from tests.utils.llm_server import LlmServer

pytestmark = pytest.mark.untraced

KERNELS = (voice(), streaming_voice(), chat())

#: A value for each input that some stage of a kernel declares, and another.
INPUTS: dict[str, Any] = {
    "answer": "Good morning, Ada.",
    "audio": speech_of_text("Good morning"),
    "history": [{"user": "Hello", "assistant": "Hello, Ada.", "refused": False}],
    "profile": {"name": "Ada"},
    "refusal": None,
    "sentences": Stream.of(["Good morning. ", "Ada."]),
    "sound": Stream.of([("Good morning.", speech_of_text("Good morning."))]),
    "text": "Good morning",
    "transcript": "Good morning",
    "user_id": "ada",
}
OTHER_INPUTS = INPUTS | {
    "answer": "Good night, Ada.",
    "audio": speech_of_text("Good night"),
    "history": [],
    "sentences": Stream.of(["Good night. ", "Ada."]),
    "sound": Stream.of([("Good night.", speech_of_text("Good night."))]),
    "text": "Good night",
    "transcript": "Good night",
}


class TestKernelStages(StageContractTest):
    @pytest.fixture(params=get_all_stages(*KERNELS), ids=str, autouse=True)
    def found(self, request: pytest.FixtureRequest) -> None:
        self.stage: FoundStage = request.param

    def make_stage(self) -> StageCase:
        return StageCase(
            self.stage.pipeline, self.stage.name, INPUTS, default_providers(), OTHER_INPUTS
        )


@pytest.fixture(scope="module")
def llm_server() -> Iterator[LlmServer]:
    """A language model behind real HTTP."""
    server = LlmServer()
    with in_a_thread(server):
        yield server


@pytest.mark.slow
class TestChatStagesWithRealServices(StageContractTest):
    """A model over HTTP and a database in a file, on a real loop."""

    real_io = True
    orders = 2

    @pytest.fixture(params=get_all_stages(chat()), ids=str, autouse=True)
    def found(self, request: pytest.FixtureRequest, llm_server: LlmServer, tmp_path: Path) -> None:
        self.stage: FoundStage = request.param
        self.port = llm_server.port
        self.folder = tmp_path

    def make_stage(self) -> StageCase:
        database = SqlDatabase(f"sqlite:///{self.folder / uuid.uuid4().hex}.db")
        model = HttpLLM(self.port)
        self.resources.push_async_exit(database)
        self.resources.push_async_exit(model)
        providers = ProviderRegistry(llm=model, db=database)
        return StageCase(self.stage.pipeline, self.stage.name, INPUTS, providers, OTHER_INPUTS)


class TestSampleStages(StageContractTest):
    @pytest.fixture(params=get_all_stages(sample_pipeline()), ids=str, autouse=True)
    def found(self, request: pytest.FixtureRequest) -> None:
        self.stage: FoundStage = request.param

    def make_stage(self) -> StageCase:
        inputs = {"text": "one please", "words": ["one", "please"]}
        return StageCase(self.stage.pipeline, self.stage.name, inputs)


class TestStageThatCannotFail(StageContractTest):
    cannot_fail = "it does nothing"

    def make_stage(self) -> StageCase:
        return StageCase(Pipeline("idle", [StageSpec("idle", do_nothing)]), "idle")


def test_no_stage_of_a_kernel_goes_without_the_contract() -> None:
    """Each spec that a module of the kernels defines is among those that are checked."""
    defined = {
        id(value): f"{module.name}.{name}"
        for module in pkgutil.iter_modules(kernels.__path__, "stageflow.kernels.")
        for name, value in vars(importlib.import_module(module.name)).items()
        if isinstance(value, StageSpec)
    }
    checked = {id(found.spec) for found in get_all_stages(*KERNELS)}
    assert len(defined) >= 10
    assert {name for key, name in defined.items() if key not in checked} == set()


def test_all_registered_stages_are_found() -> None:
    """Those of the ready pipelines without being named, each once, by modules or by pipelines."""
    found = get_all_stages()
    by_pipeline = {id(stage.spec) for stage in get_all_stages(*KERNELS)}
    assert {id(stage.spec) for stage in found} == by_pipeline
    assert len(found) == len(by_pipeline)
    for stage in found:
        stage.pipeline.build()


def test_a_marked_stage_is_found_with_its_reason() -> None:
    """A runner or a spec can be marked, and neither is lost."""

    @skip_contract_tests(reason="it talks to a machine that we do not have")
    async def runner(ctx: object) -> Any: ...

    spec = skip_contract_tests(reason="another")(StageSpec("b", ScriptedStage()))
    assert getattr(spec.runner, "__skip_contract_tests__", None) == "another"
    (found,) = get_all_stages(Pipeline("p", [StageSpec("a", runner)]))
    assert found.skipped == "it talks to a machine that we do not have"


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_a_mark_needs_a_reason(reason: Any) -> None:
    """Nothing is left out without a word."""
    with pytest.raises(ValueError, match="say why"):
        skip_contract_tests(reason=reason)


def test_stages_of_a_module_are_found() -> None:
    """Pipelines and specs at its top level; a stage of a pipeline is found in it."""
    module = ModuleType("shop.stages")
    inside, outside = StageSpec("inside", do_nothing), StageSpec("outside", do_nothing, ("x",))
    vars(module).update(pipeline=Pipeline("shop", [inside]), inside=inside, outside=outside)
    assert [str(found) for found in get_all_stages(module)] == ["shop.inside", "stages.outside"]
