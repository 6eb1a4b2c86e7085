"""Which options a comparison of rules takes: those of a run that say something of a running model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.frontier.rules import Compared
from lrcsim.policies import make_policy
from lrcsim.simulator.setup.options import Options

REFUSED = {
    "prefill": "every token is a step of its own here",
    "route": "the rules are what is compared",
    "batch": "tokens of one request follow each other here",
    "speculative": "tokens are given, not drafted",
    "arrivals": "tokens are given, one request after the other",
    "miss": "the rules are what is compared, and all other misses are loaded",
    "prefetch": "the caches of the running model load on demand",
}
"""Options of a run that say nothing here, and why."""


def checked(options: dict[str, Any], rules: Sequence[Compared]) -> Options:
    """Return the options, and refuse what no running model could have.

    Raises:
        ConfigError: an option says nothing here, or does not go with a rule.
        PolicyError: the policy knows the future.
    """
    asked = Options.of(options)
    for name in options:
        if name in REFUSED and name in asked.given():
            raise ConfigError(f"option {name!r} cannot be used with frontier: {REFUSED[name]}; leave it out")
    if asked.access == "paper":
        raise ConfigError(
            "access 'paper' looks whole tokens up, and a running model asks layer by layer: use access 'coresident'"
        )
    if asked.access == "sequential" and any(rule.skip is not None for rule in rules):
        raise ConfigError("skip leaves misses of a layer-step out: use access 'coresident', or leave skip out")
    if "future" in make_policy(asked.policy).needs:
        raise PolicyError(
            f"policy {make_policy(asked.policy).name} needs to know the uses to come, which a running model does not: "
            "use another policy"
        )
    return asked
