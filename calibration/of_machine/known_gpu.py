"""Which built-in profile has a GPU, by the name that its driver gives it."""

from __future__ import annotations

import re

from lrcsim.hardware import HardwareProfile, load_profile

PROFILES = {
    r"A100-(SXM4|PCIE)-40GB": "a100-40gb",
    r"A100-SXM4-80GB": "a100-80gb",
    r"H100 80GB HBM3": "h100-sxm",
    r"H200( NVL)?": "h200",
    r"L40S": "l40s",
    r"GeForce RTX 3090": "rtx-3090",
    r"GeForce RTX 4060 Laptop GPU": "rtx-4060-laptop",
    r"GeForce RTX 4090": "rtx-4090",
    r"GeForce RTX 5090": "rtx-5090",
}
"""Names as CUDA's device properties have them, after "NVIDIA "; each as a whole, since what else begins so has other
memory (H100 PCIe and NVL, A100 80GB PCIe, RTX 4090 D and Laptop). The H200's was seen, the others were typed."""


def known_gpu(name: str) -> HardwareProfile | None:
    """Return the built-in profile with a GPU of this driver's name, or None."""
    short = name.removeprefix("NVIDIA ").strip()
    found = (profile for pattern, profile in PROFILES.items() if re.fullmatch(pattern, short))
    profile = next(found, None)
    return None if profile is None else load_profile(profile)
