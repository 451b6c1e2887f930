"""Series in, alerts out: one table that Prometheus and our own evaluator have to agree with.

What is expected was worked out by hand. Minute ``k`` of a case is looked at when it is over, so
what is wrong from minute 0 on is first seen at 1, and ``for`` 5 minutes have passed at 6.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from stageflow.events import EventLog
from stageflow.pulse.alerts import Alerts, Rule, load_alerts
from tests.utils.telemetry import NOON_S, batch, run_log, sink_of, voice_log

ROOT = Path(__file__).parents[2]
MINUTE_S = 60
FAST_MS, FAIR_MS, SLOW_MS = 100.0, 900.0, 2000.0

#: The pipeline whose runs are voice turns that stream.
STREAMING = "streaming_voice"

FIRING, RESOLVED, CLOSED = "firing", "resolved", "closed"


@dataclass(frozen=True)
class Stretch:
    """Some minutes that are alike.

    Attributes:
        minutes: How many.
        runs: Runs that end in each; of these are `fair` ones that take 900 ms, `slow` ones that
            take 2 s, and `failed` ones; all others take 100 ms. Those of `STREAMING` take that
            long to their first audio.
        breaker: State of the breaker of the provider ``llm``.
        letters: How many dead letters wait.
        pipeline: Whose runs.
        up: Whether there is a process; each one counts from 0 on.
    """

    minutes: int
    runs: int = 120
    fair: int = 0
    slow: int = 0
    failed: int = 0
    breaker: str = "closed"
    letters: int = 0
    pipeline: str = "voice"
    up: bool = True


@dataclass(frozen=True)
class Case:
    """A course of events, and when a rule fires and is resolved.

    Attributes:
        name: The subject of the case.
        rule: Name of the rule; the others are not looked at.
        stretches: The course of events.
        expected: At the end of which minute it fires or is resolved.
        label: Of what: name and value, if it has one.
    """

    name: str
    rule: str
    stretches: tuple[Stretch, ...]
    expected: tuple[tuple[int, str], ...]
    label: tuple[str, str] | None = ("pipeline", "voice")

    def __str__(self) -> str:
        return f"{self.rule}: {self.name}"

    @property
    def minutes(self) -> int:
        """How long it is."""
        return sum(stretch.minutes for stretch in self.stretches)

    @property
    def timeline(self) -> Iterator[tuple[int, Stretch]]:
        """Each minute, and what happens in it."""
        return enumerate(
            itertools.chain.from_iterable(itertools.repeat(s, s.minutes) for s in self.stretches)
        )

    def fires_at(self, minute: int) -> bool:
        """Whether the rule fires at the end of a minute."""
        states = [state for at, state in self.expected if at <= minute]
        return bool(states) and states[-1] == FIRING


def _both(
    rule: str,
    under: Stretch,
    over: Stretch,
    for_minutes: int,
    label: tuple[str, str] | None = ("pipeline", "voice"),
    *,
    keep_minutes: int = 15,
    again: bool = False,
) -> list[Case]:
    """The cases that each rule with a ``for`` has.

    Args:
        rule: Its name.
        under: A minute that is just under its limit.
        over: One that is over it.
        for_minutes: Its ``for``.
        label: Of what.
        keep_minutes: Its ``keep_firing_for``.
        again: Whether it fires again and again, too, for which all rules have the same code.
    """

    def lasting(stretch: Stretch, minutes: int) -> Stretch:
        return replace(stretch, minutes=minutes)

    calm, short, long = keep_minutes + 5, for_minutes, for_minutes + 1
    silent = [
        Case("just under its limit", rule, (lasting(under, 3 * for_minutes),), (), label),
        Case(
            "over it for less",
            *(rule, (lasting(under, 3), lasting(over, short), lasting(under, 5)), (), label),
        ),
        Case(
            "over it for long enough, but with a break",
            *(rule, (lasting(over, short), lasting(under, 1), lasting(over, short)), (), label),
        ),
    ]
    begin, end = 3 + long, 3 + long + 4 + keep_minutes
    lasts = Case(
        "over it for longer, then resolved",
        rule,
        (lasting(under, 3), lasting(over, long + 3), lasting(under, keep_minutes + 3)),
        ((begin, FIRING), (end, RESOLVED)),
        label,
    )
    twice = Case(
        "over it twice",
        rule,
        (lasting(over, long), lasting(under, calm), lasting(over, long), lasting(under, calm)),
        (
            (long, FIRING),
            (long + 1 + keep_minutes, RESOLVED),
            (2 * long + calm, FIRING),
            (2 * long + calm + 1 + keep_minutes, RESOLVED),
        ),
        label,
    )
    around = Case(
        "around its limit for an hour",
        rule,
        (lasting(over, long), *(lasting(under, 3), lasting(over, 4)) * (keep_minutes // 2)),
        ((long, FIRING),),
        label,
    )
    return [
        *silent,
        lasts,
        *([twice] if again else []),
        *([around] if again and keep_minutes else []),
    ]


_CHAT, _STREAMING = ("pipeline", "chat"), ("pipeline", STREAMING)
_LLM = ("provider", "llm")

CASES = [
    # 1 of 120 is 0.8 %, and 2 of 120 are 1.7 %.
    *_both(
        "VoiceLatencyOverBudget", Stretch(1, slow=1, fair=60), Stretch(1, slow=2), 5, again=True
    ),
    *_both(
        "ChatLatencyOverBudget",
        *(Stretch(1, fair=1, pipeline="chat"), Stretch(1, fair=2, pipeline="chat"), 5, _CHAT),
    ),
    *_both(
        "FirstAudioOverBudget",
        *(Stretch(1, fair=1, pipeline=STREAMING), Stretch(1, fair=2, pipeline=STREAMING)),
        *(5, _STREAMING),
    ),
    Case(
        "a turn that does not stream has no such limit",
        *("FirstAudioOverBudget", (Stretch(9, slow=60),), (), _STREAMING),
    ),
    Case(
        "turns that fail do not count as late, but as failed",
        *("FirstAudioOverBudget", (Stretch(9, failed=60, pipeline=STREAMING),), (), _STREAMING),
    ),
    Case(
        "streaming turns that fail",
        *("ErrorRateHigh", (Stretch(8, failed=2, pipeline=STREAMING),), ((6, FIRING),)),
        _STREAMING,
    ),
    Case(
        "a minute without runs is not a break",
        "VoiceLatencyOverBudget",
        (Stretch(4, slow=9), Stretch(1, runs=0), Stretch(5, slow=9)),
        ((6, FIRING),),
    ),
    Case(
        "three minutes without runs are a break",
        "VoiceLatencyOverBudget",
        (Stretch(2, slow=9), Stretch(3, runs=0), Stretch(5, slow=9)),
        (),
    ),
    Case(
        "runs end before it fires",
        *("VoiceLatencyOverBudget", (Stretch(3, slow=9), Stretch(12, runs=0)), ()),
    ),
    Case(
        "the first runs of a process fail",
        *("ErrorRateHigh", (Stretch(3, up=False), Stretch(8, runs=12, failed=12)), ((9, FIRING),)),
    ),
    Case(
        "a process restarts while its runs fail",
        "ErrorRateHigh",
        (Stretch(4, failed=2), Stretch(1, up=False), Stretch(4, failed=2)),
        ((6, FIRING),),
    ),
    Case("just enough runs", "ErrorRateHigh", (Stretch(7, runs=10, failed=1),), ((6, FIRING),)),
    Case("one run too few", "ErrorRateHigh", (Stretch(9, runs=9, failed=1),), ()),
    Case(
        "a slow turn a minute is too few",
        *("VoiceLatencyOverBudget", (Stretch(20, runs=1, slow=1),), ()),
    ),
    Case(
        "runs end while it fires",
        "VoiceLatencyOverBudget",
        (Stretch(9, slow=9), Stretch(22, runs=0)),
        # The last minute with runs holds for 2 minutes, and the alert is kept for 15 more.
        ((6, FIRING), (27, CLOSED)),
    ),
    Case("one failed run is too few", "ErrorRateHigh", (Stretch(9, runs=1, failed=1),), ()),
    Case(
        "one failed run is too few for the budget",
        *(
            "ErrorBudgetBurnsFast",
            (Stretch(4, runs=0), Stretch(1, runs=1, failed=1), Stretch(4, runs=0)),
            (),
        ),
    ),
    *_both("ErrorRateHigh", Stretch(1, failed=1), Stretch(1, failed=2), 5),
    *_both(
        "BreakerOpen", Stretch(1), Stretch(1, breaker="open"), 5, _LLM, keep_minutes=0, again=True
    ),
    Case(
        "probes that fail do not count as closed",
        "BreakerOpen",
        (
            Stretch(3, breaker="open"),
            Stretch(1, breaker="half_open"),
            Stretch(3, breaker="open"),
            Stretch(2),
        ),
        ((6, FIRING), (8, RESOLVED)),
        _LLM,
    ),
    *_both("DeadLettersWaiting", Stretch(1), Stretch(1, letters=2), 15, None, keep_minutes=0),
    # Its window is 10 minutes: the last run of minute 4 has left it at minute 15; from then on 5.
    Case(
        "runs stop for less",
        *("NoData", (Stretch(5, runs=4), Stretch(14, runs=0), Stretch(3, runs=4)), (), None),
    ),
    Case(
        "runs stop for longer, then resolved",
        "NoData",
        (Stretch(5, runs=4), Stretch(17, runs=0), Stretch(3, runs=4)),
        ((20, FIRING), (23, RESOLVED)),
        None,
    ),
    Case(
        "never a run",
        "NoData",
        (Stretch(7, runs=0), Stretch(2)),
        ((5, FIRING), (8, RESOLVED)),
        None,
    ),
    # 1.44 % of n minutes: 10 n > 1.44 (20 + n) from n = 4 on; 5 minutes later the short window is
    # empty, the long one still at 1.9 %.
    Case(
        "burns fast, then no longer",
        "ErrorBudgetBurnsFast",
        (Stretch(20, runs=100), Stretch(6, runs=100, failed=10), Stretch(23, runs=100)),
        ((24, FIRING), (46, RESOLVED)),
    ),
    Case(
        "a burst that the hour outweighs",
        "ErrorBudgetBurnsFast",
        (Stretch(20, runs=100), Stretch(2, runs=100, failed=10), Stretch(8, runs=100)),
        (),
    ),
    # 0.6 %: 35 + 2 n > 1.26 (35 + n) from n = 13 on, and 65 > 1.26 (50 + x) until x = 1.
    Case(
        "burns slowly, then no longer",
        "ErrorBudgetBurnsSlowly",
        (
            Stretch(35, runs=210, failed=1),
            Stretch(15, runs=210, failed=2),
            Stretch(19, runs=210),
        ),
        ((48, FIRING), (67, RESOLVED)),
    ),
]


@functools.cache
def our_alerts() -> Alerts:
    """The rules of this repository."""
    return load_alerts(ROOT / "benchmarks/alerts.toml")


def rule_of(case: Case) -> Rule:
    """The rule that a case is about."""
    return next(rule for rule in our_alerts().rules if rule.name == case.rule)


def record(case: Case, path: Path, begin_s: float = NOON_S) -> None:
    """Write what happens in a case into a file of telemetry, from `begin_s` on."""
    if path.exists():
        _record(case, path, begin_s)
    else:
        path.write_bytes(_recorded(case, begin_s))


@functools.cache
def _recorded(case: Case, begin_s: float) -> bytes:
    """A new file, made once for all tests of a case."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        _record(case, path, begin_s)
        return path.read_bytes()


