"""Imported for its effect by the packages that use numba, first of all: a place for what it compiles."""

from lrcsim.base.folders import for_compiled_code

for_compiled_code()
