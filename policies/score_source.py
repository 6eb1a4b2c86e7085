"""The Python loops of a `CompiledScore`, written out for a class: only what its ``score`` and ``update`` look at.

An expert has fifteen numbers and the moment eleven. Keeping all of them up to date at every use took up to three times
as long as a class written by hand, which keeps two or three (benchmarks/NOTES.md). So these lines are put together once
for a class.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

MOMENT = {
    "step": "now.step = view.step",
    "layer": "now.layer = view.layer",
    "slots": "now.slots = view.slots",
    "age": "now.age = policy.last_evicted",
}
"""What is new in a layer-step, besides request, layer and loads."""

OF_REQUEST = {"request", "request_step", "layer_uses", "last_request", "uses_request"}
OF_LAYER = {"layer_runs", "layer_uses", "last_run"}
"""Fields that depend on which request, and which of the layer's runs it is."""

USED = {
    "last_step": "expert.last_step = view.step",
    "use_order": "expert.use_order = order",
    "uses": "expert.uses += 1",
    "uses_resident": "expert.uses_resident += 1",
    "uses_request": "expert.uses_request = expert.uses_request + 1 if expert.last_request == request else 1",
    "last_request": "expert.last_request = request",
    "last_run": "expert.last_run = run",
    "next_use": "if next_uses: expert.next_use = next_uses[place]",
    "weight": "if weights: expert.weight = weights[place]",
    "weight_mean": "if weights: expert.add_weight(weights[place])",
    "weight_ahead": "if weights: expert.weight_ahead = ahead[weights[place]]",
}
"""What a use changes of an expert, in this order."""

RANK = """entry = entries[key] = (score(expert, now{arguments}), {tie}, key)
before = queued.get(key)
if before is None or entry < before: put(key, entry)"""

SOURCE = """
def access(policy, batch, missed):
    now, view, experts = policy.now, policy.view, policy.experts
    policy._candidates_for = None
    {moment}
    if not batch:  # all missed, and none was loaded
        return
    if missed:
        policy._load(batch[0] // view.stride, missed)
    {layer}
    order, update, score = policy.uses, policy.update, policy._score
    {locals}
    for {place}key in {batch}:
        expert = experts[key]
        order += 1
        {used}
    policy.uses = now.uses = order
    {rest}


def scored(policy, protected, moments):
    now, score = policy.now, policy._score
    {values}
    return [
        (score(expert, {seen}{arguments}), {tie_now}, key)
        for key, expert in policy.residents.items()
        if key not in protected
    ]
"""


def write_loops(
    kind: Any, expert: Set[str], now: Set[str], checked: Callable[..., Any] | None
) -> tuple[Callable[..., None], Callable[..., list[tuple[float, int, int]]]]:
    """Return two functions for a class derived from `CompiledScore`.

    Args:
        kind: the class.
        expert: the fields of an expert that are looked at.
        now: the fields of the moment that are looked at.
        checked: ``checked(policy, key, value)`` returns what ``update`` returned, a number; None: it is one.

    Returns:
        ``access(policy, batch, missed)``, which brings experts up to date that are used and takes their scores where
        that is ``at_use``; and ``scored(policy, protected, moments)``: score, tie and key of all other residents.
    """
    names = [f"value{place}" for place in range(len(kind.params))]
    arguments = "".join(f", {name}" for name in names)
    tie = "-key" if kind.larger_key_first else "order"
    rank = RANK.format(arguments=arguments, tie=tie).split("\n") if kind.at_use else []
    after_all = kind.at_use and not now.isdisjoint({"uses", "layer_uses"})  # a score counts the whole batch
    used = [*_update(kind, now, arguments, checked), *_used(kind, expert, after_all), *([] if after_all else rank)]
    moment = [line for field, line in MOMENT.items() if field in now]
    if (expert | now) & OF_REQUEST:
        moment.append("if now.request != view.request: policy._begin_request()")
    of_layer = not (expert | now).isdisjoint(OF_LAYER)
    rest = ["now.layer_uses = policy._count_layer(batch)"] if of_layer else []
    if after_all:
        again = [line.replace("order", "expert.use_order") for line in rank]
        rest += ["for key in batch:", *(f"    {line}" for line in ("expert = experts[key]", *again))]
    values = f"{', '.join(names)}, = policy._values" if names else ""
    text = "\n".join([*used, *rest])
    known = {
        "entries, queued, put": "policy.ranked.entries()",
        "weights": "view.weights",
        "next_uses": "view.next_use",
        "request": "now.request",
        "ahead": "policy._ahead()",
    }
    place = "[place]" in text
    source = SOURCE.format(
        moment=_indent(moment),
        layer="run = policy._begin_layer_step(batch[0] // view.stride)" if of_layer else "",
        locals=_indent([values, *(f"{name} = {value}" for name, value in known.items() if name.split(",")[0] in text)]),
        place="place, " if place else "",
        batch="enumerate(batch)" if place else "batch",
        used=_indent(used, 8),
        rest=_indent(rest),
        values=values,
        seen="moments[expert.layer]" if not now.isdisjoint({"layer_runs", "layer_uses"}) else "now",
        arguments=arguments,
        tie_now="-key" if kind.larger_key_first else "expert.use_order",
    )
    made: dict[str, Any] = {"checked": checked}
    exec(source, made)
    return made["access"], made["scored"]


def _update(kind: Any, now: Set[str], arguments: str, checked: Callable[..., Any] | None) -> list[str]:
    if not kind.updates():
        return []
    value = f"update(expert, now, weights[place] if weights else 0.0{arguments})"
    if "weights" not in kind.needs | kind.wants:
        value = f"update(expert, now, 0.0{arguments})"
    if checked is not None:
        value = f"checked(policy, key, {value})"
    return [*(["now.uses = order"] if "uses" in now else []), f"expert.value = {value}"]


def _used(kind: Any, expert: Set[str], after_all: bool) -> list[str]:
    kept = set(expert)
    kept |= {"last_request"} if "uses_request" in kept else set()
    kept |= {"uses"} if "weight_mean" in kept else set()
    kept |= {"use_order"} if after_all or not kind.at_use else set()
    return [line for field, line in USED.items() if field in kept]


def _indent(lines: list[str], by: int = 4) -> str:
    return ("\n" + " " * by).join(line for line in lines if line)
