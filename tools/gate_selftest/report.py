"""The self-test's page: how often the gate is wrong, in tables, with the goals beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stageflow.pulse.gate import Exit
from tools.gate_selftest.trials import Rate

#: At most this share of comparisons of identical code may fail.
FALSE_ALARMS = 0.01
_CONDITIONS = {"quiet": "as it was", "loaded": "every processor kept busy"}
#: The least share of planted rises that has to be caught, by the rise.
CAUGHT = {0.05: 0.80, 0.10: 0.99, 0.20: 0.99}


def markdown(found: Mapping[str, Any]) -> str:
    """The page."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    machine = found["machine"]
    yield "# How far the gate can be trusted"
    yield ""
    yield (
        f"Measured {found['at']} on commit {found['commit'][:10]}, {machine['cpus']} CPUs, "
        f"{machine['system']} {machine['arch']}, Python {machine['python']}, by "
        "`python -m tools.gate_selftest`; each comparison is a whole run of the gate over "
        f"{found['series']} series."
    )
    yield ""
    yield "## Identical code"
    yield ""
    rows = [
        ("machine", "measured", "load average", "real comparisons that alarmed",
         "resampled ones that alarmed", "named something slower", "goal: alarms below 1 %",
         "scatter of counts"),
        *(_identical({"at": found["at"], "commit": found["commit"], **one})
          for one in found["identical"]),
    ]  # fmt: skip
    yield from _table(rows)
    yield ""
    real = [one["alarms"] for one in found["identical"]]
    alarms = Rate(sum(one["happened"] for one in real), sum(one["of"] for one in real))
    low, high = alarms.interval
    yield (
        f"In all, {alarms.happened} of {alarms.of} real comparisons alarmed, which is "
        f"{low:.1%} to {high:.1%} of all with 95 % confidence. "
        "Real comparisons use each recorded round once; resampled ones draw two rounds, and four "
        "pairs of processes, by chance. In brackets: 95 % interval (of the resampled ones only a "
        "guide, as they share rounds). Scatter is the largest difference of any counted series "
        "between any two rounds."
    )
    yield ""
    yield "## Planted slowdowns"
    yield ""
    rows = [
        ("layer", "series", "planted", "failed the gate", "failed or named", "goal: caught"),
        *map(_planted, found["planted"]),
    ]
    yield from _table(rows)
    yield ""
    yield (
        f"The gate fails what is counted above {found['limits']['counted_fail']:g} times the base, "
        f"names it above {found['limits']['counted_warn']:g} times, and fails any exact rise; "
        f"timing alone fails above {found['limits']['timed_fail']:g} times, if confirmed."
    )
    yield ""
    yield "## Other planted defects"
    yield ""
    yield from _table(
        [("planted", "must be found by", "which said"), *map(_other, found["others"])]
    )
    yield ""
    yield "## Faults of the gate's own"
    yield ""
    yield from _table(
        [("what went wrong", "must end with", "ends with"), *map(_fault, found["faults"])]
    )


def _identical(one: Mapping[str, Any]) -> tuple[str, ...]:
    alarms = one["alarms"]["happened"] + one["resampled"]["happened"]
    share = alarms / (one["alarms"]["of"] + one["resampled"]["of"])
    return (
        _CONDITIONS[one["condition"]],
        f"{one['at'][:10]}, {one['commit'][:10]}",
        f"{one['load']:.1f}",
        _rate(one["alarms"]),
        _rate(one["resampled"]),
        _rate(one["named"]),
        "met" if share < FALSE_ALARMS else f"MISSED: {share:.1%}",
        f"{one['scatter']:.3%} ({one['worst']})",
    )


def _planted(one: Mapping[str, Any]) -> tuple[str, ...]:
    share = one["caught"]["happened"] / one["caught"]["of"]
    exact = one["series"].startswith("exact.")
    goal = 1.0 if exact else CAUGHT.get(_nearest(one["planted"]), 0.99)
    return (
        one["layer"],
        f"`{one['series']}`",
        f"+{one['planted']:.1%}",
        _rate(one["failed"]),
        _rate(one["caught"]),
        f"{goal:.0%}: " + ("met" if share >= goal else "MISSED"),
    )


def _nearest(rise: float) -> float:
    return min(CAUGHT, key=lambda planted: abs(planted - rise))


def _fault(one: Mapping[str, Any]) -> tuple[str, ...]:
    expected, found = Exit(one["expected"]), Exit(one["found"])
    words = f"{found} ({found.name})"
    return (
        one["what"],
        f"{expected} ({expected.name})",
        words if found is expected else f"MISSED: {words}",
    )


def _other(one: Mapping[str, Any]) -> tuple[str, ...]:
    return one["what"], one["by"], one["found"] if one["caught"] else f"MISSED: {one['found']}"


def _rate(rate: Mapping[str, Any]) -> str:
    if not rate["of"]:
        return "none"
    return (
        f"{rate['happened']} of {rate['of']}, {rate['happened'] / rate['of']:.1%} "
        f"[{rate['low']:.1%} to {rate['high']:.1%}]"
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    head, *rest = rows
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rest:
        yield f"| {' | '.join(row)} |"
