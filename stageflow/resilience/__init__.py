"""The meaning of a failure, and the circuit breaker that reacts to it."""

# ruff: noqa: F403, F405 - the list below says which names are public

from typing import TYPE_CHECKING

from stageflow._utils.lazy import lazy_names
from stageflow.resilience.classification import classify

if TYPE_CHECKING:
    from stageflow.resilience.circuit_breaker import *
    from stageflow.resilience.retry import RetryPolicy

__all__ = [
    "BreakerPolicy",
    "BreakerRegistry",
    "BreakerState",
    "BreakerTransition",
    "CircuitBreaker",
    "Clock",
    "Permit",
    "RetryPolicy",
    "classify",
    "speaks_against_provider",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    """
    circuit_breaker: BreakerPolicy BreakerRegistry BreakerState BreakerTransition CircuitBreaker
    circuit_breaker: Clock Permit speaks_against_provider
    retry: RetryPolicy
    """,
)
