"""A plugin of asv that adds Central Pulse and the page of commits to what ``asv publish`` writes.

asv.conf.json names it: ``"plugins": [".stageflow.pulse.publisher"]``.
"""

from __future__ import annotations

import atexit
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from stageflow._utils.extras import needs_extra

with needs_extra("bench"):
    from asv.publishing import OutputPublisher  # type: ignore[import-untyped]


class _CentralPulse(OutputPublisher):  # type: ignore[misc]
    """Completes the site when asv ends, since asv writes its index after all pages."""

    name = "central"

    @classmethod
    def publish(cls, conf: Any, *_others: object) -> None:
        command = [sys.executable, "-m", __name__, str(Path(conf.html_dir).resolve())]
        atexit.register(subprocess.run, command, check=False)


if __name__ == "__main__":
    # Commands of asv that publish nothing do without these.
    from stageflow.pulse.dashboard import write_central
    from stageflow.pulse.history import AsvProject, complete

    project, site_dir = AsvProject.load(Path()), Path(sys.argv[1])
    if (site_dir / "index.json").exists():
        complete(project, site_dir, [partial(write_central, project)])
