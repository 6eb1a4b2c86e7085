"""The recorder's tests need torch and transformers; without them they are skipped."""

from __future__ import annotations

import importlib.util

import pytest

REASON = "torch and transformers are not installed (pip install '.[record]')"
HERE = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))

collect_ignore = (
    []
    if HERE
    else ["test_architectures.py", "test_capture.py", "test_models_of_the_paper.py", "test_record.py", "test_resume.py"]
)


@pytest.fixture(autouse=True, scope="session")
def quiet() -> None:
    """One thread for models this small, and no remarks of transformers on their configs."""
    if HERE:
        import torch
        import transformers

        torch.set_num_threads(1)
        transformers.utils.logging.set_verbosity_error()
