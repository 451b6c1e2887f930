"""A contract that a subclass cannot quietly leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__overrides_contract__"


class ContractOverrideError(TypeError):
    """A subclass replaces a test of its contract and does not say why.

    Attributes:
        subclass: Name of the subclass.
        test: Name of the test.
    """

    def __init__(self, subclass: str, test: str) -> None:
        super().__init__(
            f"{subclass} replaces the contract's {test}: give the method another name, or say why"
            ' it has to be replaced, @overrides_contract(reason="…")'
        )
        self.subclass = subclass
        self.test = test


def overrides_contract(*, reason: str) -> Callable[[F], F]:
    """Declare that a method replaces a test of the contract.

    Args:
        reason: Why the contract's own test does not fit.

    Raises:
        ValueError: The reason is empty.
    """
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"overrides_contract was given the reason {reason!r}; say why")

    def declare(method: F) -> F:
        setattr(method, _MARK, reason)
        return method

    return declare


class Contract:
    """Base of all contracts: sees to it that a subclass says so if it replaces a test."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the new class.

        Raises:
            ContractOverrideError: It replaces a test, and does not say why.
        """
        super().__init_subclass__(**options)
        inherited = {
            name
            for base in cls.__mro__[1:]
            for name in vars(base)
            if name.startswith("test_") and issubclass(base, Contract)
        }
        for name, method in vars(cls).items():
            if name in inherited and not hasattr(method, _MARK):
                raise ContractOverrideError(cls.__name__, name)
