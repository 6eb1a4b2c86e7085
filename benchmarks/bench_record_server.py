"""What does recording from a server cost the one who records?

A server in a process of its own gives the same answer to all: that of a model of Qwen3-30B-A3B's shape (48 layers, 128
experts, top-8) to 1,000 tokens of prompt, with 100 generated, as vLLM 0.32 writes it. Measured is the CPU time of
`record_from_server` (asking, checking, keeping, importing), and of only receiving and parsing the answers; the median
of the runs.

    python benchmarks/bench_record_server.py [RUNS]
"""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import numpy as np

from lrcsim.recorder import Prompt, Settings
from lrcsim.recorder.connection import Connection
from lrcsim.recorder.servers import record_from_server
from lrcsim.traces.importers import Options

LAYERS, EXPERTS, TOP_K = 48, 128, 8
PROMPT, MADE, ANSWERS = 1_000, 100, 50


def answer() -> bytes:
    """Give the answer's JSON."""
    random = np.random.default_rng(0)
    scores = random.random((PROMPT + MADE - 1, LAYERS, EXPERTS), dtype=np.float32)
    file = io.BytesIO()
    np.save(file, scores.argpartition(TOP_K, axis=2)[:, :, :TOP_K].astype(np.uint8))
    choice = {
        "index": 0, "text": "", "finish_reason": "length", "prompt_token_ids": list(range(PROMPT)),
        "token_ids": list(range(MADE)), "routed_experts": base64.b64encode(file.getvalue()).decode(),
    }  # fmt: skip
    usage = {"prompt_tokens": PROMPT, "completion_tokens": MADE}
    return json.dumps({"id": "a", "model": "m", "choices": [choice], "usage": usage}).encode()


def serve(pipe: Pipe) -> None:
    """Answer for ever, on a port that is told."""
    routed, models = answer(), b'{"data": [{"id": "m"}]}'

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.give(models)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.give(routed)

        def give(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    pipe.send(f"http://127.0.0.1:{server.server_address[1]}")
    server.serve_forever()


def main() -> None:
    """Print milliseconds an answer."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(there,), daemon=True)
    process.start()
    url = here.recv()
    prompts = [Prompt(text=str(number)) for number in range(ANSWERS)]

    def spent(work: Callable[[], object]) -> float:
        begun = time.process_time()
        work()
        return (time.process_time() - begun) / ANSWERS * 1e3

    connection = Connection.to(url, None)
    with tempfile.TemporaryDirectory() as folder:
        out, options = Path(folder) / "out.h5", Options(num_experts=EXPERTS)

        def record() -> None:
            out.unlink(missing_ok=True)
            record_from_server("vllm", url, prompts, out, Settings(max_new_tokens=MADE), options)

        record()
        received = [spent(lambda: [connection.post("/v1/completions", {}) for _ in prompts]) for _ in range(runs)]
        recorded = [spent(record) for _ in range(runs)]
    process.terminate()
    positions = PROMPT + MADE - 1
    for what, times in (("receiving and parsing", received), ("recording", recorded)):
        middle = statistics.median(times)
        print(
            f"{what}: {middle:.1f} ms of CPU an answer ({min(times):.1f} to {max(times):.1f}), "
            f"{middle / positions * 1e3:.0f} us a token"
        )


if __name__ == "__main__":
    main()
