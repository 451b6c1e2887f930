"""A voice agent in the browser that you can interrupt: open the address that it prints, and talk.

The page sends the microphone as PCM over a WebSocket, and plays the sound that comes back. When you
begin to speak, the answer stops. Speech and model are on this machine (`make setup` installs them);
with --fakes the agent hears nothing, and answers from a script with the sound of `FakeTTS`.

    Open http://127.0.0.1:8765 and press "Talk". Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from stageflow import Audio, Pipeline, ProviderRegistry, StageflowError
from stageflow.kernels import TurnLimiter, TurnLimitError, streaming_voice
from stageflow.providers import FakeDatabase, FakeLLM, FakeSTT, FakeTTS
from stageflow.providers.local import EspeakTTS, LocalLLM, PocketsphinxSTT, SileroVAD

PAGE = Path(__file__).with_suffix(".html")
RATE_HZ = 16_000
FRAME_BYTES = 1_024  # 32 ms
#: How many frames are loud when speech has begun, are kept before it, and are quiet at its end.
BEGIN, BEFORE, END = 4, 10, 25
LONGEST = 30 * 31  # 30 s
SCRIPT = "I can hear that you speak. " * 4


class Ear:
    """Finds utterances by their loudness, compared with the noise of the room."""

    def __init__(self) -> None:
        self._pcm = b""
        self._noise = 100.0
        self._before: deque[bytes] = deque(maxlen=BEFORE)
        self._speech: list[bytes] = []
        self._loud = self._quiet = 0

    def hear(self, pcm: bytes) -> Iterator[Audio | None]:
        """Yield None when speech begins, and its sound when it has ended."""
        self._pcm += pcm
        while len(self._pcm) >= FRAME_BYTES:
            frame, self._pcm = self._pcm[:FRAME_BYTES], self._pcm[FRAME_BYTES:]
            samples = array("h", frame)
            loudness = (sum(sample * sample for sample in samples) / len(samples)) ** 0.5
            is_loud = loudness > max(300.0, 3 * self._noise)
            self._loud, self._quiet = (self._loud + 1, 0) if is_loud else (0, self._quiet + 1)
            if self._speech:
                self._speech.append(frame)
                if self._quiet >= END or len(self._speech) >= LONGEST:
                    yield Audio(b"".join(self._speech), RATE_HZ)
                    self._speech = []
                continue
            self._noise = min(loudness, 1.02 * self._noise + 1)
            self._before.append(frame)
            if self._loud >= BEGIN:
                self._speech = list(self._before)
                yield None


class BrowserSpeaker:
    """Plays sound in the page, and stops it there when it is cancelled."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket

    async def play(self, audio: Audio) -> None:
        """Send the sound, and wait as long as it lasts."""
        await self._socket.send(json.dumps({"rate": audio.sample_rate_hz}))
        await self._socket.send(audio.pcm)
        try:
            await asyncio.sleep(audio.duration_s)
        except asyncio.CancelledError:
            await self._socket.send(json.dumps({"stop": True}))
            raise


def patient(kernel: Pipeline) -> Pipeline:
    """Return the kernel with a minute for speech to text: small machines are slow."""
    return kernel.with_stages(
        [replace(spec, timeout_s=60.0) if spec.name == "stt" else spec for spec in kernel.stages]
    )


class Agent:
    """Talks to each page that connects."""

    def __init__(self, providers: Mapping[str, Any]) -> None:
        self._providers = providers
        self._voice = patient(
            streaming_voice(system_prompt="You are a friendly voice assistant. Answer briefly.")
        )

    async def talk(self, socket: ServerConnection) -> None:
        """Hear the microphone of a page, and take a turn for each utterance."""
        providers = ProviderRegistry(**self._providers, speaker=BrowserSpeaker(socket))
        ear, limiter, turns = Ear(), TurnLimiter("replace"), set[asyncio.Task[None]]()
        speech: asyncio.Future[Audio] = asyncio.get_running_loop().create_future()
        try:
            async for message in socket:
                for found in ear.hear(message if isinstance(message, bytes) else b""):
                    if found is not None:
                        speech.set_result(found)
                        continue
                    # Now, and not at the end of the utterance, so that the answer before it stops.
                    speech = asyncio.get_running_loop().create_future()
                    turn = asyncio.create_task(self._turn(socket, limiter, providers, speech))
                    turns.add(turn)
                    turn.add_done_callback(turns.discard)
        finally:
            for turn in turns:
                turn.cancel()
            await asyncio.gather(*turns, return_exceptions=True)

    async def _turn(
        self,
        socket: ServerConnection,
        limiter: TurnLimiter,
        providers: ProviderRegistry,
        speech: asyncio.Future[Audio],
    ) -> None:
        """Take a turn; the limiter cancels it when the user speaks again."""

        async def tell(**facts: Any) -> None:
            await socket.send(json.dumps(facts))

        with suppress(TurnLimitError, ConnectionClosed):
            async with limiter.turn(socket.id):
                await tell(state="hears you")
                audio = await speech
                await tell(state="answers")
                user = str(socket.id)
                with self._voice.bind(providers=providers) as voice:
                    async with voice.stream(audio=audio, user_id=user) as run:
                        with suppress(StageflowError):  # the result says why
                            async for sentence in run["sentences"]:
                                await tell(answer=sentence)
                        result = await run.result()
                await tell(you=result.outputs.get("transcript", ""), problem=result.user_message)
                await tell(state="listens")


def page(_: ServerConnection, request: Request) -> Response | None:
    """Return the page; None for the address of the WebSocket."""
    if request.path == "/talk":
        return None
    found = request.path == "/"
    body = PAGE.read_bytes() if found else b""
    headers = Headers(
        {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(body))}
    )
    return Response(200 if found else 404, "OK" if found else "Not Found", headers, body)


async def providers_of(stack: AsyncExitStack, fakes: bool) -> dict[str, Any]:
    """Return fakes, or what this machine has."""
    if fakes:
        model = FakeLLM(SCRIPT)
        return {"stt": FakeSTT("?"), "llm": model, "tts": FakeTTS(), "db": FakeDatabase()}
    local = {"stt": PocketsphinxSTT(), "llm": LocalLLM(), "tts": EspeakTTS(), "vad": SileroVAD()}
    for provider in local.values():
        await stack.enter_async_context(provider)
    return {**local, "db": FakeDatabase()}


async def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one")
    parser.add_argument("--fakes", action="store_true", help="hear nothing, answer from a script")
    arguments = parser.parse_args()
    async with AsyncExitStack() as stack:
        agent = Agent(await providers_of(stack, arguments.fakes))
        # Other sites must not listen to this microphone.
        own = re.compile(r"http://(127\.0\.0\.1|localhost):\d+")
        server = serve(agent.talk, "127.0.0.1", arguments.port, origins=[own], process_request=page)
        async with server as serving:
            (listening, *_) = serving.sockets
            port = listening.getsockname()[1]
            print(f'Open http://127.0.0.1:{port} and press "Talk". Ctrl-C ends it.', flush=True)
            await serving.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
