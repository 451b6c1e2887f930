"""Installs a commit's package into the interpreter that runs this, as asv asks pip to.

What pip would find out is found out here as well: a build backend that does not exist.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import sysconfig
import tomllib
from pathlib import Path


def main(source: Path) -> None:
    """Put the package of a folder in place of the one that is installed."""
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
    importlib.import_module(project["build-system"]["build-backend"])
    target = Path(sysconfig.get_path("purelib")) / "stageflow"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source / "stageflow", target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
