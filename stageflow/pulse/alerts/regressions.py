"""Find regressions in the history of benchmarks, and alert once for each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stageflow._utils.text import printable
from stageflow.pulse import history as hist
from stageflow.pulse.alerts.conditions import Alert, AlertKey, Labels, Reading, advanced
from stageflow.pulse.alerts.notice import Message, message_of, notice_of
from stageflow.pulse.alerts.rules import BenchmarkRule, Links
from stageflow.pulse.alerts.state import AlertState
from stageflow.pulse.gate import ACCEPTED_FILE, Accepted, load_accepted
from stageflow.pulse.history import AsvProject, Commit, History, Series, Step

#: How many series and commits a message names; the page shows all.
_NAMED = 5
_HASH = 10
_LABEL = "commits"
_BACK = "is back"


@dataclass(frozen=True, slots=True)
class Regression:
    """Series that became slower at the same commits, which are positions in the history.

    It became certain at the commit `found`; `ratios` are after divided by before, by series.
    """

    suspects: range
    found: int
    ratios: Mapping[str, float]


def regressions(
    history: History, rule: BenchmarkRule, accepted: Sequence[Accepted], today: dt.date
) -> tuple[Regression, ...]:
    """Return what regressed and has not come back, in the order in which it became certain.

    Known regressions, `accepted`, are left out until their last day.
    """
    found = [
        (step, series.name)
        for series in history.series
        for step in _regressed(series, rule)
        if step.over is None
        and not any(known.covers(series.name, step.ratio, today) for known in accepted)
    ]
    # Fewest suspects first, so that steps with the same possible cause join them.
    found.sort(key=lambda item: (len(item[0].suspects), item[0].found, item[1]))
    groups: list[Regression] = []
    for step, name in found:
        for number, group in enumerate(groups):
            if _meet(group.suspects, step.suspects):
                ratios = {**group.ratios, name: step.ratio}
                groups[number] = replace(group, ratios=ratios)
                break
        else:
            groups.append(Regression(step.suspects, step.found, {name: step.ratio}))
    return tuple(sorted(groups, key=lambda group: (group.found, group.suspects.start)))


def _regressed(series: Series, rule: BenchmarkRule) -> Iterator[Step]:
    timed = hist.scatters(series.name)
    limit = rule.timed_limit if timed else rule.counted_limit
    steps = hist.steps_of(series.values, limit, timed=timed, window=rule.window_commits)
    return (step for step in steps if step.ratio > limit)


def _meet(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


@dataclass(frozen=True, slots=True)
class HistoryWatch:
    """Alerts once for each regression, and once when it is over."""

    rule: BenchmarkRule
    links: Links
    project: AsvProject
    state: AlertState
    channels: Sequence[str]
    emit: hist.Emit = print

    def evaluate(self, now_s: float) -> Message | None:
        """Evaluate the history, and store the message that follows, if any."""
        left_out: list[str] = []
        history = hist.read_history(self.project, left_out.append)
        for line in left_out:
            self.emit(line)
        accepted = load_accepted(self.project.benchmarks_dir / ACCEPTED_FILE, None)
        today = dt.datetime.fromtimestamp(now_s, dt.UTC).date()
        found = regressions(history, self.rule, accepted, today)
        source = f"benchmarks of {self.project.root.resolve()}"
        with self.state.transaction():
            self.state.adopt(source, "benchmarks of ")
            known = self.state.alerts(source)
            named = _named(found, history, known)
            readings = [self._reading(*item, history.commits) for item in named.items()]
            after: list[Alert] = []
            for alert in advanced(self.rule.name, known, readings, now_s):
                if alert.ended_s is None:
                    new = alert.key not in known
                    after.append(self._described(alert, named[alert.labels], history, new=new))
                else:
                    over = self._over(alert, history, accepted, today)
                    # A file that was left out may hold the value: wait for it.
                    after.append(over if over.back or not left_out else known[alert.key])
            quiet = now_s < self.rule.silent_until_s
            notices = [
                notice_of(self.rule, alert, self.links)
                for alert in after
                if (alert.told if alert.ended_s else not (alert.told or quiet))
            ]
            lasting = [replace(a, told=a.told or not quiet) for a in after if a.ended_s is None]
            self.state.keep(source, now_s, lasting)
            message = message_of(notices)
            if message:
                self.state.put(message, self.channels, now_s)
        return message

    def _reading(
        self, labels: Labels, regression: Regression, commits: Sequence[Commit]
    ) -> Reading:
        """Return a regression as a reading; commits that were not measured are suspects, too."""
        first, last = regression.suspects[0], regression.suspects[-1]
        span = f"{commits[first - 1].hash}..{commits[last].hash}"
        log = self.project.git("log", "-z", "--format=%h %s", span, "--")
        between = [printable(title) for title in log.split("\0") if title]
        named = "; ".join(between[:_NAMED])
        more = f"; and {len(between) - _NAMED} more" if len(between) > _NAMED else ""
        likely = f"{'commit' if len(between) == 1 else 'one of'} {named}{more}"
        return Reading(labels, max(regression.ratios.values()), likely)

    def _described(self, alert: Alert, found: Regression, history: History, *, new: bool) -> Alert:
        worst = sorted(found.ratios.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} x {ratio:.2f}" for name, ratio in worst[:_NAMED])
        more = f" and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
        limits = f"{self.rule.counted_limit:g} counted, {self.rule.timed_limit:g} timed"
        what = f"slower since {dict(alert.labels)[_LABEL]}: {named}{more}; limit x {limits}"
        # A new alert began with the last commit that may have caused it.
        since_s = float(history.commits[found.suspects[-1]].at_s) if new else alert.since_s
        series = dict.fromkeys(found.ratios, history.machine)
        return replace(
            alert,
            what=what,
            since_s=since_s,
            series=series,
            runbook=self.rule.runbook,
            owner=self.rule.owner,
        )

    def _over(
        self, alert: Alert, history: History, accepted: Sequence[Accepted], today: dt.date
    ) -> Alert:
        """Describe a regression that is not found any more: back only if its values came down."""
        since, at = dict(alert.labels)[_LABEL], _suspects_of(alert.labels, history.commits)
        causes: dict[str, list[str]] = {}
        for name, machine in alert.series.items():
            cause = "was measured on another machine"
            if not history.machine or machine == history.machine:
                cause = self._cause(history.named(name), at, accepted, today)
            causes.setdefault(cause, []).append(name)
        if set(causes) == {_BACK}:
            return replace(alert, what=f"the benchmarks that were slower since {since} are back")
        named = (f"{', '.join(names[:_NAMED])} {cause}" for cause, names in causes.items())
        what = f"slower since {since}, and not judged any more: {'; '.join(named)}"
        return replace(alert, what=what, back=False)

    def _cause(
        self, series: Series | None, at: range, accepted: Sequence[Accepted], today: dt.date
    ) -> str:
        if series is None:
            return "is not measured any more"
        if not at:
            return "is as it is, but its commits are not in the history any more"
        steps = [step for step in _regressed(series, self.rule) if _meet(step.suspects, at)]
        for entry in accepted:
            if any(s.over is None and entry.covers(series.name, s.ratio, today) for s in steps):
                return f"is accepted until {entry.until}"
        measured = [n for n, value in enumerate(series.values) if value is not None]
        compared = measured[0] < at.start and measured[-1] >= at.stop - 1
        return _BACK if steps or compared else "has no values on both sides of it"


def _named(
    found: Iterable[Regression], history: History, known: Mapping[AlertKey, Alert]
) -> dict[Labels, Regression]:
    """Return the regressions to alert for, under the labels that they had before."""
    commits = history.commits
    told = {labels: _suspects_of(labels, commits) for _, labels in known}
    named: dict[Labels, Regression] = {}
    for regression in found:
        same = dict.fromkeys(regression.ratios, history.machine).items()
        found_before = (
            alert.labels
            for alert in known.values()
            # The series tell where the branch was rewritten.
            if _meet(told[alert.labels], regression.suspects)
            or (not told[alert.labels] and alert.series.items() & same)
        )
        if (labels := next(found_before, None)) is None:
            if len(commits) - regression.found > hist.OPEN_FOR:
                continue
            first, last = regression.suspects[0], regression.suspects[-1]
            hashes = commits[first - 1].hash[:_HASH], commits[last].hash[:_HASH]
            labels = ((_LABEL, "..".join(hashes)),)
        # Of two regressions that were reported as one, the first represents both.
        named.setdefault(labels, regression)
    return named


def _suspects_of(labels: Labels, commits: Sequence[Commit]) -> range:
    places = {commit.hash[:_HASH]: n for n, commit in enumerate(commits)}
    before, _, after = dict(labels)[_LABEL].partition("..")
    if before not in places or after not in places:
        return range(0)  # the branch was rewritten
    return range(places[before] + 1, places[after] + 1)
