"""Each policy on a trace short enough to solve by hand; the comment is the solution, the test the check.

One layer, one expert per token unless said otherwise, so that step t is the t-th letter. ``m`` is a miss, ``h`` a hit.
"""

from __future__ import annotations

import numpy as np
import pytest

from lrcsim.simulator import simulate
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace


def one_layer(text: str, weights: list[float] | None = None) -> RoutingTrace:
    experts = np.array([ord(letter) - ord("a") for letter in text]).reshape(-1, 1, 1)
    given = None if weights is None else np.array(weights).reshape(experts.shape)
    return RoutingTrace.from_arrays(experts, num_experts=26, weights=given)


def two_layers(text: str) -> RoutingTrace:
    """Two letters per token: the first for layer 0, the second for layer 1."""
    experts = np.array([[[ord(letter) - ord("a")] for letter in token] for token in text.split()])
    return RoutingTrace.from_arrays(experts, num_experts=26)


def outcome(trace: RoutingTrace, policy: str, capacity: int, **options: object) -> str:
    """Run a policy by whichever engine answers, and by its Python class; return what both say."""
    result = simulate(trace, policy, capacity, bounds=False, record=True, **options)  # type: ignore[arg-type]
    in_python = replay(Run.of(trace, policy=policy, cache=capacity, **options), record=True)
    assert result.counts.hit is not None
    assert in_python.hit is not None
    assert result.counts.hit.tolist() == in_python.hit.tolist()
    return "".join("h" if hit else "m" for hit in in_python.hit)


