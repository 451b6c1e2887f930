"""A language model behind an endpoint of OpenAI's kind on loopback, as a process of its own."""

from __future__ import annotations

import os

from stageflow.providers.local.child import Owner


def main() -> None:
    """Serve until the owner wants nothing more."""
    owner = Owner()
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
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.verbosity = 1  # errors
    server = xllamacpp.Server(params)
    owner.tell(url=f"{server.listening_address}/v1")
    owner.wait()
    # Without the server's own farewell, which waits for the answer that is being written.
    os._exit(0)


if __name__ == "__main__":
    main()
