"""Names of parts as people and drivers write them: ``NVIDIA GeForce RTX 4090``, ``rtx4090``, ``M2 Ultra 192GB``.

One rule for all. A name is cut into words of letters and of digits; words that say nothing of the part (makers, brands,
"graphics") are left out; two names mean the same part when what remains is the same. Where it is the same for two parts
(RX 7600, Ryzen 7600), the words left out decide; where they do not, the name is refused with both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

WORDS = re.compile("[a-z]+|[0-9]+")
CUT = re.compile(
    r"\((?:r|tm|c|nvgpu)\)|[®™©]|@.*|\bwith\b.*|\bw/.*|\b[0-9]+-cores\b|\b[0-9]+-core(?= processor| cpu)"
    r"|\b[0-9]+(?:st|nd|rd|th) gen\b|(?<=ryzen[ -])[3579](?=[ -])"
    r"|\bmac(?:book)?[ -]?(?:pro|air|mini|studio)?\b(?=.*\bm[1-9])|\b(?:14|16)[ -]inch\b"
)
"""What a driver or a system adds to a name: marks, clocks, what is built in beside, the tier of a Ryzen; the case that
a chip of Apple's is in."""

SILENT = {
    "nvidia", "geforce", "rtx", "gtx", "tesla", "amd", "ati", "radeon", "rx", "instinct", "intel", "arc", "apple",
    "gpu", "graphics", "graphic", "card", "generation", "edition", "corporation", "inc", "blackwell", "workstation",
    "ryzen", "epyc", "xeon", "platinum", "gold", "silver", "core", "threadripper", "processor", "cpu",
}  # fmt: skip
"""Makers, brands, and what stands behind a name."""

SAME = {"mobile": "laptop", "notebook": "laptop", "gib": "gb"}


def words(name: str) -> list[str]:
    """Return the words of a name, in small letters."""
    return [SAME.get(word, word) for word in WORDS.findall(CUT.sub(" ", name.lower()))]


@lru_cache(maxsize=4096)  # all parts' names are asked for every name that is typed
def key(name: str) -> str:
    """Return what of a name tells the part; of one with nothing but silent words, all of it."""
    all_words = words(name)
    return "".join(word for word in all_words if word not in SILENT) or "".join(all_words)


def meant(given: str, parts: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the parts that a name may mean: one where it is clear, none where it is unknown.

    Args:
        given: the name as it was typed.
        parts: the other names of each part, by its own.
    """
    wanted = key(given)
    found = [name for name, others in parts.items() if any(wanted == key(one) for one in (name, *others))]
    if len(found) > 1:
        said = set(words(given))
        closer = [name for name in found if said <= {word for one in (name, *parts[name]) for word in words(one)}]
        found = closer or found
    return found


def close(given: str, parts: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the parts whose names have all words of a name that tell something, for people who wrote too little."""
    wanted = {word for word in words(given) if word not in SILENT} - {"gb"}
    return [name for name in parts if wanted and wanted <= set(words(name))]
