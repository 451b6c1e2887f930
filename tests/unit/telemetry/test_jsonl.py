"""The sink of JSON lines: whole lines, whatever becomes of the process or the disk."""

from __future__ import annotations

import errno
import json
import logging
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import stageflow
from stageflow.errors import InvalidConfigError
from stageflow.telemetry import JsonLinesSink, read_events
from stageflow.telemetry.database import TelemetryError
from tests.utils.commands import run_command
from tests.utils.errors import raises_code
from tests.utils.telemetry import batch, run_log, sink_of

ROOT = Path(stageflow.__file__).parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def written(path: Path, *run_ids: str, **options: Any) -> None:
    """Each run by a sink of its own, as by processes one after another."""
    for run_id in run_ids:
        sink = JsonLinesSink(path, **options)
        sink.write(batch(run_log(run_id, {"a": 5.0})))
        sink.close()


def runs_in(path: Path) -> list[str]:
    return [e.pipeline_run_id for e in read_events(path) if e.type == "pipeline.completed"]


def test_events_read_back_as_they_were(path: Path) -> None:
    """Line by line what `Event.to_dict` says, and as events again."""
    log = run_log("one", {"a": 5.0, "b": "boom"})
    sink = JsonLinesSink(path)
    sink.write(list(log))
    sink.close()
    assert list(read_events(path)) == list(log)
    lines = path.read_text("ascii").splitlines()
    assert [json.loads(line) for line in lines] == [event.to_dict() for event in log]


def test_a_database_is_one_error(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The error names what reads the file, and no line of it is warned of."""
    sink_of(path, [run_log("one", {"a": 5.0})]).close()
    with raises_code("invalid_telemetry_file", match="TelemetryStore"):
        list(read_events(path))
    assert caplog.records == []


def test_data_that_json_cannot_hold_costs_no_event(path: Path) -> None:
    """Numbers that are none, half characters, line ends, and a list within itself."""
    log = run_log("odd", {})
    circle: list[object] = []
    circle.append(circle)
    for value in (float("inf"), "\ud800", "a\nb", object, circle):
        log.append(("stage.a.said", 0.0, "a", {"value": value}))
    sink = JsonLinesSink(path)
    sink.write(batch(log))
    sink.close()
    said = [event.data for event in read_events(path) if event.what == "said"]
    assert [data["value"] for data in said[:4]] == ["inf", "\ud800", "a\nb", repr(object)]
    assert "recursion" in said[4]["not_encodable"]


@pytest.mark.parametrize("torn", [b"{", b'{"sequence":1,"type":"pip', b"\xff\xfe", b"[]", b"5"])
def test_a_torn_line_hides_no_other(
    path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """At the end it is passed over; who writes next begins a line of its own."""
    written(path, "one")
    with path.open("ab") as file:
        file.write(torn)
    with caplog.at_level(logging.WARNING, logger="stageflow.telemetry"):
        assert runs_in(path) == ["one"]
        written(path, "two", "three")
        assert runs_in(path) == ["one", "two", "three"]
        kept = [event.pipeline_run_id for event in read_events(path)]
        assert kept == ["one"] * 4 + ["two"] * 4 + ["three"] * 4
    assert len(caplog.records) == 3
    assert {"line 5 is not an event" in record.getMessage() for record in caplog.records} == {True}
    assert path.read_bytes().count(b"\n\n") == 0


#: A process that may not let a file grow beyond 3,001 bytes, and then may again.
FULL_DISK = """\
import resource, signal, sys
from stageflow.telemetry.database import TelemetryError
from stageflow.telemetry.jsonl import JsonLinesSink
from tests.utils.telemetry import batch, run_log, sink_of

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
free = resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_FSIZE, (3_001, free))
sink = JsonLinesSink(sys.argv[1])
sink.write(batch(run_log("one", {"a": 5.0})))
try:
    sink.write(batch(*(run_log("two", {"a": 5.0}) for _ in range(50))))
except TelemetryError as error:
    print(type(error.__cause__).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (free, free))
sink.write(batch(run_log("three", {"a": 5.0})))
sink.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits files as POSIX does")
def test_a_full_disk_costs_the_batch_and_no_other(path: Path) -> None:
    """The error is reported; events after that are on lines of their own."""
    done = run_command([sys.executable, "-c", FULL_DISK, str(path)], cwd=ROOT, check=True)
    assert done.stdout == "OSError\n"
    kept = [event.pipeline_run_id for event in read_events(path)]
    assert [kept.count(run) for run in ("one", "three")] == [4, 4]
    assert kept[-4:] == ["three"] * 4


