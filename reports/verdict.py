"""The answer in words: how good, how far from the best possible, whose fault, what binds."""

from __future__ import annotations

from typing import Any

from lrcsim.base.text import capacity_text, human_bytes, percent
from lrcsim.reports.blocks import KeyNumber

NO_LINKS = ("gpu", "cpu", "cpu (missed experts)", "overhead")
"""What may bind a run besides its links."""
SPENT = {"compute": "computing", "stall": "waiting for experts", "overhead": "synchronisation and bookkeeping"}


def run_name(run: dict[str, Any]) -> str:
    """Return what a run is called: its policy, cache and, if it has one, machine."""
    config = run["config"]
    machine = f" on {config['hardware']}" if "hardware" in config else ""
    return f"{config['policy']}, cache {cache_text(config['cache'])}{machine}"


def cache_text(cache: Any) -> str:
    """Return a cache size as it was asked for."""
    return ",".join(str(size) for size in cache) if isinstance(cache, list) else str(cache)


def best_of(run: dict[str, Any]) -> dict[str, Any] | None:
    """Return the optimum's bound that a run is to be compared with, None where it has none."""
    bounds = run["bounds"]
    found: dict[str, Any] | None = bounds.get("belady_bypass") or bounds.get("belady")
    return found


def policys_share(run: dict[str, Any]) -> float | None:
    """Return which share of the misses the optimum avoids; None without misses, or where it has no more hits."""
    best, mine = best_of(run), run["cache"]["hit_rate"]
    if best is None or mine is None or mine >= 1 or best["hit_rate"] < mine:
        return None
    return float((best["hit_rate"] - mine) / (1 - mine))


def token_shares(time: dict[str, Any]) -> dict[str, float]:
    """Return what a decoded token's time goes to (of all time, where decode is not told apart), largest first."""
    decode = time.get("decode")
    seconds = {name: (decode or time)[f"{name}_s"] for name in SPENT}
    total = sum(seconds.values()) or 1.0
    return {name: spent / total for name, spent in sorted(seconds.items(), key=lambda item: -item[1])}


def answer_of(run: dict[str, Any]) -> list[str]:
    """Return the answer in sentences.

    Args:
        run: JSON of ``lrcsim run``.
    """
    return [_hits(run), *_whose_fault(run), *_time(run)]


def _hits(run: dict[str, Any]) -> str:
    config, cache, best = run["config"], run["cache"], best_of(run)
    if cache["hit_rate"] is None:
        return "The trace has no recorded access, so there is no hit rate."
    lru = run["baseline"]["lru"]
    both = run["trace"].get("has_phases") and cache["prefill"]["accesses"] and cache["decode"]["accesses"]
    of, key = ("decode needs", "decode_hit_rate") if both else ("are needed", "hit_rate")
    mine = cache["decode"]["hit_rate"] if both else cache["hit_rate"]
    everything = f" ({percent(cache['hit_rate'])} with prefill)" if both else ""
    text = (
        f"{config['policy']} with a cache of {cache_text(config['cache'])} ({capacity_text(config)}) has "
        f"{percent(mine)} of the experts that {of} in the cache{everything}."
    )
    others = [("LRU", lru[key])] if lru is not None and config["policy"] != "lru" else []
    if best is not None and not config["policy"].startswith("belady"):
        others.append((_words(best, both=bool(both)), best[key]))
    known = [f"{name} has {percent(value)}" for name, value in others if value is not None]
    return f"{text} {'; '.join(known)[:1].upper()}{'; '.join(known)[1:]}." if known else text


def _words(best: dict[str, Any], both: bool = False) -> str:
    """Return what to call a bound by farthest next use; ``both``: where its hit rate in decode alone follows."""
    if not best["proven"] and best.get("kind", "heuristic") == "heuristic":
        return "farthest next use, the best heuristic known,"
    if not best["proven"]:
        return f"the {best['kind']}"
    return "the optimum of prefill and decode together" if both else "the optimum"


