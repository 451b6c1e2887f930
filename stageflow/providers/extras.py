"""Libraries of an extra, imported where they are needed."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.machinery import ModuleSpec
from types import ModuleType

from stageflow._utils.extras import install_command
from stageflow.errors import ProviderError


def missing_extra(library: str, extra: str, purpose: str) -> ProviderError:
    """Return the error of a missing library, with the command that installs it."""
    text = f"{purpose} needs {library}, which is missing; {install_command(extra)}"
    return ProviderError(text, code="missing_extra")


def required(library: str, extra: str, purpose: str) -> ModuleType:
    """Import a library; raise `ProviderError`, which begins with `purpose`, if it is missing."""
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise missing_extra(library, extra, purpose) from error


def found(library: str, extra: str, purpose: str) -> ModuleSpec:
    """Find a library without importing it; raise as `required`."""
    spec = importlib.util.find_spec(library)
    if spec is None:
        raise missing_extra(library, extra, purpose)
    return spec
