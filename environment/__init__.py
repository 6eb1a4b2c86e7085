"""Folders that compiled code and fonts are kept in, where neither the installation nor a home can be written."""

from lrcsim.environment.folders import for_compiled_code, for_fonts

__all__ = ["for_compiled_code", "for_fonts"]
