"""What is measured: the checkpoint, the text, the rules, and the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrcsim.base.progress import Progress
from lrcsim.frontier.rules import parse_rules
from lrcsim.recorder.prompts import Prompt
from lrcsim.traces import RoutingTrace

if TYPE_CHECKING:
    from lrcsim.frontier.measure import Frontier

RULES = "none;prior:0.05,0.1,0.2,0.4;window:2,12;window:2,16;substitute:0.1;skip:0.1,0.125"
CACHE = "16"
HARDWARE = "rtx-4090"
SAMPLES = 12

FORMATS = {
    "hit rate, %": "{:.2f}",
    "replayed, %": "{:.2f}",
    "loads per access": "{:.3f}",
    "loss, nats": "{:.4f}",
    "more by": "{:+.4f}",
    "tokens changed, %": "{:.1f}",
    "same experts, %": "{:.0f}",
    "mass kept, %": "{:.1f}",
    "tokens/s": "{:,.0f}",
}
"""How the columns of `rows` are written."""


def measured(
    family: Path, samples: int, *, rules: str = RULES, out: Path | None = None, progress: Progress | None = None
) -> Frontier:
    """Run the rules on the first samples of the text that was held out of the training.

    Args:
        family: the folder of the model family, ``experiments/model_family``.
        samples: of 512 tokens, 24 at most.
        rules: as ``lrcsim frontier --rules``.
        out: beside which finished rules are kept.
        progress: told how far it is, in tokens.

    Raises:
        ConfigError: torch is absent, or the folder holds no checkpoint.
        TraceError: the folder holds no trace of the text.
    """
    from lrcsim.recorder.model import load, require_torch

    require_torch()
    from lrcsim.frontier.measure import measure

    loaded = replace(load(str(family / "checkpoint"), device="cpu", dtype="fp32"), name="lrcsim-toy-baseline")
    compared = parse_rules(rules)
    return measure(
        loaded, texts(family), compared, limit=samples, out=out, progress=progress, cache=CACHE, hardware=HARDWARE
    )


def texts(family: Path) -> Iterator[Prompt]:
    """Yield the samples as token ids, the six domains in turn."""
    with RoutingTrace.open(family / "checkpoint_traces" / "teacher_forced.h5") as trace:
        for request in range(trace.num_requests):
            low, high = (int(bound) for bound in trace.offsets[request : request + 2])
            yield Prompt(token_ids=tuple(trace.read("token_ids", low, high).tolist()))


def rows(found: Frontier) -> list[dict[str, Any]]:
    """Return the table's rows: rates in percent."""
    listed = []
    for row in found.rows:
        low, high = row["loss_interval"]
        listed.append(
            {
                "rule": row["rule"],
                "hit rate, %": 100 * row["hit_rate"],
                "replayed, %": 100 * row["open_loop"]["hit_rate"],
                "loads per access": row["loads_per_access"],
                "loss, nats": row["loss"],
                "more by": row["loss_difference"],
                "95 % interval": f"{low:+.4f} to {high:+.4f}",
                "tokens changed, %": 100 * row["changed_tokens"],
                "same experts, %": 100 * row["agreement"],
                "mass kept, %": 100 * row["mass_kept"],
                "tokens/s": row["tokens_per_s"],
                "": "knee" if row["rule"] == found.knee else "front" if row["rule"] in found.front else "",
            }
        )
    return listed
