"""Programs that `HelperProcess` runs in a process of their own: ``python -m … NAME``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

RATE_HZ = 16_000
# The recognizer hears words in silence of zeros, as it was trained with recordings. This is the
# noise of a quiet room, 58 dB below full scale.
_NOISE_AMPLITUDE = 40.0


class Owner:
    """The process that has started this one; `settings` is the first line that it sent."""

    def __init__(self) -> None:
        """Keep the pipes for this class: anything else that is printed goes to standard error."""
        self._replies = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        # The owner shows the end of standard error.
        sys.excepthook = lambda kind, error, _: sys.stderr.write(f"{kind.__name__}: {error}\n")
        self.settings: Mapping[str, Any] = json.loads(sys.stdin.buffer.readline())

    def send(self, **answer: Any) -> None:
        """Send a line: that this process is ready, or an answer."""
        self._replies.write(json.dumps(answer).encode() + b"\n")
        self._replies.flush()

    def requests(self) -> Iterator[bytes]:
        """Yield the bytes of each request until the owner closes the pipe."""
        while line := sys.stdin.buffer.readline():
            yield sys.stdin.buffer.read(json.loads(line)["bytes"])


def recognize(owner: Owner) -> None:
    """Recognize one utterance after another, by PocketSphinx."""
    import numpy as np  # noqa: PLC0415
    import pocketsphinx  # type: ignore[import-untyped]  # noqa: PLC0415

    grammar = owner.settings["grammar"]
    model = {} if grammar is None else {"lm": None}
    decoder = pocketsphinx.Decoder(samprate=RATE_HZ, cmn="batch", loglevel="ERROR", **model)
    if grammar is not None:
        decoder.add_jsgf_string("commands", grammar)
        decoder.activate_search("commands")
    owner.send(ready=True)
    for pcm in owner.requests():
        samples = np.frombuffer(pcm, dtype="<i2").astype("float64")
        samples += np.random.default_rng(0).normal(0, _NOISE_AMPLITUDE, len(samples))
        decoder.start_utt()
        noisy = np.clip(samples, -32_768, 32_767).astype("<i2").tobytes()
        decoder.process_raw(noisy, no_search=False, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        owner.send(text=found.hypstr if found is not None else "")


def serve_model(owner: Owner) -> None:
    """Serve a language model with OpenAI's protocol on loopback, by llama.cpp."""
    import xllamacpp  # type: ignore[import-untyped]  # noqa: PLC0415

    settings = owner.settings
    params = xllamacpp.CommonParams()
    params.model.path = settings["model_path"]
    params.api_keys = [settings["key"]]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.ui = False
    params.n_ctx = settings["context_tokens"]
    params.n_parallel = 1
    # A cancelled call stops between batches.
    params.n_batch = params.n_ubatch = 64
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.verbosity = 1  # errors
    server = xllamacpp.Server(params)
    owner.send(url=f"{server.listening_address}/v1")
    sys.stdin.buffer.read()
    # The server's own exit waits for the answer that is being written.
    os._exit(0)


if __name__ == "__main__":
    {"recognize": recognize, "serve_model": serve_model}[sys.argv[1]](Owner())
