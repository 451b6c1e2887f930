"""Run a command to its end."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def run_command(
    command: Sequence[str | Path], *, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command and return it with its output as text.

    `options` are those of `subprocess.run`. The time limit only bounds a hang.
    """
    return subprocess.run(
        command, check=check, capture_output=True, encoding="utf-8", timeout=1800, **options
    )
