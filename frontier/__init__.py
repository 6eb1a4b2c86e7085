"""Quality against speed, measured: a model runs with routing rules and a cache in it.

Nothing here imports torch before it is needed: ``pip install '.[record]'`` brings it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lrcsim.frontier.front import knee, pareto
from lrcsim.frontier.rules import Compared, parse_rules

if TYPE_CHECKING:
    from lrcsim.base.progress import Progress
    from lrcsim.frontier.measure import Frontier
    from lrcsim.recorder import Prompt
    from lrcsim.recorder.model import Loaded

__all__ = ["Compared", "knee", "measure_frontier", "pareto", "parse_rules"]


def measure_frontier(
    loaded: Loaded,
    prompts: Iterable[Prompt],
    rules: str,
    *,
    sample_tokens: int = 512,
    limit: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Frontier:
    """Run a model with each rule, its cache in the loop, and say what each costs in quality and brings in speed.

    Args:
        loaded: model and tokenizer, from `lrcsim.recorder.model.load`.
        prompts: texts (`lrcsim.recorder.read_prompts`), packed into samples as ``lrcsim record --teacher-forced`` does.
        rules: as ``lrcsim frontier --rules``: ``"prior:0.05,0.1;window:2,12;skip:0.1"``.
        sample_tokens: length of a sample.
        limit: samples at most; None: all.
        progress: told how far it is, in tokens.
        options: of a run (`lrcsim.simulator.setup.options.Options`): ``policy``, ``cache``, ``scope``, ``access``,
            ``warm``, ``profile``, ``expert_bytes``, and with ``hardware`` those of the machine.

    Raises:
        ConfigError: model, prompts, rules and options do not go together.
        PolicyError: the policy knows the future, or a user's policy or rule failed.
    """
    from lrcsim.frontier.measure import measure

    return measure(
        loaded, prompts, parse_rules(rules), sample_tokens=sample_tokens, limit=limit, progress=progress, **options
    )
