"""The curves of the bundled trace that a plan rests on are those that are counted on it."""

from __future__ import annotations

import sys

import numpy as np

from lrcsim.models import load_geometry
from lrcsim.planner.bundled_curves import PATH, bundled_curve, counted_anew
from lrcsim.planner.locality_transfer import curve_of
from lrcsim.planner.strategies import OPTIMUM, POLICIES
from lrcsim.planner.traces import SourceTrace, find_sources

COUNTED = [*POLICIES, OPTIMUM.policy]


def bundled() -> SourceTrace:
    """Return the bundled trace as a plan takes it."""
    (source,), _ = find_sources(load_geometry("qwen3-30b-a3b"), [])
    return source


def test_the_curves_are_those_of_the_bundled_trace() -> None:
    source = bundled()
    for policy in COUNTED:
        known = bundled_curve(source.bundled, policy)
        assert known is not None
        assert np.array_equal(known, curve_of(source.trace, policy)), policy


def test_other_files_and_policies_have_none() -> None:
    source = bundled()
    assert bundled_curve("0" * 64, "lru") is None
    assert bundled_curve(source.bundled, "fifo") is None


def test_the_file_is_as_it_is_written() -> None:
    source = bundled()
    assert counted_anew(source.trace, COUNTED, source.bundled) == PATH.read_text()


if __name__ == "__main__":
    text = counted_anew(bundled().trace, COUNTED, bundled().bundled)
    PATH.write_text(text) if "--write" in sys.argv else print(text)
