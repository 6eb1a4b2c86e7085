"""Curves of the bundled trace, counted beforehand: reading it and running five policies took a fifth of a plan's time.

``data/bundled_curves.toml`` says of which file they are; those of another file are counted when they are wanted.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrcsim.planner.locality_transfer import curve_of
from lrcsim.traces import RoutingTrace

PATH = Path(__file__).parent / "data" / "bundled_curves.toml"

HEAD = """\
# Hit rate while decoding, warm, at 0 .. E experts per layer (lrcsim.planner.locality_transfer.curve_of), of the sample
# that a plan takes of the bundled trace. Written by `python tests/planner/test_bundled_curves.py --write`; the test
# counts them again.

"""


def bundled_curve(sha256: str, policy: str) -> npt.NDArray[np.float64] | None:
    """Return the curve of a policy, float64 [E + 1]; None: it was not counted, or on another file.

    Args:
        sha256: of the bundled trace.
        policy: one of lrcsim's.
    """
    told, curves = _counted()
    return curves.get(policy) if told == sha256 else None


@cache
def _counted() -> tuple[str, dict[str, npt.NDArray[np.float64]]]:
    data = tomllib.loads(PATH.read_text(encoding="utf-8"))
    return data["sha256"], {policy: np.array(rates, np.float64) for policy, rates in data["hit_rate"].items()}


def counted_anew(trace: RoutingTrace, policies: list[str], sha256: str) -> str:
    """Return what the file should be.

    Args:
        trace: the sample.
        policies: to run on it.
        sha256: of the bundled trace.
    """
    lines = [HEAD + f'sha256 = "{sha256}"', "", "[hit_rate]"]
    for policy in policies:
        rates = curve_of(trace, policy).tolist()
        rows = (", ".join(map(repr, rates[at : at + 5])) for at in range(0, len(rates), 5))
        lines.append(f"{policy} = [\n" + "".join(f"    {row},\n" for row in rows) + "]")
    return "\n".join(lines) + "\n"
