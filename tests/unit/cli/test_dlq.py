"""`stageflow dlq list`, `show` and `replay`."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from stageflow.dlq import DeadLetter, SQLiteDeadLetterStore
from tests.utils.command_line import Capture, failed_turn, run
from tests.utils.dead_letters import make_letter


def put(*letters: DeadLetter) -> None:
    async def work() -> None:
        async with SQLiteDeadLetterStore("letters.db") as store:
            for letter in letters:
                await store.put(letter)

    asyncio.run(work())


def test_a_failed_turn_is_kept_and_listed(here: Path, capsys: Capture) -> None:
    """`run --dlq` keeps it and says how to go on; `list` shows it, as text and as JSON."""
    dead_letter_id = failed_turn(capsys, "--seed", "3")
    code, out, _ = run(capsys, "dlq", "list")
    assert code == 0
    (line,) = out.splitlines()
    for fragment in (dead_letter_id, "waiting", "replays: 0", "voice: llm (service_unavailable)"):
        assert fragment in line
    shown = json.loads(run(capsys, "dlq", "list", "--json", "--state", "waiting")[1])
    assert (shown["pipeline"], shown["failed_stage"]) == ("streaming_voice", "llm")
    datetime.fromisoformat(shown["created_at"])
    assert run(capsys, "dlq", "list", "--state", "replayed")[1] == "no dead letters\n"
    assert run(capsys, "dlq", "list", "--state", "replayed", "--json")[1] == ""


def test_a_turn_that_completes_leaves_no_letter(here: Path, capsys: Capture) -> None:
    """With `--dlq` and without a failure there is no file, and no word about it."""
    code, _, complaint = run(capsys, "run", "chat", "--scale", "0", "--dlq", "letters.db")
    assert (code, complaint) == (0, "")
    assert list(here.iterdir()) == []


def test_a_turn_that_cannot_be_kept_says_so(here: Path, capsys: Capture) -> None:
    """The turn's own failure comes first, then that it was not kept."""
    fault = ("--inject", "llm=error", "--scale", "0", "--dlq", "nowhere/letters.db")
    code, _, complaint = run(capsys, "run", "voice", *fault)
    assert code == 1
    own, _, kept = complaint.partition("NOT stored")
    assert "'llm' is out of order" in own
    assert "nowhere/letters.db" in kept


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("llm", "'llm' is not PROVIDER=FAULT"),
        ("llm=", "llm has no fault ''"),
        ("=error", "'=error' is not PROVIDER=FAULT"),
        ("llm=timout", "llm has no fault 'timout'; did you mean 'timeout'? (its faults: timeout, "),
        ("stt=cut", "stt has no fault 'cut' (its faults: timeout, "),
    ],
)
def test_a_fault_that_is_none_is_refused(
    here: Path, capsys: Capture, fault: str, says: str
) -> None:
    """The argument is named, with what would fit, and the code is 2."""
    code, _, complaint = run(capsys, "run", "voice", "--inject", fault)
    assert code == 2
    assert f"argument --inject: {says}" in complaint


def test_a_letter_is_shown(here: Path, capsys: Capture) -> None:
    """Error, message for the user, stored outputs, and the timeline; or all of it as JSON."""
    dead_letter_id = failed_turn(capsys)
    code, out, _ = run(capsys, "dlq", "show", dead_letter_id[:6])
    assert code == 0
    for fragment in (
        dead_letter_id,
        "'llm' is out of order",
        "having trouble",
        "audio, user_id",
        "transcript, profile, history",
        "voice: failed in",
    ):
        assert fragment in out
    shown = json.loads(run(capsys, "dlq", "show", dead_letter_id, "--json")[1])
    assert shown["stages"]["stt"]["outputs"] == {"transcript": "Hello! What can you do?"}
    assert (shown["state"], shown["inputs"]["user_id"]) == ("waiting", "ada")


