"""Exchanges with a server: passed on to a real one and taped, or replayed without one.

An exchange is ``{"method", "path", "body", "status", "answer"}``: the JSON body that was sent (null: none), and the
text that came back. Those that are kept stand as JSON lines, with the name of their ``case``.
"""

from __future__ import annotations

import gzip
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Exchange = dict[str, Any]


class _Handler(BaseHTTPRequestHandler):
    """Gives what `exchange` says."""

    def exchange(self, method: str, path: str, body: Any) -> Exchange:
        raise NotImplementedError

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET", None)

    def do_POST(self) -> None:
        self._answer("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, method: str, body: Any) -> None:
        found = self.exchange(method, self.path, body)
        data = found["answer"].encode()
        self.send_response(found["status"])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def _serving(handler: type[_Handler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(url: str, method: str, path: str, body: Any) -> Exchange:
    """Ask a real server and return the exchange, errors too."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read().decode()
    return {"method": method, "path": path, "body": body, "status": status, "answer": text}


@contextmanager
def taping(real: str) -> Iterator[tuple[str, list[Exchange]]]:
    """Stand before a real server: give an address, and the list of what was said, in the order of the answers."""
    said: list[Exchange] = []

    class Tape(_Handler):
        def exchange(self, method: str, path: str, body: Any) -> Exchange:
            said.append(send(real, method, path, body))
            return said[-1]

    with _serving(Tape) as url:
        yield url, said


@contextmanager
def replaying(tape: list[Exchange]) -> Iterator[tuple[str, list[Exchange]]]:
    """Answer as the tape has it, each exchange once but for GET; give an address, and the list of what was asked.

    What the tape does not have is answered with status 501, which no client takes for an answer.
    """
    left = list(tape)
    asked: list[Exchange] = []
    lock = threading.Lock()

    class Replay(_Handler):
        def exchange(self, method: str, path: str, body: Any) -> Exchange:
            with lock:
                for found in left:
                    if (found["method"], found["path"], found["body"]) == (method, path, body):
                        if method != "GET":
                            left.remove(found)
                            asked.append(found)
                        return found
            return {"status": 501, "answer": f"the tape has no {method} {path} {json.dumps(body)}"}

    with _serving(Replay) as url:
        yield url, asked


ANSWERS = Path(__file__).parent / "answers"
"""A folder for each server and release, see the README there."""

EXCHANGES, TRUTH = "exchanges.jsonl.gz", "transformers.npz"


def cases(server: str) -> dict[str, list[Exchange]]:
    """Return the exchanges of each case that was tried with a real server, a folder of `ANSWERS`."""
    found: dict[str, list[Exchange]] = {}
    for line in gzip.decompress((ANSWERS / server / EXCHANGES).read_bytes()).splitlines():
        one = json.loads(line)
        found.setdefault(one.pop("case"), []).append(one)
    return found


def routed_by_transformers(server: str) -> dict[str, npt.NDArray[np.int64]]:
    """Return what transformers routes for the token ids of each request: int64 [tokens, MoE layers, k] by rising id.

    Keys are ``CASE.NUMBER``, the request's number in it.
    """
    with np.load(ANSWERS / server / TRUTH) as arrays:
        parts = np.split(arrays["rows"].astype(np.int64), np.cumsum(arrays["sizes"])[:-1])
        return dict(zip(arrays["names"].tolist(), parts, strict=True))
