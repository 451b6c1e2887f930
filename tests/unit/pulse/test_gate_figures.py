"""Names of series, units, percentiles and intervals, each against a figure worked out by hand."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow.pulse import PulseError, TooFewSamplesError
from stageflow.pulse.history import (
    Signal,
    benchmark_of,
    fitting_units,
    median_interval,
    operation_of,
    percentile,
    resolve_series,
    selected_series,
    series_of,
    signal_of,
    timed,
    unit_factor,
)


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("exact.track_tasks('voice')", Signal.EXACT),
        ("counted.track_instructions('bag.write')", Signal.COUNTED),
        ("timed('bag.write')", Signal.TIMED),
        ("voice.Latency.track_turn", Signal.HISTORY),
        ("history.track_x", Signal.HISTORY),
        ("exactly.track_x", Signal.HISTORY),
    ],
)
def test_signal_follows_from_the_name(name: str, signal: Signal) -> None:
    """The file that a benchmark stands in says by what it is judged."""
    assert signal_of(name) is signal


def test_series_are_named_as_asv_prints_them() -> None:
    """Parameters come in the order of asv's results: the last one runs fastest."""
    params = [["'a'", "'b'"], ["1", "2"]]
    expected = ["x.t('a', 1)", "x.t('a', 2)", "x.t('b', 1)", "x.t('b', 2)"]
    assert list(series_of("x.t", params)) == expected
    assert list(series_of("x.t", [])) == ["x.t"]
    assert {benchmark_of(name) for name in [*expected, "x.t"]} == {"x.t"}


def test_timed_series_and_their_works() -> None:
    """The name of a timed series leads back to its work."""
    assert timed("bag.write") == "timed('bag.write')"
    assert operation_of("timed('bag.write')") == "bag.write"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, ["timed('a')", "exact.track_x[1]", "exact.track_y"]),
        ("exact.*", ["exact.track_x[1]", "exact.track_y"]),
        ("track_y", ["exact.track_y"]),
        ("*[1]", ["exact.track_x[1]"]),
        ("*[a]", []),
        ("nothing", []),
    ],
)
def test_selected(pattern: str | None, expected: list[str]) -> None:
    """A pattern is a part of the name or a shell pattern; brackets mean themselves."""
    assert selected_series(["timed('a')", "exact.track_x[1]", "exact.track_y"], pattern) == expected


def test_resolve() -> None:
    """Any part that is in one name only is enough, a whole name is always, and else it is said."""
    known = ["exact.track_a", "exact.track_ab", "timed('b')"]
    assert resolve_series("timed", known) == "timed('b')"
    assert resolve_series("exact.track_a", known) == "exact.track_a"
    with pytest.raises(PulseError, match=r"2 series, name one of: exact.track_a, exact.track_ab"):
        resolve_series("track_a", known)
    with pytest.raises(PulseError, match=r"did you mean 'exact.track_a'\?"):
        resolve_series("exact.trick_a", known)


@pytest.mark.parametrize("part", ["", " ", "e", "series"])
def test_a_series_that_is_not_named_gets_a_short_answer(part: str) -> None:
    """However many there are, a few of them are named."""
    known = [f"exact.track_series({number!r})" for number in range(500)]
    with pytest.raises(PulseError, match=r"name one of: exact.*\(2\).* and 49\d more") as caught:
        resolve_series(part, known)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("unit", "wanted", "expected"),
    [
        ("ns", "ms", 1e-6),
        ("seconds", "ms", 1e3),
        ("ms", "µs", 1e3),
        ("s", "seconds", 1),
        ("bytes", "kB", 1e-3),
        ("MB", "B", 1e6),
        ("calls", "calls", 1),
    ],
)
def test_units_of_one_family_convert(unit: str, wanted: str, expected: float) -> None:
    """Units are those of physics: decimal, and times with times only."""
    assert unit_factor(unit, wanted) == pytest.approx(expected)
    assert wanted in fitting_units(unit)


@pytest.mark.parametrize(("unit", "wanted"), [("ms", "MB"), ("calls", "tasks"), ("tasks", "s")])
def test_units_of_two_families_do_not(unit: str, wanted: str) -> None:
    """A unit of another quantity is refused."""
    with pytest.raises(ValueError, match="cannot be converted"):
        unit_factor(unit, wanted)
    assert wanted not in fitting_units(unit)


@given(st.lists(st.floats(-1e6, 1e6), min_size=100, max_size=300), st.sampled_from([50, 99]))
def test_percentile(samples: list[float], percent: int) -> None:
    """It is a sample, enough samples do not exceed it, and no smaller sample is that."""
    found = percentile(samples, percent)
    needed = percent * len(samples) / 100
    assert found in samples
    assert sum(s <= found for s in samples) >= needed
    assert sum(s < found for s in samples) < needed


@pytest.mark.parametrize(("percent", "least"), [(50, 20), (99, 100)])
def test_percentile_of_too_few(percent: int, least: int) -> None:
    """One sample less than is needed is an error that says both numbers."""
    assert percentile([1.0] * least, percent) == 1.0
    with pytest.raises(TooFewSamplesError, match=rf"at least {least} .* there are {least - 1}"):
        percentile([1.0] * (least - 1), percent)


def test_interval_of_twelve() -> None:
    """Of 12 samples the second and the eleventh are 99.4 % sure, the third and tenth only 96 %."""
    found = median_interval([float(n) for n in range(12, 0, -1)])
    assert (found.low, found.median, found.high) == (2.0, 6.5, 11.0)
    assert (found.samples, found.confidence) == (12, 0.99)
    assert str(found) == "99% interval 2.000 to 11.000"


@pytest.mark.parametrize("n", [0, 1, 7])
def test_interval_of_too_few(n: int) -> None:
    """Seven samples lie on one side of the median once in 64 times: not 99 % sure."""
    with pytest.raises(TooFewSamplesError, match=f"from {n} samples"):
        median_interval([1.0] * n)
    assert median_interval([1.0] * 8).low == 1.0


@given(st.lists(st.floats(0.1, 10), min_size=8, max_size=60))
def test_interval_holds_its_median(samples: list[float]) -> None:
    """The ends are samples on either side of the median that the standard library finds."""
    found = median_interval(samples)
    assert found.median == pytest.approx(statistics.median(samples))
    assert found.low <= found.median <= found.high
    assert {found.low, found.high} <= set(samples)


def test_interval_covers_as_often_as_it_says() -> None:
    """Over all 4,096 ways that 12 samples can fall below or above, at least 99 % are covered."""
    covered = 0
    for signs in itertools.product((-1.0, 1.0), repeat=12):
        chance = random.Random(0)
        found = median_interval([sign * chance.random() for sign in signs])
        covered += found.low <= 0 <= found.high
    assert covered / 2**12 >= 0.99
    assert covered / 2**12 == pytest.approx(1 - 2 * 13 / 4096)
