"""Small traces and policies for sweeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lrcsim.traces import RoutingTrace

WATCHED = '''
import os, time
from pathlib import Path
from lrcsim.policies.recency import Lru

HERE = Path(__file__).parent


class Watched(Lru):
    """LRU that takes its time and writes down each run."""

    def reset(self):
        super().reset()
        with open(HERE / "log", "a") as log:
            log.write(f"{self.view.capacity} {os.getpid()}\\n")
        time.sleep(0.25)


class Deadly(Lru):
    """Takes its process down."""

    def reset(self):
        os._exit(1)
'''
"""A policy of one's own is replayed run by run."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``round.h5``, one layer that goes round 0 1 2 0 1 2, and ``mine.py``."""
    trace = RoutingTrace.from_arrays([[[e]] for e in (0, 1, 2, 0, 1, 2)], num_experts=3, expert_bytes=10)
    trace.save(tmp_path / "round.h5")
    (tmp_path / "mine.py").write_text(WATCHED)
    return tmp_path


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Three requests of the bundled trace as a file: of each 12 tokens of the prompt and 28 of the answer."""
    bundled = RoutingTrace.open()
    assert bundled.phase is not None
    assert bundled.expert_bytes is not None
    decode = [int(start + np.argmax(bundled.phase[start:])) for start in bundled.offsets[:3]]
    tokens = np.concatenate([np.arange(first - 12, first + 28) for first in decode])
    path = tmp_path / "recorded.h5"
    RoutingTrace.from_arrays(
        bundled.experts[tokens],
        num_experts=bundled.num_experts,
        offsets=[0, 40, 80, 120],
        phase=bundled.phase[tokens],
        weights=bundled.column("weights")[tokens],
        expert_bytes=bundled.expert_bytes.tolist(),
        model=bundled.model,
    ).save(path)
    return path
