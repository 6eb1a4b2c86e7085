"""Load a share of the misses and wait, or run all of them on the CPU and upload a few for later?

`split` waits for what it loads in the same layer-step; `cpu,admit:N` never waits: it uploads at most N experts per
layer and step behind everything urgent, for later uses. Which is better, and from which N on, depends on the machine.
Over a fast link split fills the cache and shortens the step at once. Over a slow one its best share rounds to no expert
at all, and the cache hardly fills. More uploads soon put out what would have been used: most is won by the first.
"""

from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

LINKS = ("25.6GB/s", "3GB/s")  # of an RTX 4090: PCIe 4.0 x16, and a slot of four lanes of PCIe 3.0
CACHE = "2x"  # times the active experts per token, in each layer
REQUESTS = 3
ADMITTED = (1, 2, 4, 8)

whole = RoutingTrace.open()
end = whole.offsets[REQUESTS]
trace = RoutingTrace.from_arrays(
    whole.experts[:end],
    num_experts=whole.num_experts,
    offsets=whole.offsets[: REQUESTS + 1],
    phase=whole.phase[:end],
    expert_bytes=whole.expert_bytes.tolist(),
    model=whole.model,
)
admissions = {f"cpu,admit:{number}": number for number in ADMITTED}
for link in LINKS:
    machine = {"hardware": "rtx-4090", "overrides": [f"pcie.bandwidth={link}"]}
    print(f"{link:<12} hit rate   tokens/s   MiB per token: on demand   admitted   wasted of it")
    speeds = {}
    for miss in ("load", "cpu", "split", *admissions):
        result = simulate(trace, "lru", CACHE, bounds=False, miss=miss, **machine).to_dict()
        rate, used = result["cache"]["hit_rate"], result["admitted"]
        speeds[miss] = result["time"]["decode_tokens_per_s"]
        moved = result["cache"]["bytes_loaded"], used["issued_bytes"], used["wasted_bytes"]
        demand, uploaded, wasted = (count / 2**20 / trace.num_tokens for count in moved)
        print(f"{miss:<12} {rate:>8.1%} {speeds[miss]:>10.0f} {demand:>26.2f} {uploaded:>10.2f} {wasted:>14.2f}")
    better = [number for miss, number in admissions.items() if speeds[miss] > speeds["split"]]
    print(f"admission is faster than split from N = {better[0]} on\n" if better else "split is faster than any N\n")
