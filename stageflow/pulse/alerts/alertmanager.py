"""The configuration of Alertmanager: who is told, what is grouped, what keeps quiet."""

from __future__ import annotations

from typing import Any

from stageflow.pulse.alerts.promql import length
from stageflow.pulse.alerts.rules import Alerts, Email, Severity, Slack

#: How long an alert waits for others to be told with it, in seconds.
GROUP_WAIT_S = 30

#: How long a group that has been told of waits with news of it, in seconds.
GROUP_INTERVAL_S = 300

#: After how long an alert that still fires is told of again, in seconds.
REPEAT_S = 24 * 3600

_SINCE = '{{ .StartsAt.UTC.Format "2006-01-02 15:04" }} UTC'
_COUNT = '{{ if eq .Status "firing" }} {{ .Alerts.Firing | len }}{{ end }}'
_TITLE = f"{{{{ .Status | toUpper }}}}{_COUNT}: {{{{ .GroupLabels.alertname }}}}"
_SLACK_TEXT = f"""\
{{{{ range .Alerts }}}}{{{{ .Annotations.summary }}}}
since {_SINCE}{{{{ with .Annotations.likely }}}}
likely {{{{ . }}}}{{{{ end }}}}
{{{{ .Labels.severity }}}}, owner {{{{ .Labels.owner }}}}
<{{{{ .Annotations.page_url }}}}|page> · <{{{{ .Annotations.runbook_url }}}}|runbook>
{{{{ end }}}}"""
_EMAIL_TEXT = f"""\
{{{{ range .Alerts }}}}{{{{ .Status | toUpper }}}} {{{{ .Labels.alertname }}}}
{{{{ .Annotations.summary }}}}
since {_SINCE}{{{{ with .Annotations.likely }}}}
likely {{{{ . }}}}{{{{ end }}}}
{{{{ .Labels.severity }}}}, owner {{{{ .Labels.owner }}}}
page: {{{{ .Annotations.page_url }}}}
runbook: {{{{ .Annotations.runbook_url }}}}

{{{{ end }}}}"""

_EVERYWHERE, _QUIETLY = "slack-and-email", "slack"


def config_file(
    alerts: Alerts,
    *,
    group_wait_s: float = GROUP_WAIT_S,
    group_interval_s: float = GROUP_INTERVAL_S,
) -> Any:
    """The content of Alertmanager's configuration.

    What is critical goes to Slack and by e-mail, all else to Slack alone; a channel that is not set
    up is left out.
    """
    slack = [_slack(alerts.slack)] if alerts.slack else []
    email = [_email(alerts.email)] if alerts.email else []
    critical = {"matchers": [f'severity="{Severity.CRITICAL}"'], "receiver": _EVERYWHERE}
    return {
        "route": {
            "receiver": _QUIETLY,
            "group_by": ["alertname"],
            "group_wait": length(group_wait_s),
            "group_interval": length(group_interval_s),
            "repeat_interval": length(REPEAT_S),
            "routes": [critical],
        },
        "receivers": [
            _receiver(_QUIETLY, slack_configs=slack),
            _receiver(_EVERYWHERE, slack_configs=slack, email_configs=email),
        ],
        "inhibit_rules": [
            {
                "source_matchers": [f'alertname="{rule.inhibited_by}"'],
                "target_matchers": [f'alertname="{rule.name}"'],
                "equal": ["pipeline"],
            }
            for rule in alerts.rules
            if rule.inhibited_by
        ],
    }


def _receiver(name: str, **channels: list[Any]) -> dict[str, Any]:
    return {"name": name, **{kind: found for kind, found in channels.items() if found}}


def _slack(slack: Slack) -> dict[str, Any]:
    return {
        "api_url_file": slack.webhook_file,
        "channel": slack.channel,
        "send_resolved": True,
        "title": _TITLE,
        "title_link": "{{ .CommonAnnotations.page_url }}",
        "text": _SLACK_TEXT,
    }


def _email(email: Email) -> dict[str, Any]:
    login = {"auth_username": email.user, "auth_password_file": email.password_file}
    return {
        "to": email.to,
        "from": email.sender,
        "smarthost": f"{email.host}:{email.port}",
        "require_tls": True,
        **{name: value for name, value in login.items() if value is not None},
        "send_resolved": True,
        "headers": {"Subject": f"[stageflow] {_TITLE}"},
        "html": "",
        "text": _EMAIL_TEXT,
    }
