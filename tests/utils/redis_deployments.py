"""Redis behind Sentinel, or as a cluster, with a fail-over when a test wants one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, Self

from redis.exceptions import RedisError

from tests.utils.redis_server import RedisServer

_PATIENCE_S = 120.0
_PAUSE_S = 0.02


class Replicated:
    """A primary and a replica, which change roles at each fail-over."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.primary, self.replica = RedisServer(tcp=True), RedisServer(tcp=True)

    #: Settings of both servers.
    settings: Mapping[str, str] = MappingProxyType({})

    def __enter__(self) -> Self:
        for server in (self.primary, self.replica):
            server.settings |= {"repl-diskless-sync-delay": "0", **self.settings}
            self._stack.enter_context(server)
        with ExitStack() as on_error:
            on_error.callback(self._stack.close)
            self.set_up()
            on_error.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Address of the broker, which acknowledges what the replica has confirmed."""
        raise NotImplementedError

    def set_up(self) -> None:
        """Make one of them the replica of the other."""
        raise NotImplementedError

    def promote(self) -> None:
        """Make the replica the primary."""
        raise NotImplementedError

    def fail_over(self, *, back: bool = True) -> None:
        """Kill the primary, promote the replica, and start the old primary as its replica."""
        self.primary.kill()
        self.promote()
        self.primary, self.replica = self.replica, self.primary
        if back:
            self.replica.start()
            self.follow()
            self.wait_for_replica()

    def follow(self) -> None:
        """Make the replica follow the primary, if it does not by itself."""

    def wait_for_replica(self) -> None:
        """Return once the replica has all data of the primary."""
        client = self.primary.client()
        until(lambda: client.info("replication").get("slave0", {}).get("state") == "online")


def until(holds: Any) -> None:
    """Return once `holds` returns something true; servers that are away count as not yet."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if holds():
                return
        except RedisError:
            pass
        assert time.monotonic() < give_up_at, "it has not come true"
        time.sleep(_PAUSE_S)


class BehindSentinel(Replicated):
    """The two servers, and one Sentinel that watches them."""

    def set_up(self) -> None:
        self.follow()
        self.wait_for_replica()
        self.sentinel = RedisServer(tcp=True, sentinel_of=self.primary.port)
        self._stack.enter_context(self.sentinel)
        until(lambda: self._master().get("num-slaves") == 1)

    def follow(self) -> None:
        self.replica.client().replicaof("127.0.0.1", self.primary.port)

    def _master(self) -> Any:
        return self.sentinel.client().sentinel_master("jobs")

    @property
    def url(self) -> str:
        """The first of the addresses is that of a Sentinel which is gone."""
        return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self.sentinel.port}/jobs?replicas=1"

    def promote(self) -> None:
        until(lambda: self.sentinel.client().execute_command("SENTINEL FAILOVER", "jobs"))
        until(lambda: self._master()["port"] == self.replica.port)


class InCluster(Replicated):
    """The two servers as a cluster."""

    settings = MappingProxyType({"cluster-enabled": "yes", "cluster-node-timeout": "5000"})

    def set_up(self) -> None:
        first, second = self.primary.client(), self.replica.client()
        first.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        second.execute_command("CLUSTER MEET", "127.0.0.1", self.primary.port)
        name = first.execute_command("CLUSTER MYID").decode()
        until(lambda: second.execute_command("CLUSTER REPLICATE", name))
        self.wait_for_replica()
        until(lambda: [len(part) for part in second.execute_command("CLUSTER SLOTS")] == [4])

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:1,127.0.0.1:{self.primary.port}/0?replicas=1"

    def promote(self) -> None:
        self.replica.client().execute_command("CLUSTER FAILOVER", "TAKEOVER")
        until(lambda: self.replica.client().info("replication")["role"] == "master")
