"""How much worse a model is with a rule than without: loss, with a paired interval, and the tokens that change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrcsim.frontier.closed_loop import Ran
from lrcsim.simulator.metrics.bootstrap import basic_interval, resamples

DRAWS = 1_000
CONFIDENCE = 0.95
SEED = 0


@dataclass(frozen=True)
class Quality:
    """A run with a rule beside the same model's without.

    Attributes:
        loss: nats per token.
        difference: of the loss, nats per token; above 0 the rule makes it worse.
        interval: 95 % of `difference`, by a paired bootstrap over requests; None: there is one request only.
        changed: share of the positions whose most likely next token is another.
    """

    loss: float
    difference: float
    interval: tuple[float, float] | None
    changed: float


def quality(ran: Ran, plain: Ran) -> Quality:
    """Compare a run with the run without a rule on the same requests.

    The interval is the basic bootstrap's (`lrcsim.simulator.metrics.bootstrap`) of 1,000 resamples of the requests; a
    resample takes a request's loss with and without the rule together, so what makes a text hard cancels out. Tokens
    within a request are not taken as independent.

    Args:
        ran: with the rule.
        plain: without.
    """
    more = ran.nats - plain.nats
    difference = float(more.sum() / plain.predicted.sum())
    interval = None
    if len(more) > 1:
        drawn = resamples(len(more), DRAWS, SEED).astype(np.float64)
        interval = basic_interval(difference, (drawn @ more) / (drawn @ plain.predicted), CONFIDENCE)
    same = ran.columns["predicted_ids"] == plain.columns["predicted_ids"]
    return Quality(ran.loss, difference, interval, float(1 - same.mean()))
