"""A cache for every layer, or one pool for all?

The same memory three ways: equal shares, shares by the layers' own hit curves, and one pool in which the layers
compete. A pool adapts by itself, but LRU in it has a cliff: below the experts that one token uses in all layers, each
is evicted just before its layer comes round again.
"""

from lrcsim.simulator import hit_rate_curve
from lrcsim.simulator.curves.allocate import allocate
from lrcsim.traces import RoutingTrace

POLICIES = ("lru", "lfu", "belady")  # the last is the optimum
SIZES = (0.75, 1, 2, 4)  # experts kept over experts active per token

trace = RoutingTrace.open()
print("size   policy   equal shares   by curves   one pool")
for policy in POLICIES:
    equal = hit_rate_curve(trace, policy).hit_rate
    pool = hit_rate_curve(trace, policy, scope="model").hit_rate
    for size in SIZES:
        share = int(size * trace.top_k)  # experts per layer
        budget = share * trace.num_layers
        by_curves = allocate(trace, policy, budget).best.hit_rate
        print(f"{size:>4}x  {policy:<7} {equal[share - 1]:>13.1%} {by_curves:>11.1%} {pool[budget - 1]:>10.1%}")
