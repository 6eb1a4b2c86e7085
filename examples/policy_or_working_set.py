"""Is a low hit rate the policy's fault, or the working set's?

A miss is one of three things: the first use ever of an expert, one that no policy could have avoided at this cache
size, or one that the optimum would have avoided. Only the last is the policy's. Why the others cannot be avoided, the
last line says: how many distinct experts a few tokens in a row use.
"""

from itertools import pairwise

import numpy as np

from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

POLICY = "lru"
SIZES = ("1x", "2x", "4x", "6x")  # cache per layer, times the active experts per token
WINDOW = 16  # tokens in a row whose distinct experts are counted

trace = RoutingTrace.open()
print(f"{POLICY}, misses in % of accesses")
print("cache   all   first use   unavoidable   the policy's")
for size in SIZES:
    result = simulate(trace, POLICY, size)
    accesses = int(result.counts.accesses.sum())
    missed = 1 - result.hit_rate
    first = result.counts.cold_misses / accesses
    best = 1 - result.bounds["belady"].hit_rate
    print(f"{size:>5} {missed:>5.1%} {first:>11.1%} {best - first:>13.1%} {missed - best:>14.1%}")

used = [
    len(np.unique(trace.experts[at : at + WINDOW, layer]))
    for low, high in pairwise(trace.offsets)
    for at in range(low, high - WINDOW + 1, WINDOW)
    for layer in range(trace.num_layers)
]
print(f"\n{WINDOW} tokens in a row use {np.mean(used):.0f} experts of a layer, {np.mean(used) / trace.top_k:.1f}x")