def _whose_fault(run: dict[str, Any]) -> list[str]:
    share, misses, best = policys_share(run), run["cache"]["misses"], best_of(run)
    if best is None:
        return []
    if share is None:
        if run["cache"]["hit_rate"] in (None, 1):
            return []
        return ["Experts brought ahead of their use count as hits, so the hit rate exceeds what on-demand loading can."]
    who = "farthest next use" if best.get("kind", "heuristic") == "heuristic" and not best["proven"] else _words(best)
    who += ", which knows the future,"
    if share < 0.005:
        return [f"Nearly all of its {misses:,} misses are the working set's: {who} has them too."]
    mine, upper = run["cache"]["hit_rate"], run["bounds"].get("upper")
    most = share if upper is None else max(share, (upper["hit_rate"] - mine) / (1 - mine))
    verdict = "mostly the policy" if share >= 0.5 else "mostly the working set"
    if share < 0.5 <= most:
        verdict = "the policy and the working set alike"
    bound = "" if upper is None else f", and no policy more than {percent(most, 0)}"
    return [
        f"It is {verdict}: {who} avoids {percent(share, 0)} of the {misses:,} misses{bound}; the other "
        f"{percent(1 - most, 0)} only a larger cache, or fewer different experts, could."
    ]


def _time(run: dict[str, Any]) -> list[str]:
    time = run.get("time")
    if time is None or time["decode_tokens_per_s"] is None:
        return []
    bound, words = _ceiling(time)
    text = f"On {run['config']['hardware']} that makes {speed(time['decode_tokens_per_s'])} in decode"
    if bound is not None:
        text += f"; {words} would give {speed(bound['decode_tokens_per_s'])}, {bound['decode_ratio']:.2f} times as many"
        text += ", at most" if bound.get("proven") else ""
    shares = token_shares(time)
    most = next(iter(shares))
    spent = ", ".join(f"{percent(share, 0)} {SPENT[name]}" for name, share in shares.items())
    of = "a token's time" if "decode" in time else "the time of prefill and decode"
    return [f"{text}.", f"Of {of}, {spent}. {_binds(most, time)}"]


def _ceiling(time: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    bounds = time.get("bounds", {})
    for name in ("optimum", "compute_only"):
        bound = bounds.get(name)
        if bound is not None and bound["decode_tokens_per_s"] is not None:
            if name == "compute_only":
                return bound, "every expert computed without waiting"
            who = "the optimal policy" if bound["proven"] else "farthest next use (a heuristic)"
            if not bound.get("reachable", True):
                who = "the fewest bytes of any policy"
            return bound, f"{who} with perfect prefetching"
    return None, ""


def _binds(most: str, time: dict[str, Any]) -> str:
    if most == "stall":
        link = time.get("binds", {}).get("resource")
        busy = time.get("binds", {}).get("busy")
        known = isinstance(link, str) and link not in NO_LINKS
        name = f" ({link} is busy {percent(busy, 0)} of the time)" if known else ""
        return f"Loading experts binds{name}: more hits, or loads that come ahead, make it faster."
    gain, resident = "", time.get("all_resident") or time.get("bounds", {}).get("compute_only")
    if resident is not None and resident["decode_ratio"] is not None:
        gain = f"; with every expert resident it would be {resident['decode_ratio']:.2f} times as fast"
    return f"{SPENT[most].capitalize()} binds, not loading{gain}."


def speed(tokens_per_s: float) -> str:
    """Write a speed in three or more digits."""
    return f"{tokens_per_s:,.0f} tokens/s" if tokens_per_s >= 100 else f"{tokens_per_s:,.3g} tokens/s"


def numbers_of(run: dict[str, Any]) -> list[KeyNumber]:
    """Return the numbers worth large type."""
    cache, best, share = run["cache"], best_of(run), policys_share(run)
    found = [KeyNumber("hit rate", percent(cache["hit_rate"]), f"of {cache['accesses']:,} accesses")]
    if best is not None:
        kind = "optimum" if best["proven"] else best.get("kind", "heuristic").replace("heuristic", "best heuristic")
        found.append(KeyNumber(kind, percent(best["hit_rate"]), "eviction that knows the future"))
    if share is not None:
        found.append(KeyNumber("misses a better policy could avoid", f"{percent(share, 0)}", "at most; same cache"))
    time = run.get("time")
    if time is not None and time["decode_tokens_per_s"] is not None:
        bound, words = _ceiling(time)
        most = "" if bound is None else f"{bound['decode_tokens_per_s']:,.0f} at most with {words}"
        found.append(KeyNumber("decode", speed(time["decode_tokens_per_s"]), most))
    elif cache["decode"].get("bytes_per_token") is not None:
        found.append(KeyNumber("loaded per decoded token", human_bytes(cache["decode"]["bytes_per_token"])))
    return found
