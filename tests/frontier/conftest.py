"""What runs a model needs torch and transformers; without them those tests are skipped."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "recorder"))  # tiny

HERE = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))

collect_ignore = [] if HERE else ["test_closed_loop.py", "test_hooks.py", "test_measure.py", "test_quality.py"]


@pytest.fixture(autouse=True, scope="session")
def quiet() -> None:
    """One thread for models this small, and no remarks of transformers on their configs."""
    if HERE:
        import torch
        import transformers

        torch.set_num_threads(1)
        transformers.utils.logging.set_verbosity_error()
