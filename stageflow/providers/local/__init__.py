"""Speech and a language model on this machine, without a network (needs the extra ``local``).

Models and voices come in wheels. Native code that holds the interpreter's lock or cannot be
interrupted runs in a process of its own; other native code runs in one thread for each provider.
"""

from typing import TYPE_CHECKING

from stageflow._utils.lazy import lazy_names

if TYPE_CHECKING:
    from stageflow.providers.local.helper import HelperProcess
    from stageflow.providers.local.llm import LlamaServer, LocalLLM
    from stageflow.providers.local.stt import PocketsphinxSTT, SileroVAD, grammar_of
    from stageflow.providers.local.tts import EspeakTTS, speak

__all__ = [
    "EspeakTTS",
    "HelperProcess",
    "LlamaServer",
    "LocalLLM",
    "PocketsphinxSTT",
    "SileroVAD",
    "grammar_of",
    "speak",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    """
    helper: HelperProcess
    llm: LlamaServer LocalLLM
    stt: PocketsphinxSTT SileroVAD grammar_of
    tts: EspeakTTS speak
    """,
)
