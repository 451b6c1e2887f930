"""A Redis server of a test's own, which can be killed and keeps its data."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from redis import Redis

from tests.utils.server import Server, free_port

_PATIENCE_S = 300.0
_PAUSE_S = 0.01

_CLEAN_UP = 'read -r end; kill -9 "$0"'


class RedisServer(Server):
    """A server that acknowledges what is on the disk; it keeps its data until `close`.

    It listens on a Unix socket, and also at a port if it is one of several. With `sentinel_of` it
    is a Sentinel that watches the server at that port.
    """

    def __init__(self, *, tcp: bool = False, sentinel_of: int | None = None) -> None:
        """Make its directory; `start` brings the server up."""
        self.port = free_port() if tcp else 0
        #: More settings; a Sentinel's are in its file, which it changes itself.
        self.settings: dict[str, str] = {}
        self._sentinel_of = sentinel_of
        # A path in pytest's own directory would be too long for a socket.
        self.directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket_path = self.directory / "s"
        self._process: subprocess.Popen[bytes] | None = None
        self._caretakers: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """Where it listens, as its client takes it."""
        return f"unix://{self.socket_path}"

    def client(self) -> Any:
        """A client for settings and questions, which the caller need not close."""
        return Redis.from_url(self.url)

    def start(self) -> None:
        """Bring it up, and return once it has loaded its data."""
        program = os.environ.get("STAGEFLOW_TEST_REDIS") or shutil.which("redis-server")
        assert program is not None, "run: .ci/programs redis-server"
        # A Sentinel writes what it learns into its file; so do servers that it configures.
        file = self.directory / "redis.conf"
        if not file.exists():
            settings = {
                "port": str(self.port),
                "unixsocket": str(self.socket_path),
                "dir": str(self.directory),
                "logfile": str(self.directory / "log"),
                **self.settings,
            }
            if self._sentinel_of is None:
                settings |= {"save": '""', "appendonly": "yes", "appendfsync": "always"}
            lines = [f"{name} {value}" for name, value in settings.items()]
            if self._sentinel_of is not None:
                lines += [
                    f"sentinel monitor jobs 127.0.0.1 {self._sentinel_of} 1",
                    # It fails over on command, so that the speed of this machine does not matter.
                    "sentinel down-after-milliseconds jobs 600000",
                    "sentinel failover-timeout jobs 1000",
                ]
            file.write_text("\n".join(lines))
        mode = [] if self._sentinel_of is None else ["--sentinel"]
        self._process = subprocess.Popen(
            [program, str(file), *mode], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Its input ends with this process, however that ends: no server outlives the tests.
        self._caretakers.append(
            subprocess.Popen(
                ["/bin/sh", "-c", _CLEAN_UP, str(self._process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )
        give_up_at = time.monotonic() + _PATIENCE_S
        while not self._answers():
            assert time.monotonic() < give_up_at, (self.directory / "log").read_text()
            time.sleep(_PAUSE_S)

    def kill(self) -> None:
        """End it as a crash would: without a word to anybody."""
        assert self._process is not None, "it has not been started"
        self._end(self._process)
        self.socket_path.unlink(missing_ok=True)

    def close(self) -> None:
        """End it if it is up, and remove everything."""
        if self._process is not None:
            self._end(self._process)
        shutil.rmtree(self.directory)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        # Before the server is waited for, as until then its id is nobody else's.
        while self._caretakers:
            self._caretakers.pop().communicate(timeout=_PATIENCE_S)
        process.kill()
        process.wait()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_PATIENCE_S)
            try:
                client.connect(str(self.socket_path))
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")
            except OSError:
                return False
