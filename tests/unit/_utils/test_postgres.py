"""Names of PostgreSQL databases: what is shown of them never holds a password."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow._utils.postgres import checked, is_postgres, shown
from stageflow.dlq import PostgresDeadLetterStore
from stageflow.errors import InvalidConfigError
from stageflow.providers import SqlDatabase
from stageflow.telemetry import PostgresSink, TelemetryStore
from tests.utils.errors import raises_code

HIDDEN = "postgresql://…"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:secret@host:5432/db?sslmode=require", "postgresql://host:5432/db"),
        ("postgres://host/db", "postgresql://host/db"),
        ("postgresql:///db?host=/tmp/socket&password=secret", "postgresql:///db"),
        ("postgresql://u:secret@[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("postgresql://u:secret@one:1,two:2/db", "postgresql://one:1,two:2/db"),
        ("postgresql://u:sec@ret@host/db", "postgresql://host/db"),
        ("postgresql://u:sec/secret@host/db", "postgresql://host/db"),
        ("postgresql://u:1/secret@host/db", "postgresql://host/db"),
        ("postgresql://u:1#secret@host/db", "postgresql://host/db"),
        ("host=h port=5432 dbname=d password=secret", "postgresql://h:5432/d"),
        ("password = 's host=secret' host = h", "postgresql://h"),
        (r"password=a\ secret host='h'", "postgresql://h"),
    ],
)
def test_server_and_database_are_shown(url: str, expected: str) -> None:
    """Without user, password and settings, from a URL and from keys and values."""
    assert shown(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret",
        "postgresql://u:secret@host:port/db",
        "postgresql://host:secret/db",
        "postgresql://u:1?secret@host/db",
        "password='secret host=h",
        "password='secret'host=h",
        "secret",
        "",
    ],
)
def test_of_what_cannot_be_read_nothing_is_shown(url: str) -> None:
    """A password may be anywhere in it."""
    assert shown(url) == HIDDEN


@given(
    password=st.text(min_size=1).map(lambda text: f"s3cret{text}s3cret"),
    form=st.sampled_from(
        ["postgresql://u:{}@host:5432/db", "postgresql://u:{}@host", "postgresql:///db?password={}"]
    ),
)
def test_no_password_of_a_url_is_ever_shown(password: str, form: str) -> None:
    """For any password, also if nothing of it is escaped."""
    assert "s3cret" not in shown(form.format(password))


@given(
    password=st.text(min_size=1).map(lambda text: f"s3cret{text}s3cret"),
    form=st.sampled_from(["host=h password={} dbname=d", "host=h password='{}' dbname=d"]),
)
def test_no_password_of_keys_and_values_is_ever_shown(password: str, form: str) -> None:
    """For any password; quotes, backslashes and white space are escaped, as they have to be."""
    escaped = re.sub(r"([\s\\'])", r"\\\1", password)
    assert "s3cret" not in shown(form.format(escaped))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret%zz@host/db",
        "postgresql://u:s3cret@host:s3cret/db",
        "postgresql://host/db?s3cret",
        "password='s3cret",
        "host=h s3cret",
        "s3cret",
    ],
)
def test_what_psycopg_cannot_read_is_refused_without_showing_it(url: str) -> None:
    """By everything that takes such a URL; psycopg's own error would show the part in question."""
    with pytest.raises(ValueError, match="not the URL of a PostgreSQL database; give ") as refused:
        checked(url)
    with pytest.raises(InvalidConfigError, match="give postgresql://") as of_letters:
        PostgresDeadLetterStore(url)
    shown_texts = [str(refused.value), str(of_letters.value)]
    # A text without the scheme is a file to a store.
    for opens in (PostgresSink, *([TelemetryStore] if is_postgres(url) else [])):
        with raises_code("invalid_telemetry_file", match="give postgresql://") as raised:
            opens(url)
        shown_texts.append(str(raised.value))
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__
    assert [text for text in shown_texts if "s3cret" in text] == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret@host/db?password=s3cret",
        "postgresql://u:1/s3cret@host/db",
        "postgresql:///db?password=s3cret",
    ],
)
def test_the_text_of_a_database_has_no_password(url: str) -> None:
    """Neither from its place in the URL, nor from its settings."""
    assert "s3cret" not in repr(SqlDatabase(url))


def test_a_refused_url_of_another_database_has_no_password() -> None:
    """Nor has the error."""
    with pytest.raises(InvalidConfigError) as raised:
        SqlDatabase("mysql://u:s3cret@host/db?password=s3cret")
    assert "s3cret" not in str(raised.value)