CASES = [
    # c evicts b (a was used later), b evicts c.
    ("lru", 2, "abacab", "mmhmhm"),
    # c evicts b, used last before it; b then evicts a.
    ("mru", 2, "abcabc", "mmmhmh"),
    # c evicts a, loaded first, although a was just used.
    ("fifo", 2, "abaca", "mmhmm"),
    # At c the hand passes a (used: spared once) and evicts b; at b a's chance is spent, a goes.
    ("clock", 2, "abacba", "mmhmmm"),
    # At d the hand spares a and evicts b, then rests on c; the next b evicts c there, so a is still resident.
    ("sieve", 3, "abcadba", "mmmhmmh"),
    # One protected slot: the hit moves a there; c and b replace each other on probation.
    ("slru:share=0.5", 2, "abacba", "mmhmmh"),
    # Half of 3 slots is one protected: when b moves there a comes back on probation, as the oldest, and d evicts it.
    ("slru:share=0.5", 3, "ababcda", "mmhhmmm"),
    # Two protected slots: a and b, then a again, so that c puts b back on probation. e evicts it; a is there.
    ("slru:share=0.5", 4, "abcabacdeab", "mmmhhhhmmhm"),
    # Small queue of 1, main of 2, ghost of 2. d evicts a into the ghost; a returns from the ghost into main, evicting
    # b from small; e evicts c from small; a is safe in main.
    ("s3-fifo:share=0.34", 3, "abcdaaea", "mmmmmhmh"),
    # The hit moves a to t2. c: t1 (1) is above its target 0, b goes to ghost b1. b: found in b1, target rises to 1,
    # t1 is not above it, so a leaves t2 for b2. a: found in b2, target falls to 0, c leaves t1. b is still in t2.
    ("arc", 2, "abacbab", "mmhmmmh"),
    # Kin is 1, Kout 2. e evicts a from A1in, which A1out remembers; a returns into Am, evicting b. Then f, g, h and i
    # each evict the oldest of A1in (c, d, e, f), and a is still there. LRU would have evicted a for i.
    ("2q", 4, "abcdeafghia", "mmmmmmmmmmh"),
    # The same, and b, which left A1out when c and d followed it, returns as a new expert, into A1in, and goes again.
    ("2q", 4, "abcdeafghiabjklmba", "mmmmmmmmmmhmmmmmmh"),
    # e, f and g evict a, b and c, of which A1out remembers the last two: a is new again and goes, b is in Am.
    ("2q", 4, "abcdefgahijka", "mmmmmmmmmmmmm"),
    ("2q", 4, "abcdefgbhijkb", "mmmmmmmmmmmmh"),
    # Four evicted, three (as many as slots) remembered: c is HIR again, and x evicts it; d is LIR, and stays.
    ("lirs", 3, "abcdefgcxc", "mmmmmmmmmm"),
    ("lirs", 3, "abcdefgdxd", "mmmmmmmmmh"),
    # Two LIR, a and b; c is HIR. d evicts c, which stays in the stack: a b (c) d. So c returns as LIR, evicting d, and
    # a, the bottom, becomes HIR and leaves the stack: b (d) c. b takes (d) from the bottom with it: c b. a is in the
    # queue, but not in the stack, so it stays HIR: c b a. d is forgotten and HIR, it evicts a. c and b are LIR.
    ("lirs", 3, "abcdcbadcb", "mmmmmhhmhh"),
    # With one slot there is no LIR.
    ("lirs", 1, "aabab", "mhmmm"),
    # c evicts b, used once. a hits, and b puts out c, used once. Now c is used the second time: last but one are a 2,
    # b 3 (kept from before its eviction), so a goes and b hits.
    ("lru-2", 2, "aabcabcb", "mhmmhmmh"),
    # Window 1, main 2, of which 1 protected. d: c (1 use) leaves the window and is held against a (2): c goes. a, then
    # b move into the protected segment, so that a is on probation again. e: d (1) against a (3), d goes; d: e goes. f:
    # d (4) against a (3), a goes; a: f (1) against d (4), f goes.
    ("w-tinylfu", 3, "aabbcdabedddfad", "mhmhmmhhmmhhmmh"),
    # The 6th use halves all counts: a 5 to 2, b 1 to 0. At d, c (1 use since) is above b and takes its place on
    # probation; with b's 1 use it would have gone.
    ("w-tinylfu:sample=2", 3, "aaaabacdc", "mhhhmhmmh"),
    ("w-tinylfu", 3, "aaaabacdc", "mhhhmhmmm"),
    # The third use halves all counts, and 3 uses to 1. So the fifth, d, halves them again: c (1 to 0) is as low as a.
    ("w-tinylfu:sample=1", 3, "abccdc", "mmmhmm"),
    # c: a and b have 2 uses each, a is the less recent and goes. a returns with 3 uses in all and evicts c (1); then c
    # (2) evicts b: b and a have 3 each, b is the less recent. So b misses at the end.
    ("lfu", 2, "aabbcbacb", "mhmhmhmmm"),
    # The same, but a returns with 1 use, so that c evicts it instead of b.
    ("lfu-resident", 2, "aabbcbacb", "mhmhmhmmh"),
    # At step 4: a is worth 1/4 + 1/8 + 1/16 = 0.4375, b 1/2: a goes, though used three times.
    ("lfu-decay:half_life=1", 2, "aaabca", "mhhmmm"),
    # At c, the 4th use: a is worth 0.5 ** 1 + 0.5 ** 1.5 = 0.854, b 0.5 ** 0.5 = 0.707: b goes.
    ("lrfu:0.5", 2, "aabca", "mhmmh"),
    # Here a is worth 0.25 + 0.125, b 0.5: a goes.
    ("lrfu:1", 2, "aabca", "mhmmm"),
    # a and b take the free slots. c passes by; a second time it is admitted and evicts a, the least recent.
    ("admit2+lru", 2, "abccba", "mmmmhm"),
    # Behind the admission c does not count for the order: still a, b.
    ("admit2+lru", 2, "abcdabc", "mmmmhhm"),
    # Two uses of c that are 3 apart are too far for a window of 2, not for one of 3: there c evicts b, so b misses.
    ("admit2:2+lru", 2, "abcabcab", "mmmhhmhh"),
    ("admit2:3+lru", 2, "abcabcab", "mmmhhmmm"),
    # Counts halve after accesses 3 and 6. At the 6th access a has 1.5 (3 halved), b 2: a goes.
    ("lfu-aging:interval=3,decay=0.5", 2, "aaabbcba", "mhhmhmhm"),
    # Keys: a 2, b 1; c evicts b, L = 1. c has key 1, d key L + 1 = 2: d evicts c. c returns with count 0 + 1, key 2;
    # a and d tie at 2, a is the less recent and goes.
    ("lfuda", 2, "aabcdca", "mhmmmmm"),
    # a: 3 uses, last at step 2. c at 4: a 3/3, b 1/2, b goes. b at 5: a 3/4, c 1/2. c at 6: a 3/5, b 1/2. b at 7: a
    # 3/6 and c 1/2 tie, a is the less recent and goes at last.
    ("lfru", 2, "aaabcbcba", "mhhmmmmmm"),
    # A quarter after 2 steps. c at 5: a 4 * 0.25 ** (2/2) = 1, b 0.25 ** (1/2) = 0.5, b goes. b at 6: a 4 * 0.25 **
    # (3/2) = 0.5 and c 0.5 tie, a goes.
    ("lcp:window=2", 2, "aaaabcba", "mhhhmmmm"),
    # m is half the last gap plus half the old m. a: gap 4, m = 2. c at 6: a is overdue by 6 - 4 - 2 = 0, b by 1: b
    # goes.
    # (b at 5: a -1, d 5 - 3 - 0.75 = 1.25: d goes.)
    ("least-stale-gap", 2, "adddabca", "mmhhhmmh"),
    # Frequency alone: a has 2 uses, b 1: c evicts b.
    ("hobbit:w1=0,w2=1,w3=0,w4=0", 2, "aabca", "mhmmh"),
    # Recency alone: c evicts a.
    ("hobbit:w1=1,w2=0,w3=0,w4=0", 2, "aabca", "mhmmm"),
    # At c: a 2/4 * 2/4, b 1/4 * 1/4: b goes.
    ("moe-infinity", 2, "aabca", "mhmmh"),
    # a has 2 uses in the last 4 accesses and stays, so c evicts b.
    ("dali:window=4,heavy=2", 2, "aabca", "mhmmh"),
    # a has more than 1 use, b not: c evicts b.
    ("heat:cold=1", 2, "aabca", "mhmmh"),
    # c: a is used again at 3, b at 4: b goes.
    ("belady", 2, "abcab", "mmmhm"),
    # One slot: b must replace a ...
    ("belady", 1, "aba", "mmm"),
    # ... unless b may run beside the cache.
    ("belady-bypass", 1, "aba", "mmh"),
    # c at step 2 sees steps 2..4: a twice, b never: b goes.
    ("sch-lookahead:3", 2, "abcaab", "mmmhhm"),
    # With a look-ahead of one it is LRU: a goes, and comes back for b.
    ("sch-lookahead:1", 2, "abcaab", "mmmmhm"),
    # a takes the slot. After 6 steps a has heat 1 and b 5: 5 is not more than 1 + 0 + 4, a stays, and both are halved
    # to 0 and 2. After 12 steps b has 2 + 4, a 0 + 2: 6 <= 2 + 0 + 4. After 18 steps b 3 + 6 = 9, a 1 + 0: b comes.
    ("repin:6", 1, "abbbbbaabbbbbbbbbbba", "mmmmmmhhmmmmmmmmmmhm"),
    # No pass before the 7th step: a has 2 + 2 // 4 + 4 = 6 to be exceeded, and b 7. Without swaps b never comes.
    ("repin:9", 1, "aabbbbbbbab", "mhmmmmmmmmh"),
    ("repin:9,swaps=0", 1, "aabbbbbbbab", "mhmmmmmmmhm"),
    # Windows aab and bba: a, then b, loaded free.
    ("sch-static:3", 1, "aabbba", "hhmhhm"),
]


