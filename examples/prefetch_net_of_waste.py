"""Does prefetching help, net of the bytes that it wastes?

What is brought ahead counts as a hit when it is used, in time or not, and puts something else out. It pays only if the
link has time to spare for the experts that it brings in vain, and if the others come early enough. So look at tokens
per second, and at what became of the bytes. The oracle is the ceiling of prefetchers that look one layer ahead.
"""

from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

PREFETCHERS = ("none", "popularity", "transition", "next-gate", "oracle:1")
MACHINE = "rtx-4090"
CACHE = "2x"  # times the active experts per token, in each layer
REQUESTS = 3  # a few are enough, and the event-driven engine takes seconds for them

whole = RoutingTrace.open()
end = whole.offsets[REQUESTS]
trace = RoutingTrace.from_arrays(
    whole.experts[:end],
    num_experts=whole.num_experts,
    offsets=whole.offsets[: REQUESTS + 1],
    phase=whole.phase[:end],
    expert_bytes=whole.expert_bytes.tolist(),
    predictions={1: whole.column("predictions/1")[:end]},  # of the next layer's gate, recorded with the trace
    model=whole.model,
)
print("prefetcher   hit rate   tokens/s   MiB moved per token: on demand   in time   late   wasted")
for prefetcher in PREFETCHERS:
    result = simulate(trace, "lru", CACHE, bounds=False, hardware=MACHINE, prefetch=prefetcher).to_dict()
    cache, time, brought = result["cache"], result["time"], result["prefetch"]
    moved = [cache["bytes_loaded"], *(brought[f"{kind}_bytes"] for kind in ("useful", "late", "wasted"))]
    demand, useful, late, wasted = (count / 2**20 / trace.num_tokens for count in moved)
    print(
        f"{prefetcher:<11} {cache['hit_rate']:>9.1%} {time['decode_tokens_per_s']:>10.0f} "
        f"{demand:>32.2f} {useful:>9.2f} {late:>6.2f} {wasted:>8.2f}"
    )
