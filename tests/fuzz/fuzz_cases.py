"""What is done with a spoilt file, in a worker process: read it in every way that there is, and hold on to the answer.

The worker reads ``kind<TAB>path`` a line and answers a line each: ``good``, ``refused: MESSAGE`` (an `LrcsimError`), or
``WRONG: ...``. A crash, a time or memory limit is noticed by the process that feeds it (`fuzz_driver`).
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
import warnings
from pathlib import Path

MEMORY = 6 << 30
"""Bytes of address space of a worker, most of which are libraries."""


def answer(kind: str, path: Path) -> str:
    """Read a file of a kind and say what came of it."""
    from lrcsim.base.errors import LrcsimError

    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return _read(kind, path)
    except LrcsimError as error:
        message = str(error)
        if len(message.splitlines()) > 1:
            return f"WRONG: several lines: {message!r}"[:500]
        return f"refused: {message.encode('ascii', 'backslashreplace').decode()}"[:300]
    except BaseException as error:  # whatever it is, it is what we look for
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"WRONG: {type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {error}".replace("\n", " ")[
            :500
        ]


def _read(kind: str, path: Path) -> str:
    from lrcsim.traces import RoutingTrace, check_file
    from lrcsim.traces.importers import Options, import_trace

    if kind.startswith("import "):
        out = path.with_name(path.name + ".imported")
        try:
            for name in (None, kind.removeprefix("import ")):
                import_trace(path, out, name, Options(top_k=2) if kind == "import lines" else None)
            return _use(RoutingTrace.open(out), check_file(out), imported=True)
        finally:
            left = [entry.name for entry in path.parent.iterdir() if entry.name.endswith(".tmp")]
            out.unlink(missing_ok=True)
            assert not left, left
    if kind == "trace":
        problems = check_file(path)
        return _use(RoutingTrace.open(path), problems, imported=False)
    if kind == "config":
        from lrcsim.models import load_geometry

        return f"good: {load_geometry(str(path)).experts}"
    if kind == "profile":
        from lrcsim.hardware import load_profile

        return f"good: {load_profile(str(path)).name}"
    if kind == "sweep":
        from lrcsim.sweeps import read_spec

        return f"good: {type(read_spec(path)).__name__}"
    from lrcsim.cli.main import main

    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main(["report", str(path), "-o", str(path.with_suffix(".html"))])
        except SystemExit as end:
            if end.code not in (0, None):
                lines = said.getvalue().splitlines()
                assert len(lines) == 1, lines
                assert "Traceback" not in lines[0]
                assert "is a bug in lrcsim" not in lines[0], lines
                return f"refused: {lines[0]}"
    return "good"


def _use(trace: object, problems: list[object], *, imported: bool) -> str:
    """Run what indexes with a trace's columns; what `check_file` calls good must run, and what runs must add up."""
    from lrcsim.base.errors import LrcsimError
    from lrcsim.simulator import hit_rate_curve, simulate
    from lrcsim.traces import RoutingTrace

    assert isinstance(trace, RoutingTrace)
    assert not (imported and problems), f"imported, and then called wrong: {problems[0]}"
    with trace:
        try:
            for policy in ("lru", "belady"):
                curve = hit_rate_curve(trace, policy=policy, jobs=1)
                assert ((curve.hit_rate >= 0) & (curve.hit_rate <= 1)).all()
            simulate(trace, policy="lfu", cache="2x")
            for name in trace.columns:
                trace.column(name)
        except LrcsimError:
            assert problems or (trace.experts < 0).all(), "good, but not to be used"
            raise
        assert not problems, f"used without a word, and wrong: {problems[0]}"
    return "good"


def serve() -> None:
    """Answer what comes on standard input."""
    import resource

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        kind, _, path = line.rstrip("\n").partition("\t")
        out.write(answer(kind, Path(path)) + "\n")
        out.flush()


if __name__ == "__main__":
    serve()
