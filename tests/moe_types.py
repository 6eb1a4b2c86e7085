"""The model types of the installed transformers that have experts: what is recorded and read is tested over all."""

from __future__ import annotations

import re
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

EXPERT_KEY = re.compile(r"(moe_)?(n|num)_(routed_|local_)?experts")

NO_DEFAULT = {"gemma4_assistant", "nougat"}
"""Types whose default config transformers itself refuses; none has MoE layers of its own."""


def moe_types() -> list[str]:
    """List the model types whose config, or a part of it, counts experts."""

    def counts(config: Any) -> bool:
        names = [*config.to_dict(), *type(config).attribute_map]
        parts = (getattr(config, name, None) for name in config.sub_configs)
        return any(map(EXPERT_KEY.fullmatch, names)) or any(
            counts(part) for part in parts if hasattr(part, "sub_configs")
        )

    found = []
    for kind in sorted(CONFIG_MAPPING.keys()):
        try:
            config = CONFIG_MAPPING[kind]()
        except Exception:
            assert kind in NO_DEFAULT, kind
            continue
        if counts(config):
            found.append(kind)
    return found
