"""What `lrcsim run --route` adds to the output: how far the rule's choice is from the router's own."""

from __future__ import annotations

from typing import Any

from lrcsim.base.text import percent


def rule_text(route: dict[str, Any]) -> str:
    """Say what a routing rule did: ``route`` of the JSON of `lrcsim run`."""
    plain, router = route["without"], route["router"]
    told = f", {router['function']} assumed: the trace has no weights" if router["told_by"] == "assumed" else ""
    if route["agreement"] is None:
        return f"{route['rule']}: nothing was routed"
    lines = [
        f"{route['rule']}: {percent(route['agreement'])} of the experts are the router's own choice, "
        f"{percent(route['mass_kept'])} of its mass is kept, KL {route['kl_nats']:.4f} nats "
        f"({route['kl_nats_unmodified']:.4f} unmodified{told})",
        f"{route['loads_per_access']:.4f} loads per access of the router's choice, "
        f"{plain['loads_per_access']:.4f} without",
    ]
    return "\n".join(lines)
