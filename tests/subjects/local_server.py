"""A web server on this machine that misbehaves on request, and a registry of one small file."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT = hashlib.sha1(b"blob 256000\0" + CONTENT).hexdigest()

GROUP = """
[group.toy]
what = "scans of {{item}}"
licence = "CC0"
citation = "none"
bases = {bases}
[group.toy.paths]
scan = "{path}"
[row."toy:one"]
scan = {{ {facts} }}
"""


def write_registry(folder: Path, bases: list[str], facts: str, path: str = "deep/{item}.bin") -> None:
    """A registry with the row `toy:one` and its single file `scan`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "registry.toml").write_text(GROUP.format(bases=bases, path=path, facts=facts))


class Server(ThreadingHTTPServer):
    """Serves `content` at every address, or of many the one of the path that is asked for.

    The behaviours are used up one a request, then it is honest.

    Behaviours: `honest`, `missing` (404), `broken` (500), `page` (HTML), `short` and `long` (another length),
    `cut` (fewer bytes than announced), `silent` (no answer), `stalled` (half the bytes, then nothing).
    """

    daemon_threads = True

    def __init__(self, content: bytes | Mapping[str, bytes], behaviours: list[str]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.behaviours = list(behaviours)
        self.requests: list[str] = []
        self.pace = 0.0  # seconds between the 32 pieces of an answer
        self.closing = threading.Event()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(self.path)
        behaviour = server.behaviours.pop(0) if server.behaviours else "honest"
        if behaviour == "silent":
            server.closing.wait(10)
            return
        content = server.content if isinstance(server.content, bytes) else server.content.get(self.path, b"")
        if behaviour in ("missing", "broken") or not content:
            behaviour = behaviour if behaviour == "broken" else "missing"
            self.send_error({"missing": 404, "broken": 500}[behaviour])
            return
        body = {
            "page": b"<!DOCTYPE html><p>Please log in",
            "short": content[:-1],
            "long": content + b"x",
        }.get(behaviour, content)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for piece in pieces(body[: len(body) // 2] if behaviour in ("cut", "stalled") else body):
            server.closing.wait(server.pace)
            self.wfile.write(piece)
        if behaviour == "stalled":
            self.wfile.flush()
            server.closing.wait(10)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test output quiet."""


def pieces(body: bytes, count: int = 32) -> Iterator[bytes]:
    """The body in parts of one size."""
    size = -(-len(body) // count) or 1
    for start in range(0, len(body), size):
        yield body[start : start + size]


@contextmanager
def serving(*behaviours: str, content: bytes | Mapping[str, bytes] = CONTENT) -> Iterator[Server]:
    """A running server, stopped at the end of the block."""
    server = Server(content, list(behaviours))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
