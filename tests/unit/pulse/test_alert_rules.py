"""``alerts.toml``: what is read of it, and each mistake with line and fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stageflow.pulse import GateSettingsError
from stageflow.pulse.alerts import Alerts, Kind, Severity, Tls, load_alerts
from stageflow.pulse.alerts.rules import DEFAULT

ROOT = Path(__file__).parents[3]

BUDGETS = """\
version = 1

[[budget]]
metric = "Voice pipeline"
benchmark = "voice.Latency.track_turn"
unit = "ms"
p50 = 500
p99 = 1000
gate = "nightly"
owner = "kernels"
runbook = "voice-latency"

[[budget]]
metric = "Odd"
benchmark = "odd"
unit = "ms"
p50 = 1
p99 = 700
gate = "nightly"
owner = "kernels"
runbook = "odd"
"""

ALERTS = """\
version = 1

[links]
page = "https://example.org/pulse/"
runbook = "https://example.org/runbook.md"

[[alert]]
name = "Slow"
kind = "latency"
pipeline = "voice"
budget = "Voice pipeline"
window_s = 60
for_s = 300
severity = "critical"
owner = "kernels"
runbook = "live-latency"

[[alert]]
name = "Burns"
kind = "burn_rate"
objective = 0.999
burn = 14.4
window_s = 3600
short_window_s = 300
for_s = 0
severity = "warning"
owner = "engine"
runbook = "error-budget"
inhibited_by = "Slow"
"""


def loaded(folder: Path, text: str) -> Alerts:
    """The alerts in a file of that text, beside the budgets above."""
    (folder / "budgets.toml").write_text(BUDGETS, encoding="utf-8")
    path = folder / "alerts.toml"
    path.write_text(text, encoding="utf-8")
    return load_alerts(path)


def test_rules_are_read(tmp_path: Path) -> None:
    """A latency's limit is the budget's p99; a burn rate's what the objective leaves, times it."""
    slow, burns = loaded(tmp_path, ALERTS).rules
    assert (slow.kind, slow.limit, slow.for_s, slow.severity) == (
        *(Kind.LATENCY, 1000.0, 300),
        Severity.CRITICAL,
    )
    assert (burns.limit, burns.window_s, burns.short_window_s) == (0.0144, 3600, 300)
    assert burns.inhibited_by == "Slow"


@pytest.mark.parametrize(
    ("wrong", "right", "line", "problem"),
    [
        ('kind = "latency"', 'kind = "lag"', 9, "kind = 'lag' is not known: write \"latency\""),
        ('severity = "warning"', 'severity = "loud"', 26, "severity = 'loud' is not known"),
        ("for_s = 300", "for_s = 90", 13, "for_s = 90 is not whole minutes"),
        ("for_s = 300", "for_s = 5.5", 13, "'for_s' has to be a whole number, not 5.5"),
        ("window_s = 60\n", "window_s = 0\n", 12, "window_s = 0 is not whole minutes"),
        ("short_window_s = 300", "short_window_s = 3600", 24, "shorter than window_s"),
        ("objective = 0.999", "objective = 1", 21, "objective = 1 is not between 0 and 1"),
        ("burn = 14.4", "burn = 0.5", 22, "burn = 0.5 is too small"),
        ('pipeline = "voice"\n', "", 7, "kind latency lacks the key 'pipeline'"),
        ("burn = 14.4", "burn = 14.4\nlimit = 1", 23, "kind burn_rate has no key 'limit'"),
        (
            'budget = "Voice pipeline"',
            'budget = "Voice pipelin"',
            11,
            "did you mean 'Voice pipeline'",
        ),
        (
            'budget = "Voice pipeline"',
            'budget = "Odd"',
            11,
            "700 ms, is not a bound of the histograms",
        ),
        ('name = "Burns"', 'name = "Slow"', 18, "'Slow' is taken in line 7 already"),
        ("burn = 14.4", "burn = 14.4\nleast_runs = 0", 23, "least_runs = 0 is too small"),
        ("burn = 14.4", "burn = 14.4\nkeep_firing_for_s = 90", 23, "is not whole minutes"),
        (
            "burn = 14.4",
            "burn = 14.4\nsilent_until = 2026-01-31T18:00:00Z",
            18,
            "write silent_until and silent_because",
        ),
        (
            "burn = 14.4",
            'burn = 14.4\nsilent_because = "x"\nsilent_until = 2026-01-31T18:00:00',
            24,
            "has no zone: write 2026-01-31T18:00:00Z",
        ),
        ('name = "Burns"', 'name = "burns a lot"', 19, "is not a name"),
        ('inhibited_by = "Slow"', 'inhibited_by = "Burns"', 29, "names no other alert: 'Burns'"),
        ('inhibited_by = "Slow"', 'inhibited_by = "Slaw"', 29, "did you mean 'Slow'"),
        ('owner = "engine"', "owner = 3", 27, "'owner' has to be a text, not 3"),
    ],
)
def test_mistakes_are_reported(
    tmp_path: Path, wrong: str, right: str, line: int, problem: str
) -> None:
    """Each mistake has file, line, cause and fix."""
    assert ALERTS.count(wrong) == 1
    with pytest.raises(GateSettingsError) as raised:
        loaded(tmp_path, ALERTS.replace(wrong, right))
    assert f"{tmp_path}/alerts.toml:{line}: " in str(raised.value)
    assert problem in str(raised.value)


