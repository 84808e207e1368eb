"""Stores of photos on this machine: a web server that may answer late or not at all."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Web:
    """Where the server is, how late it answers in seconds, how many answers it refuses next, and what it was asked."""

    address: str = ""
    delay: float = 0.0
    refused: int = 0
    status: int = 503
    asked: list[str] = field(default_factory=list)


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *words: Any, web: Web, **options: Any) -> None:
        self.web = web
        super().__init__(*words, **options)

    def do_GET(self) -> None:
        self._answer(super().do_GET)

    def do_HEAD(self) -> None:
        self._answer(super().do_HEAD)

    def _answer(self, plainly: Any) -> None:
        self.web.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        time.sleep(self.web.delay)
        if self.web.refused > 0:
            self.web.refused -= 1
            self.send_error(self.web.status)
        elif "Range" in self.headers and self.command == "GET":
            self._range(*map(int, self.headers["Range"].removeprefix("bytes=").split("-")))
        else:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked waits no longer
                plainly()

    def _range(self, first: int, last: int) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        part = data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Web]:
    """A web server of a folder at a port of its own."""
    web = Web(**settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, web=web, directory=str(folder)))
    web.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
