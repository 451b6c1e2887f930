"""``budgets.toml`` and ``accepted.toml``: what is read, and each mistake with line and fix."""

from __future__ import annotations

import datetime as dt
import math
import re
from pathlib import Path

import pytest

from stageflow.pulse import GateSettingsError
from stageflow.pulse.gate import Gate, Limits, budgets

KNOWN = {
    "counted.track_instructions('bag.write')": "instructions",
    "exact.track_tasks('voice')": "tasks",
    "timed('bag.write')": "ns",
    "voice.Latency.track_turn": "seconds",
    "memory.peakmem_runs": "bytes",
}

BUDGETS = """\
version = 1

[limits]
counted_fail = 1.095
counted_warn = 1.02
timed_fail = 1.2
timed_warn = 1.05

[[budget]]
metric = "Bag write"
benchmark = "timed('bag.write')"
unit = "ms"
p50 = 0.1
p99 = 1
gate = "pre-merge"
owner = "engine"
runbook = "bag-write"

[[budget]]
metric = "Tasks"
benchmark = "exact.track_tasks('voice')"
unit = "tasks"
p50 = 4
gate = "nightly"
owner = "kernels"
runbook = "tasks"

[[without_budget]]
benchmarks = "counted.*"
reason = "counts have no budget here"
"""

ACCEPTED = """\
version = 1

[[accepted]]
benchmark = "timed('bag.write')"
up_to = 1.3
reason = "checks more"
until = 2030-01-31
owner = "engine"
"""


def load(tmp_path: Path, text: str, known: dict[str, str] | None = None) -> budgets.Budgets:
    """The budgets in a file of that text."""
    path = tmp_path / "budgets.toml"
    path.write_text(text, encoding="utf-8")
    return budgets.load_budgets(path, known or KNOWN, ("bag-write", "tasks"))


def load_accepted(tmp_path: Path, text: str) -> tuple[budgets.Accepted, ...]:
    """The accepted regressions in a file of that text."""
    path = tmp_path / "accepted.toml"
    path.write_text(text, encoding="utf-8")
    return budgets.load_accepted(path, KNOWN)


def test_sound_budgets(tmp_path: Path) -> None:
    """Every field is read, and figures are kept in the unit in which they were written."""
    found = load(tmp_path, BUDGETS)
    assert found.limits == Limits(1.095, 1.02, 1.2, 1.05)
    bag, tasks = found.budgets
    assert (bag.metric, bag.series, bag.unit, bag.p50, bag.p99) == (
        *("Bag write", "timed('bag.write')", "ms"),
        *(0.1, 1),
    )
    assert (bag.gate, bag.owner, bag.runbook, bag.line) == (
        *(Gate.PRE_MERGE, "engine", "bag-write"),
        9,
    )
    assert 2_000_000 * bag.factor == pytest.approx(2)
    assert (tasks.p99, tasks.gate, tasks.factor, tasks.line) == (None, Gate.NIGHTLY, 1, 19)


def test_a_file_as_other_editors_save_it(tmp_path: Path) -> None:
    """A mark of the byte order and carriage returns change nothing."""
    found = load(tmp_path, "\ufeff" + BUDGETS.replace("\n", "\r\n"))
    assert found == load(tmp_path, BUDGETS)


def test_without_a_runbook_any_section_may_be_named(tmp_path: Path) -> None:
    """A project may keep it elsewhere."""
    path = tmp_path / "budgets.toml"
    path.write_text(BUDGETS.replace('"bag-write"', '"nowhere"'), encoding="utf-8")
    assert budgets.load_budgets(path, KNOWN).budgets[0].runbook == "nowhere"


def test_settings_that_are_nested_too_deeply(tmp_path: Path) -> None:
    """They are named like any other mistake."""
    with pytest.raises(GateSettingsError, match="nested too deeply"):
        load(tmp_path, f"x = {'[' * 100_000}")


def test_nightly_holds_all(tmp_path: Path) -> None:
    """Before a merge only those that say so are held; by night, all."""
    found = load(tmp_path, BUDGETS)
    assert [b.metric for b in found.held(nightly=False)] == ["Bag write"]
    assert [b.metric for b in found.held(nightly=True)] == ["Bag write", "Tasks"]


_ONE = """
[[reference]]
benchmark = "counted.track_instructions('bag.write')"
value = 1000
"""
REFERENCE = f"""{_ONE}
[[budget]]
metric = "Bag write, counted"
benchmark = "counted.track_instructions('bag.write')"
unit = "instructions"
p50 = 1300
gate = "pre-merge"
owner = "engine"
runbook = "bag-write"
"""


def test_a_reference_is_of_its_unit(tmp_path: Path) -> None:
    """Budgets in the unit of the reference are relative to it, others are the same everywhere."""
    found = load(tmp_path, BUDGETS + REFERENCE).budgets
    assert [budget.reference for budget in found] == [
        None,
        None,
        ("counted.track_instructions('bag.write')", 1000.0),
    ]


