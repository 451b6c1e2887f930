"""Contracts: test classes to inherit, which hold what the engine relies on."""

# ruff: noqa: F403, F405 - a type checker takes the list below

from stageflow.testing.contracts.base import *
from stageflow.testing.contracts.providers import *
from stageflow.testing.contracts.stage import *
from stageflow.testing.contracts.stores import *

__all__ = [
    "Contract",
    "ContractOverrideError",
    "DatabaseContractTest",
    "FoundStage",
    "InterceptorContractTest",
    "LlmContractTest",
    "LoopContract",
    "ProviderContractTest",
    "SinkContractTest",
    "SpeakerContractTest",
    "StageCase",
    "StageContractTest",
    "StoreContractTest",
    "SttContractTest",
    "ToolContractTest",
    "TtsContractTest",
    "get_all_stages",
    "overrides_contract",
    "skip_contract_tests",
]