def _record(case: Case, path: Path, begin_s: float) -> None:
    breaker, numbers = "closed", itertools.count()
    waiting: list[int] = []
    sink = sink_of(path)
    for minute, stretch in case.timeline:
        at_s = begin_s + minute * MINUTE_S + 1
        logs = list(_runs(stretch, minute, at_s))
        if stretch.breaker != breaker:
            logs.append(_breaker_log(minute, at_s, breaker, stretch.breaker))
            breaker = stretch.breaker
        while len(waiting) < stretch.letters:
            waiting.append(next(numbers))
            logs.append(_letter_log(waiting[-1], at_s, "waiting"))
        while len(waiting) > stretch.letters:
            logs.append(_letter_log(waiting.pop(), at_s, "replayed"))
        sink.write(batch(*logs))
    sink.close()


def _runs(stretch: Stretch, minute: int, at_s: float) -> Iterator[EventLog]:
    if not stretch.up:
        return
    usual = stretch.runs - stretch.fair - stretch.slow - stretch.failed
    kinds = (FAST_MS, usual), (FAIR_MS, stretch.fair), (SLOW_MS, stretch.slow)
    for takes, count in (*kinds, ("provider_timeout", stretch.failed)):
        for number in range(count):
            run_id = f"{minute}/{takes}/{number}"
            if stretch.pipeline == STREAMING and isinstance(takes, float):
                yield voice_log(run_id, takes, at_s=at_s, pipeline=STREAMING)
            else:
                yield run_log(run_id, {"llm": takes}, at_s=at_s, pipeline=stretch.pipeline)


def _breaker_log(minute: int, at_s: float, before: str, after: str) -> EventLog:
    log = EventLog(f"{minute}/breaker", 0.0, at_s)
    log.append(("pipeline.started", 0.0, None, {"pipeline": "voice"}))
    states = {"before": before, "after": after, "reason": "5 failures in a row"}
    log.append((f"stage.llm.breaker_{after}", 0.0, "llm", {"provider": "llm", **states}))
    return log


def _letter_log(number: int, at_s: float, what: str) -> EventLog:
    log = EventLog(f"letter/{number}", at_s, at_s)
    data = {
        "dead_letter_id": f"letter-{number}",
        "created_at": datetime.fromtimestamp(at_s, UTC).isoformat(),
        "pipeline": "voice",
        "failed_stage": "llm",
        "provider": "llm",
        "error_code": "provider_timeout",
        **({"replay_run_id": "again"} if what == "replayed" else {}),
    }
    log.append((f"dead_letter.{what}", at_s, None, data))
    return log
