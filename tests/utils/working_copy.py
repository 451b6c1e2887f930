"""A clone of this repository with its files as they are, and nothing that was measured in it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command


def working_copy(folder: Path) -> Path:
    """Make the clone: its history is shared, its files are copies of those of the working tree.

    A command that keeps something in the clone where it runs keeps it there.
    """
    clone = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder)]
    subprocess.run(clone, check=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = run_command(listing, cwd=ROOT, check=True).stdout
    for name in listed.split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder
