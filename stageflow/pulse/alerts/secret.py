"""Secrets: read from the environment or from a file, and shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from stageflow.pulse.errors import PulseError


class AlertSecretError(PulseError):
    """A secret that a channel needs cannot be read, or is malformed; the text never holds it."""

    code = "pulse_alert_secret"


class Secret:
    """A text that neither `str` nor `repr` shows, so that no log and no error text does."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself, to be handed to whom it is meant for."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


def read_secret(variable: str, file: str | None) -> Secret:
    """A secret from the environment, or else from a file.

    Args:
        variable: The variable that holds it; the same name with ``_FILE`` names another file.
        file: The file that holds it otherwise.

    Raises:
        AlertSecretError: There is none, or it is empty.
    """
    value = os.environ.get(variable)
    if value is not None:
        origin = f"the variable {variable}"
    else:
        path = os.environ.get(f"{variable}_FILE", file)
        if path is None:
            raise AlertSecretError(f"a secret is missing: set {variable} or {variable}_FILE")
        origin = path
        try:
            value = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise AlertSecretError(
                f"{path} cannot be read ({why}): write the secret into it, or set {variable}"
            ) from None
    if not value.strip():
        raise AlertSecretError(f"{origin} is empty: write the secret into it")
    return Secret(value.strip())
