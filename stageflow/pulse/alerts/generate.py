"""Writes the files for Prometheus, Alertmanager and Grafana that follow from the rules."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stageflow.pulse.alerts import alertmanager, grafana, prometheus
from stageflow.pulse.alerts.rules import ALERTS_FILE, Alerts, load
from stageflow.pulse.errors import PulseError

DEFAULT_INTO = Path("docs/ops")

_HEADER = "# Made of benchmarks/alerts.toml by `stageflow pulse rules`: change that, not this.\n\n"

_HELP = """\
Write the files that follow from benchmarks/alerts.toml: rules.yml and prometheus.yml for
Prometheus, alertmanager.yml for Alertmanager, dashboard.json for Grafana. Needs the extra
stageflow[alerts].

examples:
  stageflow pulse rules
  stageflow pulse rules --check                     for CI: are they as they should be?

exit codes:
  0    written, or with --check: they are as they should be
  1    a file is wrong; with --check: one is missing or outdated
  2    bad arguments
"""

Emit = Callable[[str], None]


def add_command(command: Callable[..., argparse.ArgumentParser], emit: Emit) -> None:
    """Add the command; it sets ``run``, called with the parsed arguments."""
    parser = command("rules", help="write Prometheus' files", description=_HELP)
    parser.add_argument(
        "--rules",
        type=Path,
        default=Path("benchmarks") / ALERTS_FILE,
        metavar="FILE",
        help="the rules, with budgets.toml beside them (default: %(default)s)",
    )
    parser.add_argument(
        "--into",
        type=Path,
        default=DEFAULT_INTO,
        metavar="FOLDER",
        help="where to write (default: %(default)s)",
    )
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    parser.set_defaults(run=lambda arguments: generate(arguments, emit))


def generate(arguments: argparse.Namespace, emit: Emit) -> int:
    """Write or compare the files; returns the exit code.

    Raises:
        PulseError: The rules are wrong, PyYAML is missing, or a file is not as it should be.
    """
    made = files(load(arguments.rules))
    if arguments.check:
        outdated = [name for name in made if not _is(arguments.into / name, made[name])]
        if outdated:
            raise PulseError(
                f"missing or outdated in {arguments.into}: {', '.join(outdated)}; "
                "write them anew, stageflow pulse rules"
            )
        return 0
    arguments.into.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (arguments.into / name).write_text(text, encoding="utf-8")
        emit(f"wrote {arguments.into / name}")
    return 0


def files(alerts: Alerts) -> Mapping[str, str]:
    """The text of each file by its name.

    Raises:
        PulseError: PyYAML is missing.
    """
    return {
        "rules.yml": _HEADER + as_yaml(prometheus.rules_file(alerts.rules, alerts.links)),
        "prometheus.yml": _HEADER + as_yaml(prometheus.config_file()),
        "alertmanager.yml": _HEADER + as_yaml(alertmanager.config_file(alerts)),
        "dashboard.json": json.dumps(grafana.dashboard(alerts), indent=2) + "\n",
    }


def as_yaml(content: Any) -> str:
    """Plain data as YAML, with texts of several lines as such.

    Raises:
        PulseError: PyYAML is missing.
    """
    try:
        import yaml  # noqa: PLC0415 - no other command needs the extra
    except ImportError as error:
        raise PulseError(
            "PyYAML is not installed: install the extra, pip install 'stageflow[alerts]'"
        ) from error

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    dumped = yaml.dump(content, Dumper=Dumper, sort_keys=False, width=1000, allow_unicode=True)
    return str(dumped)


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text
