"""The Pythons of this machine that the project runs on."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST_MINOR = 11


def interpreters() -> list[str]:
    """Those beside this one that start, oldest first: on the path, or kept by pyenv."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for minor in range(OLDEST_MINOR, 20):
        if minor == sys.version_info.minor:
            continue
        candidates = [shutil.which(f"python3.{minor}")]
        candidates += map(str, sorted(kept.glob(f"3.{minor}.*/bin/python3.{minor}")))
        found += [path for path in candidates if path and _starts(path)][:1]
    return found


@functools.cache
def _starts(python: str) -> bool:
    return subprocess.run([python, "-V"], capture_output=True, check=False).returncode == 0
