"""Foreign text is safe to show: text on a terminal, addresses without passwords."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow._utils.postgres import is_postgres
from stageflow._utils.text import printable, printable_lines, shown_address
from stageflow.cli import main

SECRET = "s3cretpw"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("redis://user:s3cretpw@host:6379/0", "redis://host:6379/0"),
        ("rediss://:s3cretpw@[::1]:6379/0?password=s3cretpw", "rediss://[::1]:6379/0"),
        ("unix:///run/redis.sock?password=s3cretpw", "unix:///run/redis.sock"),
        ("redis//:s3cretpw@host:6379", "host:6379"),
        ("http://me:s3cretpw@host", "http://host"),
        ("redis://:s3cretpw", "redis://…"),
        ("redis://host:s3cretpw", "redis://…"),
        ("redis://host/0?password=x@s3cretpw", "redis://…"),
        ("postgresql://user:s3cr#s3cretpw@db.example.org/app", "postgresql://db.example.org/app"),
        ("postgresql://user:/s3cretpw[@db:5432/app", "postgresql://db:5432/app"),
        ("host=db user=me password=s3cretpw", "postgresql://db"),
        ("password='s3cretpw host=db", "…"),
        ("letters.db", "letters.db"),
        ("/srv/a b/runs.jsonl", "/srv/a b/runs.jsonl"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, expected: str) -> None:
    """Well-formed or not, an address keeps host and path; what may be a password is hidden."""
    assert shown_address(address) == expected


@given(
    st.sampled_from(["redis://", "postgresql://", "http://", "redis//", ""]),
    st.text(st.characters(exclude_characters="@?"), max_size=8),
    st.sampled_from(["host", "host:6379/0", "[::1]", "ho st", "host:x", ""]),
)
def test_no_address_shows_its_password(scheme: str, around: str, place: str) -> None:
    """In any text, a password before an "@" is not shown, and nothing is raised."""
    shown = shown_address(f"{scheme}u:{around}{SECRET}{around}@{place}")
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("host=db user=me password=s3cretpw", True),
        ("postgres://db/app", True),
        ("a=b.db", False),
        ("runs.db", False),
        ("host=db and more", False),
    ],
)
def test_a_connection_string_is_a_database(text: str, is_one: bool) -> None:
    """Not the name of a file, which would hold the password."""
    assert is_postgres(text) is is_one


@pytest.mark.parametrize(
    "address",
    ["postgresql://u:s3cr#s3cretpw@db/app", "password=s3cretpw", "redis//:s3cretpw@host"],
)
def test_a_usage_error_shows_no_password(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It repeats the arguments that it does not know."""
    with pytest.raises(SystemExit):
        main(["dlq", "list", address])
    assert "there is no argument" in (shown := capsys.readouterr().err)
    assert SECRET not in shown


@given(st.text())
def test_printable_text_controls_no_terminal(text: str) -> None:
    """Every character can be printed; only `printable_lines` keeps line breaks."""
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
    assert printable_lines(text).replace("\n", "").isprintable()
