"""Speech recognition by PocketSphinx, as a process of its own.

It holds the interpreter's lock while it listens, and a whole utterance is understood better than
one in chunks (its loudness is then known from the beginning); so it has an interpreter to itself,
and whoever does not want the answer any more ends the process.
"""

from __future__ import annotations

from typing import Any

from stageflow.providers.local.child import Owner

RATE_HZ = 16_000
# The model was trained with recordings, and hears words in silence that is nothing but zeros: a
# floor of noise as of a quiet room, 58 dB below full scale.
_NOISE_AMPLITUDE = 40.0


def main() -> None:
    """Understand one utterance after another, until the owner wants nothing more."""
    owner = Owner()
    decoder = _decoder(owner.settings["grammar"])
    owner.tell(ready=True)
    for _, pcm in owner.requests():
        decoder.start_utt()
        decoder.process_raw(_with_noise(pcm), no_search=False, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        owner.tell(text=found.hypstr if found is not None else "")


def _decoder(grammar: str | None) -> Any:
    import pocketsphinx  # type: ignore[import-untyped]  # noqa: PLC0415

    common = {"samprate": RATE_HZ, "cmn": "batch", "loglevel": "ERROR"}
    if grammar is None:
        return pocketsphinx.Decoder(**common)
    decoder = pocketsphinx.Decoder(lm=None, **common)
    decoder.add_jsgf_string("commands", grammar)
    decoder.activate_search("commands")
    return decoder


def _with_noise(pcm: bytes) -> bytes:
    import numpy as np  # noqa: PLC0415

    samples = np.frombuffer(pcm, dtype="<i2").astype("float64")
    samples += np.random.default_rng(0).normal(0, _NOISE_AMPLITUDE, len(samples))
    noisy: bytes = np.clip(samples, -32_768, 32_767).astype("<i2").tobytes()
    return noisy


if __name__ == "__main__":
    main()
