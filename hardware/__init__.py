"""Hardware profiles: machines as data files, checked, with a source for each number."""

from lrcsim.base.units import format_quantity, parse_quantity
from lrcsim.hardware.components import component_names
from lrcsim.hardware.load import load_profile, machine_names, profile_names, read_toml, to_toml
from lrcsim.hardware.profile import Cpu, Dram, Gpu, HardwareProfile, Link

__all__ = [
    "Cpu",
    "Dram",
    "Gpu",
    "HardwareProfile",
    "Link",
    "component_names",
    "format_quantity",
    "load_profile",
    "machine_names",
    "parse_quantity",
    "profile_names",
    "read_toml",
    "to_toml",
]
