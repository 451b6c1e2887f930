"""Measure commits with asv, keep what was measured, and publish it as a site."""

# ruff: noqa: F403, F405 - the list below says which names are public

from stageflow.pulse.history.bench import *
from stageflow.pulse.history.commits import *
from stageflow.pulse.history.merge import merge
from stageflow.pulse.history.offline import *
from stageflow.pulse.history.project import *
from stageflow.pulse.history.record_lines import *
from stageflow.pulse.history.results import *
from stageflow.pulse.history.series import *
from stageflow.pulse.history.site import *
from stageflow.pulse.history.steps import *

__all__ = [
    "DEFAULT_COMMITS",
    "EXIT_INTERRUPTED",
    "GATE_DIR",
    "LEAST",
    "MACHINE_FIELDS",
    "OPEN_FOR",
    "PIECE",
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
    "write_script",
]