#: Addresses without a rule: those of the package apply.
ADDRESSES = """\
version = 1

[links]
page = "https://example.org/central.html"
runbook = "https://example.org/runbook.html"

[email]
host = "127.0.0.1"
port = 25
tls = "none"
from = "alerts@example.org"
to = "on-call@example.org"
"""


def test_a_file_of_addresses_has_the_rules_of_the_package(tmp_path: Path) -> None:
    """Without an alert in the file, what is evaluated is not nothing."""
    (tmp_path / "alerts.toml").write_text(ADDRESSES, encoding="utf-8")
    ours, packaged = load_alerts(tmp_path / "alerts.toml"), load_alerts(DEFAULT)
    assert (ours.rules, ours.benchmark) == (packaged.rules, packaged.benchmark)
    assert ours.rules
    assert ours.email is not None
    assert (ours.links.page, ours.email.tls) == ("https://example.org/central.html", Tls.NONE)


def test_the_listing_of_the_guide_is_a_complete_file(tmp_path: Path) -> None:
    """The file of addresses, and the file with a silence, load as they are printed."""
    page = (ROOT / "docs/operations/alerts.md").read_text(encoding="utf-8")
    addresses, silence = re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert loaded(tmp_path, addresses).rules
    (silent,) = loaded(tmp_path, addresses + silence).rules
    assert silent.silent_because


def test_mail_leaves_the_machine_only_with_tls(tmp_path: Path) -> None:
    """A server elsewhere needs TLS."""
    with pytest.raises(GateSettingsError, match=r"alerts.toml:10: none is for a mail server on"):
        loaded(tmp_path, ADDRESSES.replace("127.0.0.1", "mail.example.org"))


@pytest.mark.parametrize(
    "wrong", ["you@", "@example.org", "you@a..org", "ü@example.org", "a b@c.d"]
)
def test_what_is_not_an_address_is_reported(tmp_path: Path, wrong: str) -> None:
    """Before a message waits for it."""
    with pytest.raises(GateSettingsError, match=r"alerts.toml:12: .* is not an address"):
        loaded(tmp_path, ADDRESSES.replace("on-call@example.org", wrong))


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """Two mistakes are two problems of one error."""
    text = ALERTS.replace("burn = 14.4", "burn = 0").replace("for_s = 300", "for_s = 1")
    with pytest.raises(GateSettingsError) as raised:
        loaded(tmp_path, text)
    assert len(raised.value.problems) == 2


def test_links_are_needed(tmp_path: Path) -> None:
    """Without addresses of page and runbook a message would lead nowhere."""
    with pytest.raises(GateSettingsError, match=r"alerts.toml:1: \[links\] is missing"):
        loaded(tmp_path, ALERTS.replace("[links]", "[[nothing]]").replace("[[nothing]]", "[slack]"))


def test_rules_of_this_repository() -> None:
    """Latency, first audio, error rate and error budget have rules with these figures."""
    ours = load_alerts(ROOT / "benchmarks/alerts.toml")
    latencies = {r.pipeline: (r.limit, r.for_s) for r in ours.rules if r.kind is Kind.LATENCY}
    assert latencies == {"voice": (1000.0, 300), "chat": (800.0, 300)}
    (audio,) = (rule for rule in ours.rules if rule.kind is Kind.FIRST_AUDIO)
    assert (audio.pipeline, audio.limit, audio.for_s) == ("streaming_voice", 500.0, 300)
    (errors,) = (rule for rule in ours.rules if rule.kind is Kind.ERROR_RATE)
    assert (errors.limit, errors.for_s) == (0.01, 300)
    burns = {
        (rule.window_s, rule.short_window_s): round(rule.limit / 0.001, 9)
        for rule in ours.rules
        if rule.kind is Kind.BURN_RATE
    }
    assert burns == {(3600, 300): 14.4, (21600, 1800): 6.0}
    assert {rule.kind for rule in ours.rules} == set(Kind) - {Kind.BENCHMARK}
    assert ours.benchmark is not None
    assert ours.email is not None
    assert ours.email.tls in Tls