def test_rotation_keeps_so_many_files_of_such_a_size(path: Path) -> None:
    """The newest in the file itself, the oldest gone; no event is in two of them."""
    written(path, *"123456", max_bytes=1_000, backups=2)
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == [f"{path.name}{end}" for end in ("", ".1", ".2")]
    assert all(file.stat().st_size <= 1_000 for file in files)
    kept = [runs_in(file) for file in (files[2], files[1], files[0])]
    assert [run for runs in kept for run in runs] == list("123456")[-sum(map(len, kept)) :]
    assert all(kept)


def test_a_batch_larger_than_a_file_is_written_whole(path: Path) -> None:
    """It has a file of its own, and none is left empty."""
    written(path, "1", "2", max_bytes=10)
    assert [runs_in(path.with_name(f"{path.name}.1")), runs_in(path)] == [["1"], ["2"]]


def test_a_rotation_that_fails_touches_no_other_file(tmp_path: Path) -> None:
    """It costs its batches, and no older file; the sink goes on once its folder is back."""
    folder, away = tmp_path / "logs", tmp_path / "away"
    folder.mkdir()
    path = folder / "runs.jsonl"
    with closing(JsonLinesSink(path, max_bytes=10, backups=2)) as sink:
        sink.write(batch(run_log("one", {})))
        sink.write(batch(run_log("two", {})))
        folder.rename(away)
        for run in ("lost", "lost too"):
            with raises_code("telemetry_file_failed", match="FileNotFoundError"):
                sink.write(batch(run_log(run, {})))
            with (tmp_path / "other").open("w+b") as other:  # gets the number of a closed file
                with suppress(TelemetryError):
                    sink.write(batch(run_log(run, {})))
                assert other.read() == b""
        away.rename(folder)
        sink.write(batch(run_log("three", {})))
    files = [path.with_name(f"runs.jsonl{end}") for end in (".2", ".1", "")]
    assert [runs_in(file) for file in files] == [["one"], ["two"], ["three"]]


def test_a_failing_rotation_loses_no_older_file_however_often_it_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no file can be opened, older ones keep their place."""

    def refused(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    with closing(JsonLinesSink(path, max_bytes=10, backups=2)) as sink:
        sink.write(batch(run_log("one", {})))
        sink.write(batch(run_log("two", {})))
        with monkeypatch.context() as patch:
            patch.setattr("os.open", refused)
            for _ in range(3):
                with raises_code("telemetry_file_failed", match="too many open files"):
                    sink.write(batch(run_log("lost", {})))
        sink.write(batch(run_log("three", {})))
    files = [path.with_name(f"{path.name}{end}") for end in (".2", ".1", "")]
    assert [runs_in(file) for file in files] == [["one"], ["two"], ["three"]]


def test_a_sink_is_closed_once(path: Path, tmp_path: Path) -> None:
    """Closing again closes nobody else's file, and what comes later is refused."""
    sink = JsonLinesSink(path)
    sink.close()
    with (tmp_path / "other").open("w+b") as other:  # gets the number that has become free
        sink.close()
        with raises_code("telemetry_file_failed", match=str(path)):
            sink.write(batch(run_log("late", {})))
        assert other.read() == b""


def test_an_error_is_reported_at_once(tmp_path: Path) -> None:
    """A folder in place of a file, a file that is not there, numbers that are none."""
    with raises_code("telemetry_file_failed", match=str(tmp_path)):
        JsonLinesSink(tmp_path)
    with raises_code("telemetry_file_failed", match="see that the file is there"):
        list(read_events(tmp_path / "nothing"))
    for options in ({"max_bytes": 0}, {"backups": 0}):
        with pytest.raises(InvalidConfigError, match=f"{next(iter(options))}.*positive integer"):
            JsonLinesSink(tmp_path / "x", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["moved", "deleted", "replaced"])
def test_events_go_to_the_file_at_the_path(path: Path, change: str) -> None:
    """After another program has moved, deleted or replaced the file, as logrotate does."""
    sink = JsonLinesSink(path)
    sink.write(batch(run_log("before", {"a": 1.0})))
    if change == "deleted":
        path.unlink()
    else:
        path.rename(path.with_name("old"))
    if change == "replaced":
        path.write_text("torn")
    sink.write(batch(run_log("after", {"a": 1.0})))
    sink.close()
    assert {event.pipeline_run_id for event in read_events(path)} == {"after"}