@pytest.mark.parametrize(("policy", "capacity", "text", "expected"), CASES)
def test_one_layer(policy: str, capacity: int, text: str, expected: str) -> None:
    assert outcome(one_layer(text), policy, capacity) == expected


def test_mrs() -> None:
    # S halves at every step and gains half the weight. At c: a 0.45 / 4 = 0.1125, b 0.05 / 2 = 0.025: b goes.
    assert outcome(one_layer("abca", [0.9, 0.1, 0.5, 0.9]), "mrs", 2) == "mmmh"


def test_score_ema() -> None:
    # Averages: a 0.1, then 0.15; b 0.4. c evicts a, although b is the less recent.
    assert outcome(one_layer("abacb", [0.2, 0.8, 0.2, 0.5, 0.8]), "score-ema:alpha=0.5", 2) == "mmhmh"


def test_static() -> None:
    # The profile uses a twice, b once: a fills the one slot, b always bypasses.
    trace = one_layer("bab")
    assert outcome(trace, "static", 1, profile=one_layer("aab")) == "mhm"


def test_pinned_lru() -> None:
    # a is pinned in one slot of two; b and c replace each other in the other.
    trace = one_layer("bcba")
    assert outcome(trace, "pinned-lru", 2, profile=one_layer("aab")) == "mmmh"


