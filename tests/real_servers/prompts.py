"""What the servers of all kinds are asked: prompts for `lrcsim record`."""

from __future__ import annotations

from typing import Any

import numpy as np

Json = dict[str, Any]

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}]
SHORT = "A cache holds what was used last."
LONG = "The experts were many and the memory small. " * 3
"""Of more than a block of vLLM's cache on a CPU (128 tokens): asked for again, its beginning is there."""

TOO_LONG = "x" * 600
CODE = [102, 111, 114, 32, 105, 32, 105, 110, 32, 114, 97, 110, 103, 101]

PROMPTS: dict[str, tuple[list[Json], list[str]]] = {
    "record-three-kinds": (
        [
            {"prompt": SHORT, "domain": "prose"},
            {"token_ids": CODE, "domain": "code"},
            {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "domain": "prose"},
        ],
        ["--max-new-tokens", "6", "--batch", "2"],
    ),
    "record-chat": ([{"prompt": SHORT}, {"prompt": "why?"}], ["--max-new-tokens", "4", "--chat", "--temperature", "0"]),
    "record-refused": (
        [{"prompt": "hello"}, {"prompt": TOO_LONG}, {"prompt": "there"}],
        ["--max-new-tokens", "4", "--batch", "3"],
    ),
    "record-cached": ([{"prompt": LONG}, {"prompt": LONG + "And then?"}], ["--max-new-tokens", "4"]),
}
"""By name: the lines of a file of prompts, and options of `lrcsim record`."""


def many(requests: int) -> list[Json]:
    """Give random prompts of 8 to 71 tokens, some of which share their beginning."""
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (8, 8)).tolist()
    lengths = random.integers(0, 64, requests).tolist()
    return [{"token_ids": first[at % 8] + random.integers(0, 256, size).tolist()} for at, size in enumerate(lengths)]
