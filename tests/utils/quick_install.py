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


def main(source: Path, *links: str) -> None:
    """Put the package of a folder in place of the one that is installed.

    `links` are folders in which the interpreter finds what that package needs.
    """
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
    if not links:
        importlib.import_module(project["build-system"]["build-backend"])
    packages = Path(sysconfig.get_path("purelib"))
    name = project["project"]["name"]
    # Another repository's commits may have been installed before.
    for other in {name, "stageflow"}:
        shutil.rmtree(packages / other, ignore_errors=True)
    shutil.copytree(source / name, packages / name)
    (packages / "quick_install.pth").write_text("\n".join(links), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
