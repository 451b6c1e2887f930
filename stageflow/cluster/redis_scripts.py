"""The atomic operations of Redis, as Lua scripts; each begins with its keys and arguments.

A job is a hash; its content is an entry of its address's stream, read by one consumer group. While
a job has no ``result`` it waits or runs. Scripts use the server's time, so that the clocks of the
machines need not agree. Those that end jobs run even when the server's memory is full: they make
room.
"""

from pathlib import Path

#: The consumer group of the workers of a stream.
GROUP = "workers"


def _script(name: str) -> str:
    return Path(__file__).with_name("scripts").joinpath(f"{name}.lua").read_text("utf-8")


SUBMIT = _script("submit")
COMPLETE = _script("complete")
CANCEL = _script("cancel")
JOIN = _script("join")
WORKERS = _script("workers")
RENEW = _script("renew")
TAKE = _script("take")
RECLAIM = _script("reclaim")
SET_ASIDE = _script("set_aside")
GIVE_BACK = _script("give_back")
PUBLISH = _script("publish")
