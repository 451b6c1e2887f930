"""Clients as users install them, against servers in the same simulation."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import StreamReader, StreamWriter
from functools import cache
from typing import Any

import httpx
import pytest
import trustme
import uvicorn
from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets

from stageflow.testing import NetworkPlan, Scenario, Simulation, explore

HOST = "api.example.com"


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS of a server, and of a client that trusts it."""
    authority, server = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer each request with its body."""
    event = await receive()
    body = event["body"]
    while event["more_body"]:
        event = await receive()
        body += event["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def web() -> None:
    config = uvicorn.Config(application, "0.0.0.0", 80, lifespan="off", log_level="error")
    await uvicorn.Server(config).serve()


async def over_http(sim: Simulation) -> None:
    sim.host(HOST, web)
    await asyncio.sleep(1)
    async with httpx.AsyncClient(base_url=f"http://{HOST}") as client:
        bodies = [b"%d" % number * 5_000 for number in range(3)]
        answers = await asyncio.gather(*(client.post("/", content=body) for body in bodies))
        assert [answer.content for answer in answers] == bodies


async def secure_web(connections: list[StreamWriter]) -> None:
    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        connections.append(writer)
        while (await reader.readline()).strip():
            while (await reader.readline()).strip():
                pass
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        writer.close()

    async with await asyncio.start_server(handle, None, 443, ssl=contexts()[0]) as server:
        await server.serve_forever()


async def over_https(sim: Simulation) -> None:
    """One connection serves both requests."""
    connections: list[StreamWriter] = []
    sim.host(HOST, secure_web, connections)
    await asyncio.sleep(1)
    async with httpx.AsyncClient(verify=contexts()[1]) as client:
        for _ in range(2):
            assert (await client.get(f"https://{HOST}/")).text == "hello"
    assert len(connections) == 1


async def redis() -> None:
    """Keep numbers, as much as these tests need."""
    stored: dict[bytes, int] = {}

    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            if words[0] == b"INCRBY":
                stored[words[1]] = stored.get(words[1], 0) + int(words[2])
                writer.write(b":%d\r\n" % stored[words[1]])
            else:
                writer.write(b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(handle, None, 6379) as server:
        await server.serve_forever()


async def over_redis(sim: Simulation) -> None:
    sim.host("cache", redis)
    await asyncio.sleep(1)
    async with Redis(host="cache", protocol=2) as client:
        await asyncio.gather(*(client.incr("visits") for _ in range(4)))
        assert await client.incr("visits") == 5


async def sockets() -> None:
    async def handle(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message[::-1])

    async with serve_websockets(handle, "0.0.0.0", 443, ssl=contexts()[0]) as server:
        await server.serve_forever()


async def over_websockets(sim: Simulation) -> None:
    sim.host(HOST, sockets)
    await asyncio.sleep(1)
    async with connect(f"wss://{HOST}/", ssl=contexts()[1]) as connection:
        for text in ("abc", "abcdef"):
            await connection.send(text)
            assert await connection.recv() == text[::-1]


@pytest.mark.parametrize("main", [over_http, over_https, over_redis, over_websockets])
def test_a_client_and_its_server_are_simulated(main: Any) -> None:
    """TLS included, in any order, and with each write in two parts."""
    explore(main, runs=10, scenario=Scenario(network=NetworkPlan(split=0.5)))
