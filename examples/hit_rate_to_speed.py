"""Does a better hit rate turn into tokens per second, also when misses may run on the CPU?

A hit rate counts; a machine waits. Here policies meet ways to treat a miss: load it, split the layer's misses between
the link and the CPU, or run all on the CPU beside a cache that is filled once from a profile. Sort by either column and
see whether the order is the same.
"""

from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

MACHINES = ("rtx-4090", "h100-sxm")
CACHE = "2x"  # times the active experts per token, in each layer
CASES = [(policy, miss) for miss in ("load", "split") for policy in ("lru", "lfu-decay")] + [("static", "cpu")]

trace = RoutingTrace.open()
profile = RoutingTrace.open("bundled:teacher-forced")  # another trace of the same model, for its popular experts
for machine in MACHINES:
    print(f"{machine:<11} misses   hit rate   tokens/s   GPU waits   busiest")
    for policy, miss in CASES:
        result = simulate(trace, policy, CACHE, bounds=False, profile=profile, hardware=machine, miss=miss).to_dict()
        rate, time = result["cache"]["decode"]["hit_rate"], result["time"]
        print(
            f"{policy:<11} {miss:<6} {rate:>10.1%} {time['decode_tokens_per_s']:>10.0f} "
            f"{time['stall_s'] / time['total_s']:>11.0%}   {time['binds']['resource']}"
        )
    print()
