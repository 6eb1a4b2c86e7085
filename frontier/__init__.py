"""Quality against speed, measured: a model runs with routing rules and a cache in it.

Nothing here imports torch before it is needed: ``pip install 'lrcsim[record]'`` brings it.
"""

from __future__ import annotations

from lrcsim.frontier.front import knee, pareto
from lrcsim.frontier.rules import Compared, parse_rules

__all__ = ["Compared", "knee", "pareto", "parse_rules"]
