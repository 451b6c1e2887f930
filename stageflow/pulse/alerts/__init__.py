"""Notify a person when telemetry, or the history of benchmarks, exceeds the limit of a rule."""

# ruff: noqa: F403, F405 - the list below says which names are public

from stageflow.pulse.alerts.channels import DeliveryError
from stageflow.pulse.alerts.evaluator import SETTLE_S, Evaluator
from stageflow.pulse.alerts.prometheus import as_yaml, files
from stageflow.pulse.alerts.rules import *
from stageflow.pulse.alerts.state import AlertState, state_of

__all__ = [
    "ALERTS_FILE",
    "SETTLE_S",
    "AlertState",
    "Alerts",
    "DeliveryError",
    "Email",
    "Evaluator",
    "Kind",
    "Links",
    "Rule",
    "Severity",
    "Slack",
    "Tls",
    "as_yaml",
    "files",
    "load_alerts",
    "state_of",
]
