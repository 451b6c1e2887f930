"""Contracts: test classes to inherit, which hold what the engine relies on."""

from stageflow.testing.contracts.discovery import FoundStage, get_all_stages, skip_contract_tests
from stageflow.testing.contracts.overrides import (
    Contract,
    ContractOverrideError,
    overrides_contract,
)
from stageflow.testing.contracts.stage import StageCase, StageContractTest

__all__ = [
    "Contract",
    "ContractOverrideError",
    "FoundStage",
    "StageCase",
    "StageContractTest",
    "get_all_stages",
    "overrides_contract",
    "skip_contract_tests",
]
