"""A server of the tests' own, up as long as a block lasts."""

from __future__ import annotations

import random
import socket
from abc import ABC, abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import Self


class Server(ABC):
    """Started and closed by a block; coverage starts before the package is imported."""

    @abstractmethod
    def start(self) -> None:
        """Bring it up, and return once it can be used."""

    @abstractmethod
    def close(self) -> None:
        """Bring it down if it is up, and remove everything."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def free_port() -> int:
    """A port on which nobody listens now, and which the system hands to nobody meanwhile.

    Of these, Linux gives none to a program that binds port 0, and to no outgoing connection.
    """
    # The system's chance: a seed of the tests would be the same in each worker.
    for port in random.SystemRandom().sample(range(20_000, 32_000), 1_000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("1,000 ports are all taken")
