"""Real Prometheus and Alertmanager on this machine, with files that a test has made."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow.pulse.alerts import as_yaml
from tests.utils.server import free_port


def alertmanager_program() -> str:
    """Alertmanager's name, which is another one on Debian."""
    found = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    assert found is not None, "run: .ci/programs prometheus-alertmanager"
    return found


@dataclass(frozen=True)
class Servers:
    """Where Prometheus and Alertmanager are to be seen."""

    prometheus: str
    alertmanager: str


@contextmanager
def servers(folder: Path, rules: Any, prometheus: Any, alertmanager: Any) -> Iterator[Servers]:
    """Prometheus and Alertmanager while the body runs.

    Args:
        folder: Where their files and data go.
        rules: Content of the file of rules.
        prometheus: Content of Prometheus' configuration, all but the address of Alertmanager.
        alertmanager: Content of Alertmanager's configuration.
    """
    port, own_port = free_port(), free_port()
    target = {"static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    config = prometheus | {"alerting": {"alertmanagers": [target]}}
    for name, content in (
        ("rules.yml", rules),
        ("prometheus.yml", config),
        ("alertmanager.yml", alertmanager),
    ):
        (folder / name).write_text(as_yaml(content), encoding="utf-8")
    with ExitStack() as stack:
        stack.enter_context(
            _running(
                folder / "alertmanager.log",
                alertmanager_program(),
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            )
        )
        stack.enter_context(
            _running(
                folder / "prometheus.log",
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{own_port}",
                "--rules.alert.resend-delay=1s",
            )
        )
        yield Servers(f"http://127.0.0.1:{own_port}", f"http://127.0.0.1:{port}")


@contextmanager
def _running(log: Path, *command: str) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait()