def test_a_letter_is_replayed_once(here: Path, capsys: Capture) -> None:
    """The resumed turn is drawn; a second replay is refused; `show` names the run."""
    dead_letter_id = failed_turn(capsys, "--text", "Is it raining?")
    code, out, _ = run(capsys, "dlq", "replay", dead_letter_id[:8], "--scale", "0")
    assert code == 0
    assert out.startswith("You said: Is it raining?\n")
    code, _, complaint = run(capsys, "dlq", "replay", dead_letter_id, "--scale", "0")
    assert code == 1
    assert "replayed already" in complaint
    listed = run(capsys, "dlq", "list")[1]
    assert "replayed" in listed
    assert "replays: 1" in listed
    assert "replayed by:" in run(capsys, "dlq", "show", dead_letter_id)[1]


def test_a_replay_as_json(here: Path, capsys: Capture) -> None:
    """The result, with the stages that were restored among its events."""
    dead_letter_id = failed_turn(capsys)
    code, out, _ = run(capsys, "dlq", "replay", dead_letter_id, "--scale", "0", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["status"] == "completed"
    skipped = [event for event in result["events"] if event["type"] == "stage.stt.skipped"]
    assert dead_letter_id in skipped[0]["data"]["reason"]


@pytest.mark.parametrize(("pipeline", "providers"), [("pay", "real"), ("make_pay", "make_real")])
def test_a_letter_of_a_pipeline_of_ones_own(
    own: str, capsys: Capture, pipeline: str, providers: str
) -> None:
    """`--pipeline` and `--providers` name what the command cannot know; it asks for them."""
    assert run(capsys, "run", f"{own}:pay", "--input", "sum=5", "--dlq", "letters.db")[0] == 1
    (letter,) = [json.loads(x) for x in run(capsys, "dlq", "list", "--json")[1].splitlines()]
    assert (letter["failed_stage"], letter["error_code"]) == ("charge", "unknown_provider")
    code, _, complaint = run(capsys, "dlq", "replay", letter["id"])
    assert code == 2
    assert "--pipeline" in complaint
    there = ("--pipeline", f"{own}:{pipeline}")
    assert run(capsys, "dlq", "replay", letter["id"], *there)[0] == 1
    code, out, _ = run(
        capsys, "dlq", "replay", letter["id"], *there, "--providers", f"{own}:{providers}"
    )
    assert code == 0
    assert "receipt: charged 5" in out
    assert "replays: 2" in run(capsys, "dlq", "list")[1]


def test_a_failed_replay_is_shown_with_both_runs(own: str, capsys: Capture) -> None:
    """The letter waits again; its timelines are those of the run and of the latest replay."""
    run(capsys, "run", f"{own}:pay", "--input", "sum=13", "--dlq", "letters.db")
    (letter,) = [json.loads(x) for x in run(capsys, "dlq", "list", "--json")[1].splitlines()]
    options = ("--pipeline", f"{own}:pay", "--providers", f"{own}:real")
    code, _, complaint = run(capsys, "dlq", "replay", letter["id"], *options)
    assert code == 1
    assert "unlucky" in complaint
    out = run(capsys, "dlq", "show", letter["id"])[1]
    assert out.count("pay: failed in") == 2
    assert "note (stage_failed)" in out


@pytest.mark.parametrize("name", ["nonsense", "no_such_module:real", "json:dumps", "json:nope"])
def test_providers_that_are_none(own: str, capsys: Capture, name: str) -> None:
    """A wrong object of that name is an error, and nothing is replayed."""
    dead_letter_id = failed_turn(capsys)
    code, _, complaint = run(capsys, "dlq", "replay", dead_letter_id, "--providers", name)
    assert code == 2
    assert name.partition(":")[0] in complaint
    assert "replays: 0" in run(capsys, "dlq", "list")[1]


def test_an_object_that_is_not_a_registry(own: str, capsys: Capture) -> None:
    """The error names its type."""
    dead_letter_id = failed_turn(capsys)
    code, _, complaint = run(capsys, "dlq", "replay", dead_letter_id, "--providers", f"{own}:pay")
    assert code == 2
    assert "Pipeline, not a ProviderRegistry" in complaint


@pytest.mark.parametrize("command", [("list",), ("show", "a"), ("replay", "a"), ("export", "a")])
def test_no_store(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Without a store, or with a file that is not there, the code is 2; no file is made."""
    code, _, complaint = run(capsys, "dlq", *command)
    assert code == 2
    assert "there is no file letters.db" in complaint
    monkeypatch.delenv("STAGEFLOW_DLQ")
    code, _, complaint = run(capsys, "dlq", *command)
    assert code == 2
    assert "--store FILE" in complaint
    assert "STAGEFLOW_DLQ" in complaint
    assert list(here.iterdir()) == []


def test_a_file_that_is_not_a_store(here: Path, capsys: Capture) -> None:
    """The error says what the file is not, and the code is 1."""
    Path("letters.db").write_text("Dear diary, " * 100, encoding="utf-8")
    code, _, complaint = run(capsys, "dlq", "list")
    assert code == 1
    assert complaint == "error: letters.db is not an SQLite database; give another file\n"


def test_an_id_that_is_none_or_several(here: Path, capsys: Capture) -> None:
    """An unknown id and one that is not unique are different errors."""
    put(make_letter(1), make_letter(2))
    code, _, complaint = run(capsys, "dlq", "show", "fff")
    assert code == 1
    assert "no dead letter 'fff'" in complaint
    code, _, complaint = run(capsys, "dlq", "show", "000")
    assert code == 2
    assert "2 ids begin with '000'" in complaint


def test_a_letter_that_lacks_a_value(here: Path, capsys: Capture) -> None:
    """`show` names what was not stored, and `export` refuses."""
    put(make_letter(inputs={"items": object()}, pipeline="voice"))
    code, _, complaint = run(capsys, "dlq", "show", "0")
    assert code == 0
    assert "inputs['items'] (type builtins.object)" in complaint
    code, _, complaint = run(capsys, "dlq", "export", "0")
    assert code == 1
    assert "items" in complaint


def spoil(number: int) -> str:
    """Make the body of a letter unreadable; return its id."""
    with closing(sqlite3.connect("letters.db")) as connection, connection:
        dead_letter_id = make_letter(number).id
        connection.execute("UPDATE dead_letters SET body = '[1' WHERE id = ?", (dead_letter_id,))
    return dead_letter_id


def test_an_unreadable_letter_hides_no_other(here: Path, capsys: Capture) -> None:
    """It is named, its text can be written to a file, and it can be removed."""
    put(make_letter(1), make_letter(2))
    broken = spoil(1)
    code, out, complaint = run(capsys, "dlq", "list")
    assert (code, len(out.splitlines())) == (0, 1)
    assert make_letter(2).id in out
    assert f"error: dead letter {broken} cannot be read: JSONDecodeError" in complaint
    assert "dlq delete ID" in complaint
    code, _, complaint = run(capsys, "dlq", "show", broken)
    assert (code, "cannot be read" in complaint) == (1, True)
    code, out, complaint = run(capsys, "dlq", "export", broken)
    assert (code, out) == (0, "[1\n")
    assert "this is what is stored" in complaint
    assert run(capsys, "dlq", "purge", "--unreadable")[:2] == (0, "1 dead letters deleted\n")
    assert run(capsys, "dlq", "list")[2] == ""


def test_letters_are_deleted_by_their_ids(here: Path, capsys: Capture) -> None:
    """All that are named, by the starts of their ids; none if one of them is not there."""
    put(*map(make_letter, (1, 2, 3)))
    ids = [make_letter(number).id for number in (1, 2, 3)]
    code, _, complaint = run(capsys, "dlq", "delete", ids[0], "fff")
    assert (code, "no dead letter 'fff'" in complaint) == (1, True)
    code, out, _ = run(capsys, "dlq", "delete", ids[0], ids[2])
    assert (code, out) == (0, f"deleted {ids[0]}\ndeleted {ids[2]}\n")
    assert ids[1] in run(capsys, "dlq", "list")[1]
    assert run(capsys, "dlq", "delete")[0] == 2


def test_a_purge_removes_the_letters_of_a_state(here: Path, capsys: Capture) -> None:
    """By default those that were replayed; on request only older ones, or a dry run."""
    waiting = failed_turn(capsys)
    replayed = failed_turn(capsys, "--seed", "4")
    assert run(capsys, "dlq", "replay", replayed, "--scale", "0")[0] == 0
    code, out, _ = run(capsys, "dlq", "purge", "--dry-run")
    assert (code, out) == (0, f"{replayed}\n1 dead letters would be deleted\n")
    for days in ("1", "1e300"):
        assert run(capsys, "dlq", "purge", "--older-than", days)[1] == "0 dead letters deleted\n"
    assert run(capsys, "dlq", "purge", "--older-than", "nan")[0] == 2
    assert run(capsys, "dlq", "purge")[1] == "1 dead letters deleted\n"
    assert run(capsys, "dlq", "list")[1].startswith(waiting)
    assert run(capsys, "dlq", "purge", "--state", "waiting")[1] == "1 dead letters deleted\n"


def test_a_letter_under_replay_is_not_purged(here: Path, capsys: Capture) -> None:
    """Its id is named, the others go, and the code is 1."""
    put(make_letter(1))

    async def claim() -> None:
        async with SQLiteDeadLetterStore("letters.db") as store:
            await store.claim(make_letter(1).id, lease_s=600)

    asyncio.run(claim())
    code, out, complaint = run(capsys, "dlq", "purge", "--state", "replaying")
    assert (code, out) == (1, "0 dead letters deleted\n")
    assert f"dead letter '{make_letter(1).id}' is being replayed" in complaint


def test_all_waiting_letters_are_replayed(own: str, capsys: Capture) -> None:
    """Those of the pipeline, in order; one that fails again does not stop the others."""
    failed_turn(capsys)
    for total in (13, 5, 6):
        run(capsys, "run", f"{own}:pay", "--input", f"sum={total}", "--dlq", "letters.db")
    options = ("--pipeline", f"{own}:pay", "--providers", f"{own}:real")
    code, out, _ = run(capsys, "dlq", "replay", "--all", *options)
    assert code == 1
    ends = [line.split()[1] for line in out.splitlines()[:-1]]
    assert ends == ["failed", "completed", "completed"]
    assert out.endswith("3 replayed, 1 of them failed\n")
    code, out, _ = run(capsys, "dlq", "replay", "--all", "--scale", "0", "--json")
    assert (code, json.loads(out)["pipeline"]) == (0, "streaming_voice")


def test_several_letters_are_replayed_by_their_ids(here: Path, capsys: Capture) -> None:
    """One that was replayed already is named, and the others go on."""
    first, second = failed_turn(capsys), failed_turn(capsys, "--seed", "4")
    assert run(capsys, "dlq", "replay", first, "--scale", "0")[0] == 0
    code, out, complaint = run(capsys, "dlq", "replay", first, second, "--scale", "0")
    assert (code, out) == (1, f"{second}  completed\n")
    assert "replayed already" in complaint
    for wrong in ((), (first, "--all")):
        code, _, complaint = run(capsys, "dlq", "replay", *wrong)
        assert (code, "give the ids of dead letters, or --all" in complaint) == (2, True)


@pytest.mark.parametrize("command", ["replay", "export", "delete", "purge"])
def test_each_command_explains_itself(command: str, capsys: Capture) -> None:
    """With what it does, its options, and examples."""
    code, out, _ = run(capsys, "dlq", command, "--help")
    assert code == 0
    assert out.count(f"stageflow dlq {command} ") > 1