@pytest.mark.parametrize(
    ("old", "new", "fix"),
    [
        ("value = 1000", "value = 0", "write what was measured"),
        ("value = 1000", "value = nan", "write what was measured"),
        ("value = 1000\n", "", "lacks the key 'value'"),
        ("('bag.write')", "('bag.wrote')", "did you mean"),
        ("[[reference]]", "[reference]", "write [[reference]]"),
        ("\n[[budget]]", f"{_ONE}\n[[budget]]", "instructions have a reference in line 32 already"),
    ],
)
def test_mistake_in_the_reference(tmp_path: Path, old: str, new: str, fix: str) -> None:
    """It is named with its line, as any other."""
    with pytest.raises(GateSettingsError, match=re.escape(fix)):
        load(tmp_path, BUDGETS + REFERENCE.replace(old, new, 1))


MISTAKES = {
    "typo in a key": ('owner = "engine"', 'ower = "engine"', 16, "did you mean 'owner'?"),
    "missing key": ('owner = "engine"\n', "", 9, "lacks the key 'owner'"),
    "a text for a number": ("p50 = 0.1", 'p50 = "0.1"', 13, "has to be a number"),
    "a truth for a number": ("p50 = 0.1", "p50 = true", 13, "has to be a number"),
    "an empty text": ('owner = "engine"', 'owner = " "', 16, "has to be a text"),
    "unknown gate": ('"pre-merge"', '"premerge"', 15, 'write "pre-merge" or "nightly"'),
    "p99 below p50": ("p99 = 1\n", "p99 = 0.01\n", 14, "p99 = 0.01 is below p50 = 0.1"),
    "negative": ("p50 = 0.1", "p50 = -1", 13, "p50 = -1 is not a cost"),
    "not a number": ("p99 = 1\n", "p99 = nan\n", 14, "p99 = nan is not a cost"),
    "no such benchmark": ("timed('bag.write')", "timed('bag.wriet')", 11, "timed('bag.write')"),
    "unit that does not fit": ('unit = "ms"', 'unit = "MB"', 12, "write ns or µs or us or ms or s"),
    "unknown unit": ('unit = "tasks"', 'unit = "task"', 22, "write tasks"),
    "no such section": ('"bag-write"', '"nowhere"', 17, "docs/runbook.md has no section 'nowhere'"),
    "misspelt section": ('"tasks"\n\n', '"task"\n\n', 26, "did you mean 'tasks'?"),
    "p99 of a scalar": ("p50 = 4\n", "p50 = 4\np99 = 4\n", 24, "no percentiles: remove p99"),
    "typo in a table": ("[limits]", "[limit]", 3, "did you mean 'limits'?"),
    "typo in a header": ("[[without_budget]]", "[[without_budgets]]", 28, "'without_budget'"),
    "a table for many": ("[[without_budget]]", "[without_budget]", 28, "[[without_budget]]"),
    "pattern without benchmark": ('"counted.*"', '"count.*"', 29, "matches no benchmark"),
    "no reason": ('reason = "counts have no budget here"\n', "", 28, "lacks the key 'reason'"),
    "no version": ("version = 1\n", "", 1, "write version = 1"),
    "unknown version": ("version = 1", "version = 2", 1, "version 2 is not known"),
    "limit below 1": ("counted_warn = 1.02", "counted_warn = 0.9", 5, "1 <= warn <= fail"),
    "warn above fail": ("timed_warn = 1.05", "timed_warn = 1.5", 7, "1 <= warn <= fail"),
    "missing limit": ("timed_warn = 1.05\n", "", 3, "lacks the key 'timed_warn'"),
    "not TOML": ("p50 = 0.1", "p50 = ", 13, "not TOML"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_in_budgets(tmp_path: Path, name: str) -> None:
    """Each mistake is named with the file, its line, and what to write."""
    old, new, line, fix = MISTAKES[name]
    assert old in BUDGETS
    with pytest.raises(GateSettingsError) as caught:
        load(tmp_path, BUDGETS.replace(old, new, 1))
    (problem,) = [p for p in caught.value.problems if f":{line}: " in p]
    assert problem.startswith(f"{tmp_path / 'budgets.toml'}:")
    assert fix in problem


def test_duplicate_budget(tmp_path: Path) -> None:
    """Two budgets of one metric on one series are named with both lines."""
    start, end = BUDGETS.index("[[budget]]"), BUDGETS.index("[[without_budget]]")
    with pytest.raises(GateSettingsError, match=r":41: 'Tasks' of .* in line 19 already"):
        load(tmp_path, BUDGETS + BUDGETS[start:end].replace("Bag write", "The same again"))


def test_two_metrics_on_one_series(tmp_path: Path) -> None:
    """A series may have a promised budget and a tighter one."""
    start, end = BUDGETS.index("[[budget]]"), BUDGETS.index("[[without_budget]]")
    more = BUDGETS[start:end].replace("Bag write", "Bag write, ours").replace("Tasks", "Ours")
    assert len(load(tmp_path, BUDGETS + more).budgets) == 4


@pytest.mark.parametrize(
    "series",
    ["exact.track_new", "counted.new.track_x", "timed('new')", "exact.track_tasks('chat')"],
)
def test_series_without_budget(tmp_path: Path, series: str) -> None:
    """A judged series without a budget and without an excuse is an error that names it."""
    text = BUDGETS.replace('"counted.*"', '"counted.track_*"')
    with pytest.raises(GateSettingsError) as caught:
        load(tmp_path, text, KNOWN | {series: "tasks"})
    (problem,) = caught.value.problems
    assert f"{series} (tasks) has no budget" in problem
    assert f'benchmark = "{series}"' in problem


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """One error lists every mistake of a file."""
    text = BUDGETS.replace('"nightly"', '"never"').replace('"ms"', '"tasks"')
    with pytest.raises(GateSettingsError) as caught:
        load(tmp_path, text)
    assert len(caught.value.problems) == 2
    assert "never" in str(caught.value)
    assert "does not fit" in str(caught.value)


def test_values_of_the_wrong_shape(tmp_path: Path) -> None:
    """Tables that are plain values are refused as such."""
    text = 'version = 1\nbudget = ["x"]\nlimits = 3\n'
    with pytest.raises(GateSettingsError) as caught:
        load(tmp_path, text)
    said = str(caught.value)
    assert "'budget' has to be a table: write [[budget]]" in said
    assert ":3: 'limits' has to be a table: write [limits]" in said


def test_no_limits(tmp_path: Path) -> None:
    """The limits have to be written: nothing is assumed."""
    names = ", ".join(Limits.__slots__)
    with pytest.raises(GateSettingsError, match=rf"\[limits\] is missing: write it with {names}"):
        load(tmp_path, "version = 1\n")


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """The error names a budgets file that is missing, and one that is not text."""
    with pytest.raises(GateSettingsError, match="No such file"):
        budgets.load_budgets(tmp_path / "none.toml", KNOWN)
    (tmp_path / "latin.toml").write_bytes(b"version = 1 # \xe9")
    with pytest.raises(GateSettingsError, match="not UTF-8 text at byte 14"):
        budgets.load_budgets(tmp_path / "latin.toml", KNOWN)


def test_sound_acceptances(tmp_path: Path) -> None:
    """Every field is read, and the last day still counts."""
    (known,) = load_accepted(tmp_path, ACCEPTED)
    assert known == budgets.Accepted(
        *("timed('bag.write')", 1.3, "checks more", dt.date(2030, 1, 31), "engine", 3)
    )
    assert known.counts(dt.date(2030, 1, 31))
    assert not known.counts(dt.date(2030, 2, 1))


def test_infinite_acceptance(tmp_path: Path) -> None:
    """A rise from 0 can be accepted, since TOML has infinity."""
    (known,) = load_accepted(tmp_path, ACCEPTED.replace("1.3", "inf"))
    assert known.up_to == math.inf


def test_no_file_of_acceptances(tmp_path: Path) -> None:
    """Without the file nothing is accepted."""
    assert budgets.load_accepted(tmp_path / "accepted.toml", KNOWN) == ()


ACCEPTED_MISTAKES = {
    "unknown benchmark": ("timed('bag.write')", "timed('bag.wrote')", 4, "timed('bag.write')"),
    "no reason": ('reason = "checks more"\n', "", 3, "lacks the key 'reason'"),
    "no date": ("until = 2030-01-31\n", "", 3, "lacks the key 'until': write a date"),
    "a text for a date": ("2030-01-31", '"2030-01-31"', 7, "has to be a date"),
    "a time for a date": ("2030-01-31", "2030-01-31T10:00:00", 7, "has to be a date"),
    "no increase": ("up_to = 1.3", "up_to = 0.9", 5, "is not above 1"),
    "not a number": ("up_to = 1.3", "up_to = nan", 5, "is not above 1"),
    "typo in a table": ("[[accepted]]", "[[acepted]]", 3, "did you mean 'accepted'?"),
}


@pytest.mark.parametrize("name", ACCEPTED_MISTAKES)
def test_mistake_in_acceptances(tmp_path: Path, name: str) -> None:
    """Each mistake is named with the file, its line, and what to write."""
    old, new, line, fix = ACCEPTED_MISTAKES[name]
    assert old in ACCEPTED
    with pytest.raises(GateSettingsError) as caught:
        load_accepted(tmp_path, ACCEPTED.replace(old, new, 1))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path / 'accepted.toml'}:{line}: ")
    assert fix in problem


def test_accepted_twice(tmp_path: Path) -> None:
    """One series is accepted once."""
    second = ACCEPTED.split("\n", 2)[2]
    with pytest.raises(GateSettingsError, match=r":10: .* accepted in line 3 already"):
        load_accepted(tmp_path, ACCEPTED + "\n" + second)
