"""Hostile input for everything that reads what others wrote; `tools.fuzz` gives it all of it."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import resource
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from stageflow._utils.text import printable, printable_lines, shown_address
from stageflow.cluster import Address, Dispatcher, Envelope, Job, JobResult, RedisBroker, Worker
from stageflow.cluster.job import Wire, decode_worker_info
from stageflow.codec import DEFAULT_CODEC
from stageflow.engine.context import RunStatus
from stageflow.errors import StageflowError
from stageflow.kernels import chat
from stageflow.pulse.history.results import defect
from stageflow.testing import Scenario, Token, TokenError
from stageflow.testing.recording.recorder import read_turn
from tests.cluster.support import ECHO
from tests.utils.dead_letters import make_letter
from tests.utils.recordings import record
from tests.utils.redis_server import RedisServer

#: The bounds of memory in bytes and of one input in seconds of processor time.
MOST_BYTES, MOST_S = 256 * 1024 * 1024, 5.0
REFUSED = (StageflowError, TokenError)

SECRET = "s3cretpw"
ADDRESS = Address("default", "echo")
WIRE = Wire(DEFAULT_CODEC)

RANGE = '{"$":"range","v":[0,1000000000000,1]}'
#: Texts that are small and mean much, by the ways of JSON and of the codec's tags.
BOMBS = [
    *("[" * 100_000, '{"a":' * 50_000, '{"$":"tuple","v":[' * 900 + "]}" * 900, "9" * 5_000),
    *("1e999", "-1e999", "NaN", '"\\ud800"', RANGE, "9" * 20_000),
    '{"$":"decimal","v":"1E+999999999"}',
    '{"$":"rational","v":["1e999999999",1]}',
    '{"$":"int","v":"0x' + "f" * 100_000 + '"}',
    '{"$":"numpy","v":["<f8",[1000000000],{"$":"bytes","v":""}]}',
    '{"$":"array","v":["u",[1114112]]}',
    '{"$":"deque","v":[[1],9999999999999999999]}',
    '{"$":"object","v":["os:system",{},"x"]}',
    '{"$":"rational","v":[{"$":"int","v":"0x' + "f" * 500_000 + '"},7]}',
    *(f'{{"$":"{tag}","v":{RANGE}}}' for tag in ("tuple", "set", "counter", "frozenset", "bytes")),
    f'{{"$":"deque","v":[{RANGE},null]}}',
    f'{{"$":"array","v":["b",{RANGE}]}}',
    f'{{"$":"stream","v":["k","p",{RANGE}]}}',
    '{"$":"tuple","v":{"$":"numpy","v":["S0",[1000000000000],{"$":"bytes","v":""}]}}',
    '{"$":"timezone","v":[{"$":"timedelta","v":[1,0,0]}]}',
    '{"$":"zoneinfo","v":"../../../../etc/passwd"}',
    '{"$":"dict","v":[[[1],1]]}',
    '{"$":["list"],"v":1}',
    '{"$":"defaultdict","v":["__import__",{}]}',
    '{"$":"datetime","v":["0001-01-01",{"$":"zoneinfo","v":"Europe/Berlin"},0]}',
]
PLAIN: list[Any] = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    "",
    "x",
    "\0",
    "\x1b[2J",
    [],
    {},
    [[]],
    {"$": 1},
]


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        samples: Sound inputs, which are changed.
        read: Reads one; raises one of `REFUSED` if it is not sound.
        pack: Turns a changed sample into an input, if that is not the same.
    """

    samples: Sequence[bytes]
    read: Callable[[bytes], object]
    pack: Callable[[bytes], bytes] = bytes


@dataclass
class Report:
    """Count the outcomes of the inputs of one kind."""

    tried: int = 0
    read: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    memory_mb: float = 0.0
    problems: list[str] = field(default_factory=list)


def changed(chance: random.Random, sample: bytes) -> bytes:
    """Return a sample with something wrong in its bytes or in its JSON."""
    at, to = sorted(chance.randrange(len(sample) + 1) for _ in range(2))
    ways = [
        sample[:at],
        sample[:at] + chance.randbytes(chance.randrange(1, 5)) + sample[at:],
        sample[:at] + chance.randbytes(1) + sample[at + 1 :],
        sample[:at] + sample[to:],
        sample[:to] + sample[at:],
        chance.randbytes(to - at),
    ]
    way = chance.randrange(2 * len(ways))
    return ways[way] if way < len(ways) else _changed_json(chance, sample)