def test_random_is_reproducible_and_differs_by_seed() -> None:
    text = "abcdefgh" * 8
    runs = {seed: outcome(one_layer(text), f"random:{seed}", 4) for seed in range(8)}
    assert runs[3] == outcome(one_layer(text), "random:3", 4)
    assert len(set(runs.values())) > 1


def test_least_stale_fifo_across_layers() -> None:
    # One pool of 3. In the third step b needs room: a, x, y are all stale (x = second letter of the first token), a
    # was loaded first and goes, so x hits. LRU would have put out x.
    assert outcome(two_layers("ax ay bx"), "least-stale-fifo", 3, scope="model") == "mmhmmh"


def test_least_stale_layer_across_layers() -> None:
    # One pool of 2. b puts out a (nothing passed yet: LRU). y, at layer 1, puts out b of layer 0, already passed. Then
    # b puts out x, the least recent, and y hits.
    assert outcome(two_layers("ax by by"), "least-stale-layer", 2, scope="model") == "mmmmmh"


def test_moe_infinity_prefers_layers_already_passed() -> None:
    # One pool of 3, two layers. Third token, layer 0: c needs room. a: topo 1, request share 1/3 (of a, a, c), visits
    # 2/5; x and y: topo 1 - 1/2, request share 1/2, visits 1/5. x and y tie, x is the less recent and goes.
    assert outcome(two_layers("ax ay cx"), "moe-infinity", 3, scope="model") == "mmhmmm"


def test_hobbit_counts_high_precision_uses() -> None:
    # Two experts per token, weights 0.7 and 0.3: the second has 0.7 > 0.6 of the weight before it, so only the first
    # counts as a high-precision use. Token ab, then cd at capacity 3: b (0 precise uses) goes, a stays.
    experts = np.array([[[0, 1]], [[2, 3]], [[0, 2]]])
    trace = RoutingTrace.from_arrays(experts, num_experts=4, weights=np.tile([0.7, 0.3], (3, 1, 1)))
    assert outcome(trace, "hobbit:w1=0,w2=0,w3=1,w4=0", 3) == "mmmmhh"
    assert outcome(trace, "hobbit:w1=0,w2=1,w3=0,w4=0", 3) == "mmmmmh"  # by count a and b tie, a is the less recent


def test_hobbit_layer_distance() -> None:
    # Weight on layer distance alone: with l_now = 0 and L = 2, layer 0 is worth 1 - 0/2, layer 1 is worth
    # 1 - ((0 - 1 + 2) mod 2) / 2 = 1/2, so b puts out x of layer 1 although a is the less recent.
    assert outcome(two_layers("ax bx"), "hobbit:w1=0,w2=0,w3=0,w4=1", 2, scope="model") == "mmmm"
    assert outcome(two_layers("ax bx"), "lru", 2, scope="model") == "mmmh"
