"""The calculations of the pages' scripts, in the browser that runs them."""

# ruff: noqa: RUF001 - the signs that the pages show

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from stageflow.pulse.history import STATIC_DIR

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def logic(browser: Browser) -> Iterator[Page]:
    """An empty page with all scripts that compute."""
    page = browser.new_page()
    for name in ("logic", "base", "charts", "data"):
        page.add_script_tag(path=STATIC_DIR / f"central/{name}.js")
    yield page
    page.close()


STEADY = [100, 101, 99, 100, 101, 99] * 3
WHOLE = "scales: { x: { min: 0, max: 3 } }, data: [[0, 1, 2, 3], [100, null, 140, 150]]"
CLOSE = WHOLE.replace("min: 0", "min: 2")
LIMITS = "{ counted_warn: 1.01, timed_warn: 1.05 }"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        # An address holds a view and its state, and gives both back.
        ("logic.format('live', { stage: 'a/b & c', range: null, find: '' })",
         "#live?stage=a%2Fb+%26+c"),
        ("logic.parse('#live?stage=a%2Fb+%26+c')",
         {"view": "live", "params": {"stage": "a/b & c"}}),
        ("logic.parse('#%E0%A4%A?x=%E0%A4%A').view", "%E0%A4%A"),
        ("[logic.range('1.5..7'), logic.range('-0.5..2'), logic.range('7..1'), logic.range('x')]",
         [[1.5, 7], [-0.5, 2], None, None]),
        # Numbers read well in any size.
        ("[83, 60, 3600, 90061, 5400].map((s) => logic.number(s, 's'))",
         ["1 min 23 s", "1 min", "1 h", "25 h 1 min", "1 h 30 min"]),
        ("logic.number(6e23, 'B')", "6.00 × 10¹⁴ GB"),
        ("logic.number(6e23, 'steps')", "6.00 × 10²³ steps"),
        ("[logic.number(1, 'exponents'), logic.number(2, 'exponents')]",
         ["1 exponent", "2 exponents"]),
        ("[logic.number(null, 's'), logic.number(0, 's'), logic.number(0.00025, 's')]",
         ["–", "0 ms", "250 µs"]),
        ("[0, 0.00001, 0.5, null].map(logic.percent)", ["0 %", "< 0.01 %", "50 %", "–"]),
        ("[1234567, 45e9, -20000, 1, 83].map((n) => logic.short(n, 'instructions'))",
         ["1.23 M", "45 G", "-20 k", "1", "83"]),
        ("[0.5, -0.123, 0, 12.3456].map((share) => logic.signed(share))",
         ["+50 %", "−12.3 %", "±0 %", "+1,234.6 %"]),
        ("[1, 1000].map((n) => logic.plural(n, 'commit'))", ["1 commit", "1,000 commits"]),
        ("[logic.median([3, 1, 2]), logic.median([4, 1, 2, 3])]", [2, 2.5]),
        ("logic.distinct(['a', 'a', null, 'b', 'a'])", ["a", "", "", "b", "a"]),
        ("['ab', '😀'.repeat(121)].map((t) => [...logic.clipped(t)].length)", [2, 113]),
        ("logic.clipped('a\\u202eb\\nc')", "a\ufffdb\ufffdc"),
        ("[[3e5, 900], [3600, 600], [60, 12]].map(([n, s]) => central.charts.timeForm(n, s))",
         [{"month": "short", "day": "numeric"}, {"hour": "2-digit", "minute": "2-digit"},
          {"hour": "2-digit", "minute": "2-digit", "second": "2-digit"}]),
        # Neither a step nor an outlier is noise; too few values have none.
        (f"logic.noise({[100.0] * 10 + [200.0] * 10})", 0),
        (f"logic.noise({STEADY}) < 0.02", True),
        ("logic.noise([1, 2, 3, 4])", None),
        (f"Math.round(1000 * logic.change({[*STEADY, 110]}).share)", 100),
        ("logic.change([null, 5])", None),
        ("logic.change([0, 0, 5])", None),
        # A difference counts beyond the gate's limit and the noise of its series.
        (f"logic.significant(100, 101, 'exact', {LIMITS}, 0)", "up"),
        (f"logic.significant(100, 100.5, 'counted', {LIMITS}, 0)", ""),
        (f"logic.significant(100, 102, 'counted', {LIMITS}, 0)", "up"),
        (f"logic.significant(100, 110, 'timed', {LIMITS}, 0.05)", ""),
        (f"logic.significant(100, 50, 'timed', {LIMITS}, 0.05)", "down"),
        ("logic.significant(100, 110, 'history', null, null)", ""),
        (f"logic.significant(null, 1, 'exact', {LIMITS}, 0)", ""),
        # What chosen runs share, and others do not.
        ("logic.common([{ s: 'llm', p: 'a' }, { s: 'llm', p: 'b' }],"
         " [{ s: 'llm' }, { s: 'llm' }, { s: 'tts' }, { s: 'tts' }],"
         " { slowest: (r) => r.s, process: (r) => r.p })"
         ".map((one) => [one.dimension, one.value, one.share, one.usual])",
         [["slowest", "llm", 1, 0.5], ["process", "a", 0.5, 0], ["process", "b", 0.5, 0]]),
        ("logic.common([], [], {})", []),
        ("[logic.isFew(99, 99), logic.isFew(100, 99), logic.isFew(19, 50)]", [True, False, True]),
        # The verdict is a sentence.
        ("logic.verdict([[1, 'alert', 'alerts'], [0, 'x', 'xs'], [2, 'letter', 'letters']], true)"
         ".text",
         "1 alert and 2 letters"),
        ("logic.verdict([[0, 'alert', 'alerts']], true).state", "good"),
        ("logic.verdict([[0, 'alert', 'alerts']], false).text", "Nothing is watched yet"),
        # A gap breaks the line, a lone point is still seen.
        ("logic.sparkline([1, null, 2], 10, 10).match(/M/g).length", 2),
        ("logic.sparkline([], 10, 10)", ""),
        ("logic.sparkline([5, 5], 10, 10)", "M0.0 5.0L10.0 5.0"),
        # An axis begins at 0, except closely looked at; a limit is in sight if it is near.
        (f"central.charts.room([200], 1)({{ {WHOLE} }})", [0, 216]),
        (f"central.charts.room([500], 1)({{ {WHOLE} }})", [0, 162]),
        (f"central.charts.room([], 1)({{ {CLOSE} }})", [139.2, 150.8]),
        (f"central.charts.room([], 1)({{ {CLOSE.replace('140', 'null').replace('150', 'null')} }})",
         [0, 1]),
        # A step without rows breaks the line; a share needs something that ended.
        ("central.byStep({ start_s: 100, step_s: 10 }, [[0, 1], [1, 2], [4, 3]], 1)",
         [[105, 115, 125, 145], [1, 2, None, 3]]),
        ("central.rates({ codes: { a: [[0, 1]], b: [[0, 2], [1, 1]] }, ended: [[0, 6], [1, 0]] })",
         [[0, 0.5], [1, None]]),
        ("[central.key({ pipeline: 'p', stage: 's' }), central.named({ pipeline: 'p' })]",
         ["p/s", "p (whole turn)"]),
        # Markdown of a runbook.
        ("logic.markdown('# T\\n\\na\\nb\\n\\n- x\\n  y\\n- z\\n```\\ncode\\n```')",
         [{"kind": "h", "text": "T"}, {"kind": "p", "text": "a b"},
          {"kind": "ul", "items": ["x y", "z"]}, {"kind": "pre", "text": "code\n"}]),
        ("logic.inline('see `a<b` and **c** [d](#e)')",
         [["text", "see "], ["code", "a<b"], ["text", " and "], ["b", "c"], ["text", " "],
          ["a", "d", "#e"]]),
    ],
)  # fmt: skip
def test_computed(logic: Page, expression: str, value: Any) -> None:
    """An expression has its value."""
    assert logic.evaluate(f"() => {expression}") == value
