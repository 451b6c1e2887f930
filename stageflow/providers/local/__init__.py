"""Speech and a language model on this machine, without a network (needs the extra ``local``).

Everything comes out of wheels. `vad` finds speech, `stt` understands it, `tts` speaks, `llm`
answers. Native code that holds the interpreter's lock or cannot be interrupted runs in a process
of its own (`helper`); all other runs in one thread for each provider (`lane`).
"""