def _changed_json(chance: random.Random, sample: bytes) -> bytes:
    """Return a sample with a part of its JSON lost, or replaced by a value or a bomb."""
    bomb = chance.choice(BOMBS)
    try:
        data = json.loads(sample)
    except ValueError:
        return bomb[:200].encode()
    place, key = _somewhere(chance, data)
    if place is None:
        return bomb.encode()
    how = chance.randrange(3)
    if how == 0:
        del place[key]
    else:
        place[key] = "<bomb>" if how == 1 else chance.choice(PLAIN)
    return json.dumps(data).replace('"<bomb>"', bomb).encode()


def _somewhere(chance: random.Random, data: Any) -> tuple[Any, Any]:
    """Return a container in JSON, and one of its keys."""
    place, key, inner = None, None, data
    while isinstance(inner, dict | list) and inner and (place is None or chance.random() < 0.8):
        place, key = (
            inner,
            chance.choice(list(inner) if isinstance(inner, dict) else range(len(inner))),
        )
        inner = place[key]
    return place, key


def targets(folder: Path) -> dict[str, Target]:
    """Return all kinds of input but those that need a server."""
    letter = DEFAULT_CODEC.encode(make_letter()).encode()
    body, _ = WIRE.encode_job(Job("echo", {"value": [1, b"x", {1}, 2.5]}, "k", outputs=("echo",)))
    results = [
        WIRE.encode_result(JobResult("k", "echo", RunStatus.COMPLETED, {"echo": (1, b"x")})),
        WIRE.encode_result(
            JobResult("k", "echo", RunStatus.FAILED, failure=StageflowError("no"), refusal=None)
        ),
    ]
    info = b'{"protocol": 1, "version": "1", "queues": ["q"], "inputs": {"p": ["a"]}}'
    record(folder / "turn.json", chat())
    turn = (folder / "turn.json").read_bytes()
    token = str(Token(Scenario(3), main="tests.property.stress:check_run", args=((1, b"x"),)))
    prefix, inner = _unpacked(token)
    commit, machine = "0123abcd" + "0" * 32, folder / "m"
    machine.mkdir()
    result = {
        "version": 2,
        "commit_hash": commit,
        "env_name": "e",
        "date": 1,
        "params": {"machine": "m", "os": "x"},
        "python": "3.11",
        "requirements": {},
        "result_columns": ["result", "params", "samples", "started_at"],
        "results": {"a.time_b": [[1.5], [["1"]], [[1.5, 2]], 1]},
    }

    def by_file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def through(content: bytes) -> object:
            path.write_bytes(content)
            return read(path)

        return through

    return {
        "jobs": Target([body], lambda content: WIRE.decode_job("k", ADDRESS, content)),
        "answers": Target(results, lambda content: WIRE.decode_result("k", content)),
        "workers": Target([info], decode_worker_info),
        "letters": Target([letter], lambda content: DEFAULT_CODEC.decode(_text(content))),
        "recordings": Target([turn], by_file(folder / "changed.json", read_turn)),
        "tokens": Target(
            [inner],
            lambda content: Token.parse(_text(content)),
            lambda plain: _packed(prefix, plain),
        ),
        "raw tokens": Target([token.encode()], lambda content: Token.parse(_text(content))),
        "results": Target(
            [json.dumps(result).encode()], by_file(machine / f"{commit[:8]}-e.json", defect)
        ),
        "addresses": Target([address.encode() for address in ADDRESSES], _check_address),
    }


ADDRESSES = [
    f"redis://user:{SECRET}@host:6379/0?ssl_ca_certs=x",
    f"rediss://:{SECRET}@[::1]:6379/0",
    f"redis+sentinel://:{SECRET}@a:1,b:2/jobs/0?sentinel_password={SECRET}&replicas=1",
    f"redis+cluster://:{SECRET}@a:1,b:2?replicas=1",
    f"unix:///run/redis.sock?password={SECRET}",
    f"postgresql://user:{SECRET}@db:5432/app?sslmode=require",
    f"host=db user=me password={SECRET} port=5432",
]


def _check_address(content: bytes) -> None:
    """Show an address and connect to it; its password is never shown."""
    address = _text(content)
    # What is before the secret may have become something else than credentials.
    hidden = [
        text
        for text in (f":{SECRET}@", f"password={SECRET}")
        if text in address and "://" in address
    ]
    shown = shown_address(address)
    assert not hidden or SECRET not in shown, f"shown as {shown!r}"
    assert printable(shown) == shown, f"shown as {shown!r}"
    assert printable_lines(address).count("\n") <= address.count("\n")
    try:
        RedisBroker(address)
    except StageflowError as error:
        if hidden and SECRET in str(error):
            raise AssertionError(str(error)) from error
        raise


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _unpacked(token: str) -> tuple[str, bytes]:
    prefix, _, body = token.rpartition("_") if "_" in token[:9] else ("", "", token)
    for end in range(1, 12):  # the prefix is what does not belong to the text behind it
        prefix, body = token[:end], token[end:]
        try:
            packed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
            return prefix, zlib.decompress(packed)
        except (ValueError, zlib.error):
            continue
    raise AssertionError(token)


