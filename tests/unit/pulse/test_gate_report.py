"""The report of the gate, as text, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math

import pytest

from stageflow.pulse.gate import Judgement, Side, change
from stageflow.pulse.gate.report import Report
from tests.utils.gate import (
    BASE,
    COUNTED,
    EXACT,
    HEAD,
    HISTORY,
    TIMED,
    accepted,
    budget,
    evidence,
    interval,
    judged,
    timed,
    timing,
)

AT = dt.datetime(2030, 6, 15, 12, 0, tzinfo=dt.UTC)


def report(judgement: Judgement, base: str | None = BASE) -> Report:
    """The report on a judgement."""
    return Report(judgement, base, HEAD, "m, a processor", AT)


MIXED = judged(
    dataclasses.replace(
        evidence(
            {EXACT: 0.0, COUNTED: 100_000.0, HISTORY: 1.0},
            {EXACT: 2.0, COUNTED: 112_345.0, HISTORY: 1.0},
        ),
        removed=("counted.track_gone",),
    ),
    budget(COUNTED, 110_000.0),
    budget(HISTORY, 2.0),
    known=(accepted(COUNTED, 1.2),),
)


def test_text_says_what_by_how_much_how_sure_and_where() -> None:
    """A failed series has its values, its change, its signal and its certainty in one row."""
    text = report(MIXED).text()
    assert text.startswith("Gate: REGRESSION (exit code 1)\n")
    assert "bbbbbbbbbb..aaaaaaaaaa, on m, a processor" in text
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    exact = [cell.strip() for cell in rows[EXACT].split("  ") if cell.strip()]
    assert exact == [EXACT, "regression", "0 to 2 tasks", "from nothing", "exact", "exact"]
    assert f'To find the commit: stageflow pulse bisect "{EXACT}" --base bbbbbbbbbb' in rows
    assert "100,000 to 112,345 instructions" in rows[COUNTED]
    assert "+12.3 %" in rows[COUNTED]
    assert "worth it" in rows[COUNTED]


def test_text_lists_those_over_budget_by_name() -> None:
    """A budget that is exceeded has figure, limit, owner and the runbook's row; kept ones none."""
    lines = report(MIXED).text().splitlines()
    (over,) = [line for line in lines if "docs/runbook.md#row" in line]
    for part in (COUNTED, "value", "112,345", "110,000 instructions", "over", "o"):
        assert part in over
    assert "Figures of budgets: 1 over, 1 kept." in lines


def test_text_names_and_counts_the_rest() -> None:
    """Removed series are named, and those that need no look are counted by signal."""
    text = report(MIXED).text()
    assert "Removed (1): counted.track_gone." in text
    assert "Measured, not compared: 1 history." in text
    fine = report(judged(evidence({EXACT: 1.0, COUNTED: 5.0}, {EXACT: 1.0, COUNTED: 5.0}))).text()
    assert fine.startswith("Gate: OK (exit code 0)")
    assert "Unchanged: 1 exact, 1 counted." in fine
    assert EXACT not in fine


def test_first_commit_has_no_range() -> None:
    """Without a base the head alone is named."""
    text = report(judged(evidence({EXACT: 1.0}, {EXACT: 1.0})), base=None).text()
    assert "\naaaaaaaaaa, on" in text
    assert ".." not in text


def test_markdown_is_a_table_that_shows_names_as_they_are() -> None:
    """Every row has as many cells as the head, and signs that Markdown reads are escaped."""
    broken = timed(timing(None, head=Side(error="ValueError: a|b\n*c*")))
    text = report(judged(broken)).markdown()
    assert text.startswith("## Gate: A BENCHMARK BROKE (exit code 5)\n")
    head, rule, row = [line for line in text.splitlines() if line.startswith("|")]
    assert rule == "|---|---|---|---|---|---|"
    assert all(line.endswith(" |") for line in (head, row))
    assert head.count("|") == row.replace("\\|", "").count("|") == 7
    assert "ValueError: a\\|b \\*c\\*" in row
    assert "`bbbbbbbbbb..aaaaaaaaaa`" in text


def test_the_name_of_a_machine_is_shown_as_it_is() -> None:
    """It comes from a file of results: it is neither Markdown nor a control sequence."""
    found = Report(MIXED, BASE, HEAD, "m\n# <b>[x](y)\x1b[2J", AT)
    assert "on m \\# \\<b\\>\\[x\\](y)\ufffd\\[2J\n" in found.markdown()
    assert "on m # <b>[x](y)\ufffd[2J\n" in found.text()


def test_json_holds_every_verdict_and_check() -> None:
    """It is strict JSON, with the code, the commits, the time, the machine and all findings."""

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    found = json.loads(report(MIXED).json(), parse_constant=refuse)
    assert found["exit"] == {"code": 1, "name": "regression"}
    assert (found["base"], found["head"], found["machine"]) == (BASE, HEAD, "m, a processor")
    assert found["at"] == "2030-06-15T12:00:00+00:00"
    verdicts = {verdict["series"]: verdict for verdict in found["verdicts"]}
    assert verdicts.keys() == {EXACT, COUNTED, HISTORY, "counted.track_gone"}
    assert verdicts[EXACT]["kind"] == "regression"
    assert verdicts[EXACT]["ratio"] is None, "infinite"
    assert verdicts[COUNTED]["ratio"] == pytest.approx(1.12345)
    assert {check["state"] for check in found["budgets"]} == {"over", "kept"}


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(1.216, "+21.6 %"), (0.5, "-50.0 %"), (1.0, "+0.0 %"), (math.inf, "from nothing"), (None, "")],
)
def test_change(ratio: float | None, expected: str) -> None:
    """A ratio is shown as a change in per cent."""
    assert change(ratio) == expected


def test_how_sure_a_timing_is() -> None:
    """A timing's row carries its interval."""
    text = report(judged(timed(timing(interval(1.3, 1.4), interval(1.3, 1.4))))).text()
    assert "99% interval 1.300 to 1.400, confirmed by a second run" in text
    assert TIMED in text
