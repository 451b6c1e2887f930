"""What can go wrong with a provider."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from stageflow.errors.base import ErrorCategory, StageflowError, did_you_mean


class ProviderError(StageflowError):
    """Something is wrong with a provider, or with what it answered."""

    code = "provider_error"


class UnknownProviderError(ProviderError):
    """No provider is registered under that name."""

    code = "unknown_provider"
    category = ErrorCategory.LOGIC

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        self.name = name
        registered = ", ".join(map(repr, names)) or "none"
        super().__init__(
            f"no provider is registered as {name!r} (registered: {registered})"
            f"{did_you_mean(name, names)}; register one with providers.register({name!r}, …)"
        )


class InvalidProviderError(ProviderError):
    """A provider lacks what its port asks for."""

    code = "invalid_provider"
    category = ErrorCategory.LOGIC

    def __init__(self, name: str, provider: object, port: str, missing: Sequence[str]) -> None:
        self.name = name
        self.missing = tuple(missing)
        super().__init__(
            f"{type(provider).__name__} cannot serve as {name!r}: the port {port} also needs"
            f" {', '.join(self.missing)}"
        )


class CircuitOpenError(ProviderError):
    """A call was not made, because the provider has failed too often of late.

    Attributes:
        provider: Name of the provider.
        retry_after_s: When it will be tried again, in seconds from now; infinity if the breaker
            was forced open.
    """

    code = "circuit_open"
    category = ErrorCategory.TRANSIENT
    user_message = "A service we need is having trouble. Please try again in a moment."

    def __init__(self, provider: str, retry_after_s: float) -> None:
        until = f"next try in {retry_after_s:.3g} s at the earliest"
        if retry_after_s == math.inf:
            until = "it was forced open: no call until it is reset"
        super().__init__(f"circuit breaker open for provider {provider!r} ({until})")
        self.provider = provider
        self.retry_after_s = retry_after_s


class InvalidReplyError(ProviderError):
    """A provider answered with something that is no answer: corrupt sound, a malformed reply."""

    code = "invalid_reply"
    category = ErrorCategory.TRANSIENT
    retryable = True


class NoProgressError(ProviderError):
    """A provider stopped in the middle of a call: no token, no sound, for too long.

    Attributes:
        timeout_s: How long nothing came, in seconds.
    """

    code = "no_progress"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "That took too long. Please try again."

    def __init__(self, provider: str, timeout_s: float) -> None:
        super().__init__(f"timeout: {provider} made no progress for {timeout_s:g} s")
        self.timeout_s = timeout_s


class UnintelligibleAudioError(ProviderError):
    """A provider was handed sound that it can make nothing of."""

    code = "unintelligible_audio"
    user_message = "Sorry, I could not understand that. Please say it again."
