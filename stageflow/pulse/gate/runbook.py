"""``docs/runbook.md``: what to do about each finding, a section each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

RUNBOOK = "docs/runbook.md"


def sections_of(path: Path) -> Mapping[str, str] | None:
    """The text of each section by its name, in order; None if there is no such file."""
    if not path.exists():
        return None
    _, *sections = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parts = (section.partition("\n") for section in sections)
    return {name.strip(): body.strip() for name, _, body in parts}
