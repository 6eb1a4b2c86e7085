"""Which cache size is the knee, and what does one more expert per layer buy?

One pass gives the hit rate at every size. The knee is the point farthest above the straight line to the last one:
beyond it a slot brings less than the average. What to buy is decided by the last column, the hit rate that the next
slots bring.
"""

from lrcsim.simulator import hit_rate_curve
from lrcsim.traces import RoutingTrace

POLICIES = ("lru", "lfu", "belady")  # the last is the optimum
STEP = 8  # experts per layer between two lines

trace = RoutingTrace.open()
curves = {policy: hit_rate_curve(trace, policy) for policy in POLICIES}
slot_bytes = int(trace.expert_bytes.sum())  # one more expert in every layer

print("experts    MiB " + "".join(f"{policy:>8}" for policy in POLICIES) + f"   next {STEP} slots, {POLICIES[0]}")
rates = curves[POLICIES[0]].hit_rate
for slots in range(STEP, trace.num_experts + 1, STEP):
    row = "".join(f"{curve.hit_rate[slots - 1]:>8.1%}" for curve in curves.values())
    more = f"{rates[slots + STEP - 1] - rates[slots - 1]:+.1%}" if slots + STEP <= len(rates) else ""
    print(f"{slots:>7} {slots * slot_bytes / 2**20:>6.0f} {row} {more:>12}")
for policy, curve in curves.items():
    print(f"knee of {policy}: {curve.capacities[curve.knee]} experts per layer, {curve.relative[curve.knee]:.1f}x")
