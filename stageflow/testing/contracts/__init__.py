"""Contracts: test classes to inherit, which hold what the engine relies on."""

from stageflow.testing.contracts.base import (
    Contract,
    ContractOverrideError,
    FoundStage,
    LoopContract,
    get_all_stages,
    overrides_contract,
    skip_contract_tests,
)
from stageflow.testing.contracts.providers import (
    DatabaseContractTest,
    LlmContractTest,
    ProviderContractTest,
    SpeakerContractTest,
    SttContractTest,
    ToolContractTest,
    TtsContractTest,
)
from stageflow.testing.contracts.stage import StageCase, StageContractTest
from stageflow.testing.contracts.stores import (
    InterceptorContractTest,
    SinkContractTest,
    StoreContractTest,
)

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
