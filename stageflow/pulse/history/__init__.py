"""Measure commits with asv, keep what was measured, and publish it as a site.

The other packages of `stageflow.pulse` build on this one; it imports none of them.
"""

from __future__ import annotations

from stageflow.pulse.history.bench import (
    DEFAULT_COMMITS,
    EXIT_INTERRUPTED,
    WHOLE,
    BenchOptions,
    Shard,
    add_shard,
    bench,
    say_how_to_open,
)
from stageflow.pulse.history.commits import (
    GATE_DIR,
    Commit,
    History,
    Series,
    read_history,
    values_of,
)
from stageflow.pulse.history.merge import merge
from stageflow.pulse.history.offline import STATIC_DIR, copy_libraries
from stageflow.pulse.history.project import UNREADABLE, AsvProject, Emit, add_machine, run_git
from stageflow.pulse.history.record_lines import add_line, circumstances, newest_lines, read_lines
from stageflow.pulse.history.results import (
    MACHINE_FIELDS,
    cells_of,
    clear_corrupt,
    read_benchmarks,
    read_results,
    rows_of,
)
from stageflow.pulse.history.series import (
    TIMED_UNIT,
    Interval,
    Signal,
    benchmark_of,
    fitting_units,
    is_apart,
    matches_series,
    median_interval,
    operation_of,
    percentile,
    ratio_of,
    resolve_series,
    rounded,
    selected_series,
    series_of,
    signal_of,
    timed,
    unit_factor,
)
from stageflow.pulse.history.site import Published, address_of, complete, make_server, publish
from stageflow.pulse.history.steps import OPEN_FOR, Step, open_step, scatters, steps_of

__all__ = [
    "DEFAULT_COMMITS",
    "EXIT_INTERRUPTED",
    "GATE_DIR",
    "MACHINE_FIELDS",
    "OPEN_FOR",
    "STATIC_DIR",
    "TIMED_UNIT",
    "UNREADABLE",
    "WHOLE",
    "AsvProject",
    "BenchOptions",
    "Commit",
    "Emit",
    "History",
    "Interval",
    "Published",
    "Series",
    "Shard",
    "Signal",
    "Step",
    "add_line",
    "add_machine",
    "add_shard",
    "address_of",
    "bench",
    "benchmark_of",
    "cells_of",
    "circumstances",
    "clear_corrupt",
    "complete",
    "copy_libraries",
    "fitting_units",
    "is_apart",
    "make_server",
    "matches_series",
    "median_interval",
    "merge",
    "newest_lines",
    "open_step",
    "operation_of",
    "percentile",
    "publish",
    "ratio_of",
    "read_benchmarks",
    "read_history",
    "read_lines",
    "read_results",
    "resolve_series",
    "rounded",
    "rows_of",
    "run_git",
    "say_how_to_open",
    "scatters",
    "selected_series",
    "series_of",
    "signal_of",
    "steps_of",
    "timed",
    "unit_factor",
    "values_of",
]