def _packed(prefix: str, plain: bytes) -> bytes:
    return prefix.encode() + base64.urlsafe_b64encode(zlib.compress(plain)).rstrip(b"=")


def fuzz(target: Target, count: int, seed: int) -> Report:
    """Read `count` changed samples, and every bomb."""
    chance, report = random.Random(seed), Report()
    bombs = [bomb.encode() for bomb in BOMBS]
    before = _peak_mb()
    for number in range(count):
        sample = chance.choice(target.samples)
        content = target.pack(bombs[number] if number < len(bombs) else changed(chance, sample))
        started_s = time.process_time()
        try:
            target.read(content)
            report.read += 1
        except REFUSED:
            report.refused += 1
        except Exception:
            if len(report.problems) < 5:
                report.problems.append(f"{content[:300]!r}:\n{traceback.format_exc(limit=-4)}")
        report.tried += 1
        took_s = time.process_time() - started_s
        report.slowest_s = max(report.slowest_s, took_s)
        if took_s > MOST_S:
            report.problems.append(f"{content[:300]!r} took {took_s:.1f} s")
    report.memory_mb = _peak_mb() - before
    if report.memory_mb > MOST_BYTES / 1e6:
        report.problems.append(f"it took {report.memory_mb:.0f} MB")
    return report


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


# ── streams ─────────────────────────────────────────────────────────────────────────────────


async def until_queued(broker: RedisBroker, most: int) -> None:
    """Return once at most so many entries are in the stream."""
    while await broker.queued("default", "echo") > most:  # noqa: ASYNC110 - the broker tells nobody
        await asyncio.sleep(0.01)


async def fuzz_streams(count: int, seed: int) -> Report:
    """Put raw entries and jobs with changed bodies into a stream, and raw ones among answers."""
    chance, report = random.Random(seed), Report()
    body, _ = WIRE.encode_job(Job("echo", {"value": 1}, "k"))
    before = _peak_mb()
    with RedisServer() as server:
        broker, stop = RedisBroker(server.url), asyncio.Event()
        worker = Worker([ECHO.orchestrator], broker, concurrency=64)
        serving = asyncio.create_task(worker.serve(stop))
        client: Any = Redis.from_url(server.url)
        async with broker, Dispatcher(broker) as dispatcher:
            await dispatcher.run("echo", {"value": 0}, key="first")
            (sender,) = [
                name[3:]
                for name in await client.hkeys("{stageflow}:job:first")
                if name.startswith(b"to ")
            ]
            asked = []
            while report.tried < count:
                pipeline = client.pipeline(transaction=False)
                for number in range(report.tried, min(count, report.tried + 250)):
                    fields = {b"key": b"raw-%d" % number, b"body": body, b"until": b""}
                    answer = {b"key": b"first", b"result": b"{}"}
                    pipeline.xadd(sender, _changed_fields(chance, answer))
                    if number % 2:
                        pipeline.xadd(
                            "{stageflow}:jobs:default:echo", _changed_fields(chance, fields)
                        )
                await pipeline.execute()
                for number in range(report.tried, min(count, report.tried + 250), 2):
                    spoilt, key = changed(chance, body), f"job-{number}"
                    envelope = Envelope(key, ADDRESS, spoilt, key, None)
                    await broker.submit(envelope, "nobody", limit=10 * count)
                asked.append(asyncio.create_task(dispatcher.run("echo", {"value": report.tried})))
                report.tried = min(count, report.tried + 250)
                await until_queued(broker, 1_000)
            results = await asyncio.gather(*asked)
            await until_queued(broker, 0)
            counts = await broker.counts()
            alive = not serving.done()
            stop.set()
            await serving
        report.read = len([result for result in results if result.unwrap()])
        report.refused = counts.pop("unreadable", 0)
        ended = sum(counts.values()) - len(asked) - 1
        if not alive or report.refused + ended != count:
            report.problems.append(f"of {count}: {report.refused} set aside, {ended} ended")
        await client.aclose()
    report.memory_mb = _peak_mb() - before
    if report.memory_mb > MOST_BYTES / 1e6:
        report.problems.append(f"it took {report.memory_mb:.0f} MB")
    return report


def _changed_fields(chance: random.Random, fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return an entry with one field changed, lost or added."""
    name = chance.choice(list(fields))
    changed_fields = dict(fields)
    how = chance.randrange(3)
    if how == 0:
        del changed_fields[name]
    elif how == 1:
        changed_fields[name] = changed(chance, fields[name])
    else:
        changed_fields[chance.randbytes(3)] = chance.randbytes(9)
    return changed_fields or {b"x": b""}
