"""Speech to text on this machine: English, by PocketSphinx."""

from __future__ import annotations

from collections.abc import Sequence

from stageflow.closing import AsyncClosing
from stageflow.errors import InvalidConfigError
from stageflow.providers.audio import MAX_DURATION_S, AudioTooLongError, resampled
from stageflow.providers.extras import found
from stageflow.providers.local.helper import HelperProcess
from stageflow.providers.local.lane import Lane, Stop
from stageflow.providers.local.recognizer import RATE_HZ
from stageflow.providers.local.vad import SileroVAD
from stageflow.providers.ports import Audio


def grammar_of(phrases: Sequence[str]) -> str:
    """A JSGF grammar of which each of `phrases` is one whole utterance.

    Raises:
        InvalidConfigError: There is none, or one holds something else than words.
    """
    for phrase in phrases or ("",):
        if not phrase.replace("'", "").replace(" ", "").isalpha():
            raise InvalidConfigError("grammar_of", "phrases", phrase, "give words, without signs")
    return f"#JSGF V1.0; grammar commands; public <command> = {' | '.join(phrases).lower()};"


class PocketsphinxSTT(AsyncClosing):
    """Understands spoken English.

    Attributes:
        helper: The process that listens; started at the first speech.
    """

    def __init__(
        self,
        grammar: str | None = None,
        *,
        max_duration_s: float = MAX_DURATION_S,
        start_timeout_s: float = 60.0,
    ) -> None:
        """Choose what can be said; nothing is started before the first call.

        Args:
            grammar: JSGF for exact commands, as `grammar_of` makes it: whatever is said is taken
                for one of them, or for nothing. None for any words.
            max_duration_s: The longest sound, in seconds.
            start_timeout_s: How long the process may take to come up, in seconds.

        Raises:
            MissingExtraError: The extra ``local`` is not installed.
        """
        found("pocketsphinx", "local", "speech recognition")
        self.helper = HelperProcess(
            "speech recognition",
            "stageflow.providers.local.recognizer",
            {"grammar": grammar},
            start_timeout_s=start_timeout_s,
        )
        self._max_duration_s = max_duration_s
        self._lane = Lane("speech recognition")
        self._vad = SileroVAD()

    async def transcribe(self, audio: Audio) -> str:
        """What is said in `audio`, in small letters without punctuation; empty if nothing is.

        A caller that is cancelled ends the process, and with it the work; the next call starts
        another one.

        Raises:
            AudioTooLongError: The sound is longer than the limit.
            LocalServiceError: The process does not come up, or ends: the grammar may be wrong.
            MissingExtraError: The extra ``local`` is not installed.
            ProviderBusyError: Too many calls wait already.
        """
        if audio.duration_s > self._max_duration_s:
            raise AudioTooLongError("speech recognition", self._max_duration_s)
        return await self._lane.run(lambda stop: self._understand(audio, stop))

    def _understand(self, audio: Audio, stop: Stop) -> str:
        pcm = resampled(audio, RATE_HZ).pcm
        said = []
        for span in self._vad.find(Audio(pcm, RATE_HZ), stop):
            start, end = (2 * int(t * RATE_HZ) for t in (span.start_s, span.end_s))
            self.helper.start()
            with stop.interrupting(self.helper.kill):
                said.append(self.helper.ask({}, pcm[start:end])["text"])
        return " ".join(filter(None, said))

    async def close(self) -> None:
        """End the process and the thread."""
        self.helper.kill()
        await self._vad.close()
        await self._lane.close()
        self.helper.close()
