"""mkdocs hook: every policy and prefetcher, from the classes themselves."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

HEADS = {
    "policies.md": """# Policies

Every built-in eviction policy: what it evicts, its parameters, what it needs, and where the rule comes from. The
same in a terminal: `lrcsim policies NAME`. How they rank among each other depends on the trace; `lrcsim run` puts LRU
and the optimum beside each. Where a rule names a *batch*, it is the distinct experts of one layer-step
([when is an access a hit?](accounting.md)). What a policy *needs* must be in the trace or be given (`--profile`); what
it *uses* it does without where it is missing. Your own: [a policy in 20 lines](index.md#your-own-policy).
""",
    "prefetchers.md": """# Prefetchers

What `lrcsim run --hardware ... --prefetch NAME` brings ahead of its use. What comes of it (useful, late, wasted) and
how to write your own: [time on a memory hierarchy](hierarchy.md#prefetchers-prefetch).
""",
}


def text_of(described: object) -> str:
    """Return a docstring as Markdown: single backquotes for code."""
    return inspect.cleandoc(getattr(described, "__doc__", None) or "").replace("``", "`")


def allowed(low: float | None, high: float | None) -> str:
    """Return the range of a parameter in words."""
    if low is None:
        return "" if high is None else f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


def entry(chosen: Any, level: str) -> str:
    """Return the description of one policy or prefetcher."""
    lines = [f"{level} {chosen.name}", "", text_of(chosen), ""]
    if chosen.params:
        lines += ["| parameter | default | allowed | |", "|---|---|---|---|"]
        lines += [
            f"| `{param.name}` | {param.default} | {allowed(param.minimum, param.maximum)} | {param.help} |"
            for param in chosen.params
        ]
        lines.append("")
    facts = []
    if getattr(chosen, "aliases", ()):
        facts.append("Also called " + ", ".join(f"`{alias}`" for alias in chosen.aliases) + ".")
    if chosen.needs:
        facts.append("Needs " + ", ".join(sorted(chosen.needs)) + ".")
    if getattr(chosen, "wants", ()):
        facts.append("Uses " + ", ".join(sorted(chosen.wants)) + ".")
    if getattr(chosen, "bypass", False):
        facts.append("May bypass: misses can run from a staging buffer.")
    if chosen.source:
        facts.append(f"Source: {chosen.source}.")
    return "\n".join([*lines, " ".join(facts), ""])


def policies() -> str:
    """Return the page of policies."""
    from lrcsim.policies import FAMILIES

    parts = [HEADS["policies.md"]]
    for family, members in FAMILIES.items():
        module = importlib.import_module(f"lrcsim.policies.{family}")
        parts += [f"## {family}\n", text_of(module), ""]
        parts += [entry(policy, "###") for policy in members]
    return "\n".join(parts)


def prefetchers() -> str:
    """Return the page of prefetchers."""
    from lrcsim.simulator.setup.prefetchers import PREFETCHERS

    return "\n".join([HEADS["prefetchers.md"], *(entry(chosen, "##") for chosen in PREFETCHERS.values())])


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "policies.md", content=policies()))
    files.append(File.generated(config, "prefetchers.md", content=prefetchers()))
    return files
