"""Regressions of benchmarks on the history of a repository, by the commits that brought them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from stageflow.pulse.alerts.conditions import Labels, Reading
from stageflow.pulse.alerts.lifecycle import Alert, AlertKey, advanced
from stageflow.pulse.alerts.notice import Message, Notice, Status, message_of
from stageflow.pulse.alerts.regressions import Policy, Rise, rises
from stageflow.pulse.alerts.rules import BenchmarkRule, Links
from stageflow.pulse.alerts.state import AlertState
from stageflow.pulse.central.history import Commit, History, read_history
from stageflow.pulse.gate import accepted as accepted_file
from stageflow.pulse.gate.accepted import Accepted
from stageflow.pulse.gate.series import Signal, signal_of
from stageflow.pulse.gate.setting import ACCEPTED_FILE
from stageflow.pulse.project import AsvProject

#: A regression that nobody was told of is told of for so many measured commits; then it is history.
NEW_FOR = 50

#: A message names so many series and commits; the page shows all.
_NAMED = 5
_HASH = 10
_LABEL = "commits"


@dataclass(frozen=True, slots=True)
class Regression:
    """Series that rose at the same commits.

    Attributes:
        suspects: Positions in the history of the commits that may have brought it.
        found: Position of the commit at which it was certain.
        ratios: How much more each series has become.
    """

    suspects: range
    found: int
    ratios: Mapping[str, float]


def regressions(
    history: History, policy: Policy, accepted: Sequence[Accepted], today: dt.date
) -> tuple[Regression, ...]:
    """What regressed and has not come back, in the order in which it became certain.

    Args:
        history: The values of one machine.
        policy: What decides.
        accepted: Regressions that are known; they are left out while that holds.
        today: The day on which their time may have run out.
    """
    found: list[tuple[Rise, str]] = []
    for series in history.series:
        there = [(n, value) for n, value in enumerate(series.values) if value is not None]
        timed = signal_of(series.name) not in (Signal.EXACT, Signal.COUNTED)
        found += [
            (_on(rise, [n for n, _ in there]), series.name)
            for rise in rises([value for _, value in there], policy, timed=timed)
            if rise.over is None and not _is_accepted(series.name, rise, accepted, today)
        ]
    # Those that point to the fewest commits first: others that may mean the same join them.
    found.sort(key=lambda item: (len(item[0].suspects), item[0].found, item[1]))
    groups: list[Regression] = []
    for rise, name in found:
        for number, group in enumerate(groups):
            if _meet(group.suspects, rise.suspects):
                ratios = {**group.ratios, name: rise.ratio}
                groups[number] = replace(group, ratios=ratios)
                break
        else:
            groups.append(Regression(rise.suspects, rise.found, {name: rise.ratio}))
    return tuple(sorted(groups, key=lambda group: (group.found, group.suspects.start)))


def _on(rise: Rise, measured: Sequence[int]) -> Rise:
    """The rise by positions in the history, where a series may have gaps.

    Commits on which it was not measured are suspects, too.
    """
    first, last = rise.suspects[0], rise.suspects[-1]
    suspects = range(measured[first - 1] + 1, measured[last] + 1)
    return replace(rise, suspects=suspects, found=measured[rise.found])


def _meet(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


def _is_accepted(series: str, rise: Rise, accepted: Sequence[Accepted], today: dt.date) -> bool:
    return any(
        known.series == series and known.counts(today) and rise.ratio <= known.up_to
        for known in accepted
    )


class HistoryWatch:
    """Tells of each regression once, and once when it is over."""

    def __init__(
        self,
        rule: BenchmarkRule,
        links: Links,
        project: AsvProject,
        state: AlertState,
        channels: Sequence[str],
    ) -> None:
        """Choose the parts; `channels` are those that each message waits for in the state."""
        self._rule = rule
        self._links = links
        self._project = project
        self._state = state
        self._channels = tuple(channels)
        self._source = f"benchmarks of {project.root.resolve()}"

    def evaluate(self, now_s: float) -> Message | None:
        """Look at the history as it is, and put what is to be told into the state.

        Returns:
            What there is to tell; None if that is nothing.

        Raises:
            PulseError: git or the file of accepted regressions is wrong.
            AlertStateError: The state cannot be read or written.
        """
        history = read_history(self._project)
        accepted = accepted_file.load(self._project.benchmarks_dir / ACCEPTED_FILE, None)
        today = dt.datetime.fromtimestamp(now_s, dt.UTC).date()
        found = regressions(history, self._rule, accepted, today)
        with self._state.transaction():
            known = self._state.alerts(self._source)
            named = _named(found, history.commits, known)
            readings = [self._reading(*item, history.commits) for item in named.items()]
            after = [
                alert if alert.key in known else self._begun(alert, named, history.commits)
                for alert in advanced(self._rule.name, 0, known, readings, now_s)
            ]
            notices = [
                self._notice(alert, named.get(alert.labels))
                for alert in after
                if not alert.told or alert.ended_s is not None
            ]
            lasting = [replace(alert, told=True) for alert in after if alert.ended_s is None]
            self._state.keep(self._source, now_s, lasting)
            if not notices:
                return None
            message = message_of(notices)
            self._state.put(message, self._channels, now_s)
        return message

    def _reading(
        self, labels: Labels, regression: Regression, commits: Sequence[Commit]
    ) -> Reading:
        """The regression as a rule's finding; also commits that nobody measured may be to blame."""
        first, last = regression.suspects[0], regression.suspects[-1]
        span = f"{commits[first - 1].hash}..{commits[last].hash}"
        between = self._project.git("log", "--format=%h %s", span, "--").splitlines()
        named = "; ".join(between[:_NAMED])
        more = f"; and {len(between) - _NAMED} more" if len(between) > _NAMED else ""
        likely = f"{'commit' if len(between) == 1 else 'one of'} {named}{more}"
        return Reading(labels, max(regression.ratios.values()), likely)

    def _begun(
        self, alert: Alert, named: Mapping[Labels, Regression], commits: Sequence[Commit]
    ) -> Alert:
        """A new alert, since the time of the last commit that may have brought it."""
        return replace(alert, since_s=float(commits[named[alert.labels].suspects[-1]].at_s))

    def _notice(self, alert: Alert, found: Regression | None) -> Notice:
        ended = alert.ended_s is not None
        return Notice(
            status=Status.RESOLVED if ended else Status.FIRING,
            rule=self._rule.name,
            severity=self._rule.severity,
            owner=self._rule.owner,
            what=self._what(alert, found),
            since_s=alert.since_s,
            until_s=alert.ended_s,
            likely=alert.likely,
            page=self._links.page,
            runbook=self._links.runbook_of(self._rule.runbook),
        )

    def _what(self, alert: Alert, found: Regression | None) -> str:
        commits = dict(alert.labels)[_LABEL]
        if found is None:
            return f"the benchmarks that rose in {commits} are back"
        worst = sorted(found.ratios.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} x {ratio:.2f}" for name, ratio in worst[:_NAMED])
        more = f" and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
        limits = f"{self._rule.counted_limit:g} counted, {self._rule.timed_limit:g} timed"
        return f"slower since {commits}: {named}{more}; limit x {limits}"


def _named(
    found: Iterable[Regression], commits: Sequence[Commit], known: Mapping[AlertKey, Alert]
) -> dict[Labels, Regression]:
    """What is to be told of, under the label under which it was told before."""
    places = {commit.hash[:_HASH]: n for n, commit in enumerate(commits)}
    told = {labels: _suspects_of(labels, places) for _, labels in known}
    named: dict[Labels, Regression] = {}
    for regression in found:
        labels = next((label for label, at in told.items() if _meet(at, regression.suspects)), None)
        if labels is None:
            if len(commits) - regression.found > NEW_FOR:
                continue
            first, last = regression.suspects[0], regression.suspects[-1]
            hashes = commits[first - 1].hash[:_HASH], commits[last].hash[:_HASH]
            labels = ((_LABEL, "..".join(hashes)),)
        # Of two that were told of as one, the first speaks for both.
        named.setdefault(labels, regression)
    return named


def _suspects_of(labels: Labels, places: Mapping[str, int]) -> range:
    before, _, after = dict(labels)[_LABEL].partition("..")
    if before not in places or after not in places:
        return range(0)  # the branch was written anew
    return range(places[before] + 1, places[after] + 1)
