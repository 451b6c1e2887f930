"""A receiver of webhooks on this machine, that keeps requests and answers as configured."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: A part of the address that only Slack and the sender know.
SECRET_PATH = "/services/T000/B000/sEcReTsEcReT"


@dataclass
class Webhook:
    """The requests that have arrived, and the answers.

    Attributes:
        payloads: All requests in order, refused ones included.
        answers: Code and headers of the next answers; after these it is 200. The header `Answer`
            is the text, too.
        accepted: How many payloads were answered with 200.
        url: Where it listens.
    """

    payloads: list[dict[str, Any]] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    accepted: int = 0
    arrived: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""

    def take(self, payload: dict[str, Any]) -> tuple[int, dict[str, str]]:
        """Keep a payload; what to answer."""
        with self.arrived:
            self.payloads.append(payload)
            self.arrived.notify_all()
            answer = self.answers.pop(0) if self.answers else (200, {})
            self.accepted += answer[0] == 200
        return answer


@contextmanager
def webhook() -> Iterator[Webhook]:
    """A receiver in threads of its own."""
    receiver = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            code, headers = receiver.take(json.loads(self.rfile.read(length)))
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(headers.get("Answer", "ok").encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}{SECRET_PATH}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
